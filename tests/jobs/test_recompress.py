"""`recompress`: a file as a direct ingest with the other codec makes it, from the file alone."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - lets h5py read what its filters have written
import numpy as np
import pytest
from helpers.faults import differences
from helpers.layout_runs import CHUNK_BYTES, extent_chunks, ingest_on
from helpers.oracle import Kind, encode
from helpers.scales import plain
from helpers.support import (
    FLAVOURS,
    WHEELS,
    Meddler,
    explain,
    make_pixels,
    read_file,
    soon,
    write_images,
    write_manifest,
)
from helpers.threads import on_ranks

from h5ingest.cli import app
from h5ingest.core.errors import (
    IngestError,
    OutputError,
    SamplesFailedError,
    StoppedError,
    UsageError,
    agreed,
)
from h5ingest.core.options import IngestOptions
from h5ingest.inspect.verify import verify
from h5ingest.pipeline.report import IngestReport
from h5ingest.pipeline.run import ingest, recompress

WAYS: dict[str, dict[str, Any]] = {
    "stack": {"layout": "stack", "chunk_rows": 3},
    "padded": {"layout": "stack", "fit": "pad", "pad_value": 7},
    "indices": {"layout": "stack", "fit": "pad", "samples": "raw"},
    "ragged": {"layout": "ragged", "dtype": "uint16"},
    "tree": {"layout": "tree"},
    "tree of indices": {"layout": "tree", "samples": "raw"},
}
"""What the file is like."""
BOTH = [
    (way, grouped) for way in WAYS for grouped in ((False,) if "indices" in way else (False, True))
]
"""Ways, each without groups, most of them with groups too."""


def recompress_on(n_ranks: int, path: Path, out: Path, options: IngestOptions) -> IngestReport:
    """On ranks that are threads."""
    return on_ranks(n_ranks, lambda comm: recompress(path, out, options, comm))[0]


CODECS: dict[str, dict[str, Any]] = {
    "none": {"compression": "none"},
    "zstd": {"compression": "zstd:3"},
    "shuffle": {"compression": "gzip:1", "shuffle": True},
    "htj2k": {"compression": "htj2k", "chunk_rows": None},
}
CHAIN = ("none", "zstd", "htj2k", "shuffle", "none")


def write_sources(folder: Path) -> dict[str, Path]:
    """Three kinds of 40 images in three groups, some of which fail; odd names, columns, labels."""
    made = {}
    for kind in ("equal", "mixed", "palette"):
        labels = ("ant", "caf\udce9", "paths") if kind == "palette" else ("01", "2", "3")
        rows: list[tuple[object, ...]] = [("path", "label", "split", "age", "code", "note")]
        for row in range(40):
            height, width = (8, 9) if kind == "equal" else (1 + row * 5 % 17, 1 + row * 11 % 23)
            colour = "palette" if kind == "palette" else "rgb"
            colour = "gray" if kind == "mixed" and row % 3 == 0 else colour
            data = encode(Kind(colour=colour, depth=8), height, width, row).data
            if row in (0, 17, 39):
                data = b"no image"
            elif row in (5, 21):  # its header is good
                data = data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
            name = f"{kind}/{row}/im\udcff_{row % 7}.png"
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_bytes(data)
            rows.append(
                (name, labels[row % 3], ("tr", "a/b", "..")[row // 2 % 3],
                 row / 4 if row % 5 else "", f"00{row}", ("x", "plain", "caf\udce9")[row % 3])
            )  # fmt: skip
        made[kind] = write_manifest(folder / f"{kind}.csv", rows)
    return made


Made = dict[tuple[str, bool, str], Path]
"""Way, whether in groups, codec -> a file that was ingested so."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What ingests make; their sources are gone."""
    sources, files = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("made")
    manifests, found = write_sources(sources), Made()
    with extent_chunks(CHUNK_BYTES):
        for (way, grouped), codec in itertools.product(BOTH, CODECS):
            if way == "ragged" and codec == "htj2k":
                continue
            out = files / f"{way}-{grouped}-{codec}.h5"
            kind = "palette" if "indices" in way else "equal" if way == "stack" else "mixed"
            group_by = {"group_by": "split"} if grouped else {}
            every = {**WAYS[way], **group_by, **CODECS[codec], "on_error": "blank"}
            ingest_on(1 + len(found) % 2, manifests[kind], out, IngestOptions(**every))
            found[way, grouped, codec] = out
    shutil.rmtree(sources)
    return found


def forms(path: Path) -> dict[str, tuple[Any, ...]]:
    """Of every object but the root group: its attributes, how it is cut and filtered."""
    found: dict[str, tuple[Any, ...]] = {}

    def keep(name: str, node: Any) -> None:
        creation: tuple[Any, ...] = ()
        if isinstance(node, h5py.Dataset):
            plist = node.id.get_create_plist()
            filters = [plist.get_filter(k)[:3] for k in range(plist.get_nfilters())]
            creation = (node.dtype, node.chunks, filters)
        attributes = {key: plain(file, key, value) for key, value in node.attrs.items()}
        found[name] = (attributes, creation)

    with h5py.File(path) as file:
        file.visititems(keep)
    return found


def assert_same(found: Path, wanted: Path) -> None:
    """By plain h5py, and by `verify`."""
    assert differences(wanted, found) == []
    assert forms(found) == forms(wanted)
    assert verify(found).ok


# --- what is made -------------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "grouped"), soon(BOTH[::3], BOTH))
def test_a_file_becomes_what_an_ingest_with_that_codec_makes(
    way: str, grouped: bool, made: Made, tmp_path: Path
) -> None:
    """From codec to codec and back, on one to three ranks; the sources are gone."""
    chain = [codec for codec in CHAIN if (way, grouped, codec) in made]
    before = made[way, grouped, chain[0]]
    chunk_rows = WAYS[way].get("chunk_rows")
    for n_done, codec in enumerate(chain[1:]):
        out = tmp_path / f"{n_done}.h5"
        options = IngestOptions(**{"chunk_rows": chunk_rows, **CODECS[codec], "batch_bytes": 700})
        with extent_chunks(CHUNK_BYTES):
            report = recompress_on(1 + (n_done + len(way)) % 3, before, out, options)
        assert_same(out, made[way, grouped, codec])
        with h5py.File(out) as file:
            assert report.content_digest == file.attrs["content_digest"]
        assert (report.n_samples, report.failures, report.recompressed) == (40, (), True)
        assert report.warnings[0].startswith("5 images had failed when ")
        before = out


def test_ranks_and_launchers_make_the_same(made: Made, tmp_path: Path) -> None:
    """Real ranks of all MPIs; small chunks, as the ranks' images of `ragged` are then shared."""
    chosen = ("stack", "ragged", "tree")
    for flavour, n_ranks in ((FLAVOURS["mpich"], 3), (FLAVOURS["openmpi"], 2), (WHEELS, 2)):
        folder = tmp_path / flavour.name
        folder.mkdir()
        jobs: list[list[str | Path]] = [
            ["recompress", made[way, True, "none"], folder / f"{way}.h5", "--compression", "zstd:3",
             "--progress", "off", "--batch-bytes", "700", *["--chunk", "3"] * (way == "stack")]
            for way in chosen
        ]  # fmt: skip
        told = flavour.checked().run_many(
            n_ranks, jobs, folder / "told", small_chunks=True, timeout_s=120
        )
        for way, completed in zip(chosen, told, strict=True):
            assert completed.returncode == 0, explain(completed)
            assert_same(folder / f"{way}.h5", made[way, True, "zstd"])
            with h5py.File(folder / f"{way}.h5") as file:
                assert " recompress " in file.attrs["command"]
                assert json.loads(file.attrs["job"])["ranks"] == n_ranks


# --- what is refused ----------------------------------------------------------------------------


@pytest.fixture
def simple(tmp_path: Path) -> Path:
    """A stack of twelve images, three in a chunk, with labels and a column, without sources."""
    names = write_images(tmp_path / "images", make_pixels(12, (6, 5)))
    rows = [(f"images/{name}", i % 2, i) for i, name in enumerate(names)]
    manifest = write_manifest(tmp_path / "m.csv", [("path", "label", "age"), *rows])
    ingest(manifest, tmp_path / "in.h5", IngestOptions(chunk_rows=3))
    shutil.rmtree(tmp_path / "images")
    manifest.unlink()
    return tmp_path / "in.h5"


ZSTD = IngestOptions(compression="zstd:3", chunk_rows=3)


def beside(out: Path) -> set[str]:
    """Endings of what is there under the name of an output."""
    return {file.name.removeprefix(out.name) for file in out.parent.glob(f"{out.name}*")}


def assert_refused(
    path: Path, kind: type[IngestError], said: str, options: IngestOptions = ZSTD
) -> None:
    """By one rank, by two who agree, and nothing has a name."""
    before = path.read_bytes()
    for n_ranks in (1, 2):
        out = path.with_name(f"refused{n_ranks}.h5")
        with pytest.raises(kind, match=said) as refused:
            recompress_on(n_ranks, path, out, options)
        assert refused.value.agreed
        assert "" not in beside(out)
    assert path.read_bytes() == before


def test_what_is_no_finished_file_of_pixels_is_refused(tmp_path: Path, simple: Path) -> None:
    assert_refused(tmp_path / "in.h5", UsageError, "no such codec", IngestOptions(compression="no"))
    assert_refused(
        tmp_path / "in.h5", UsageError, "name a codec", IngestOptions(compression="auto")
    )
    text = tmp_path / "text.h5"
    text.write_text("a.png")
    assert_refused(text, OutputError, "not an HDF5 file")
    with pytest.raises(OutputError, match="No such file"):
        recompress(tmp_path / "none.h5", tmp_path / "out.h5", ZSTD)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.zeros((3, 4), np.uint8)
    assert_refused(tmp_path / "other.h5", OutputError, "not one of h5ingest")
    with h5py.File(simple, "r+") as file:
        file.attrs["status"] = "under way"
    assert_refused(simple, OutputError, "expected a complete file of h5ingest")


def test_image_files_are_not_recompressed(tmp_path: Path) -> None:
    names = write_images(tmp_path, make_pixels(3, (6, 5)))
    manifest = write_manifest(tmp_path / "m.txt", names)
    ingest(manifest, tmp_path / "in.h5", IngestOptions(layout="encoded"))
    assert_refused(tmp_path / "in.h5", UsageError, r"\(--layout encoded\), which are compressed")


def test_what_a_codec_does_not_take_is_refused(tmp_path: Path) -> None:
    names = write_images(tmp_path, [make_pixels(1, (6, 5, 4))[0]] * 3)
    manifest = write_manifest(tmp_path / "m.txt", names)
    htj2k = IngestOptions(compression="htj2k")
    for layout, said in (
        ("stack", "takes gray and RGB images only; the images are RGBA"),
        ("tree", "images of this rank are not, the first is 0000.png with 4"),
        ("ragged", "codes each image by itself"),
    ):
        ingest(manifest, tmp_path / f"{layout}.h5", IngestOptions(layout=layout))
        assert_refused(tmp_path / f"{layout}.h5", UsageError, said, htj2k)
    assert_refused(
        tmp_path / "tree.h5", UsageError, "--chunk is for --layout stack only, got tree", ZSTD
    )


def test_no_file_is_replaced_that_should_not_be(simple: Path, tmp_path: Path) -> None:
    same, out = tmp_path / "same.h5", tmp_path / "out.h5"
    os.link(simple, same)
    before = simple.read_bytes()
    overwriting = replace(ZSTD, overwrite=True)
    for name in (simple, same):
        with pytest.raises(UsageError, match="is the same file as IN"):
            recompress(simple, name, overwriting)
    out.write_bytes(before)
    with pytest.raises(OutputError, match="exists already; --overwrite replaces it"):
        recompress(simple, out, ZSTD)
    assert out.read_bytes() == simple.read_bytes() == same.read_bytes() == before
    recompress(simple, out, overwriting)
    with h5py.File(out) as file:
        assert file["images"].chunks == (3, 6, 5)
        assert file["images"].id.get_create_plist().get_nfilters() == 1


def test_the_command_asks_for_a_codec(
    simple: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.parse(["recompress", str(simple), str(tmp_path / "out.h5")], 1) == 2
    assert "--compression is required: a codec, or none" in capsys.readouterr().err


def test_an_option_that_would_do_nothing_is_refused(simple: Path) -> None:
    for idle in ({"channels": "rgb"}, {"layout": "tree", "chunk_rows": None}, {"max_pixels": 9}):
        assert_refused(
            simple, UsageError, r"cannot apply: what is in .*in.h5", replace(ZSTD, **idle)
        )


# --- a file that is not what it was -------------------------------------------------------------


def flip(path: Path, name: str, row: int = 4) -> None:
    """Change a bit of a dataset: of a row, or of the chunk that holds it."""
    with h5py.File(path) as file:
        dataset = file[name]
        if dataset.chunks is None:
            at = dataset.id.get_offset() + dataset[:1].nbytes * row
        else:
            first = row // dataset.chunks[0] * dataset.chunks[0]
            at = dataset.id.get_chunk_info_by_coord((first, 0, 0)).byte_offset
            if not dataset.id.get_create_plist().get_nfilters():
                at += dataset[:1].nbytes * (row - first)
    data = bytearray(path.read_bytes())
    data[at + 3] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_a_damaged_image_is_named_and_never_passed_on(
    n_ranks: int, simple: Path, tmp_path: Path
) -> None:
    flip(simple, "images")
    out = tmp_path / "out.h5"
    with pytest.raises(SamplesFailedError, match="1 of 12 images failed, nothing is") as caught:
        recompress_on(n_ranks, simple, out, ZSTD)
    assert re.search(r"sample 4: images/0004.png: row 4: expected checksum", str(caught.value))
    assert "--on-error blank" in str(caught.value)
    assert beside(out) == {".partial", ".journal", ".failed.tsv"}
    report = recompress_on(n_ranks, simple, out, replace(ZSTD, on_error="blank"))
    assert [(f.index, f.kind) for f in report.failures] == [(4, "damaged")]
    assert beside(out) == {"", ".failed.tsv"}
    assert verify(out).ok
    found, before = read_file(out), read_file(simple)
    assert found.arrays["status"].tolist() == [1] * 4 + [2] + [1] * 7
    assert not found.arrays["images"][4].any()
    kept = np.arange(12) != 4
    np.testing.assert_array_equal(found.arrays["images"][kept], before.arrays["images"][kept])
    assert json.loads(found.attrs["options"])["on_error"] == "blank"
    assert found.attrs["content_digest"] != before.attrs["content_digest"]


def test_the_images_of_a_damaged_chunk_are_named(simple: Path, tmp_path: Path) -> None:
    packed, out = tmp_path / "packed.h5", tmp_path / "out.h5"
    recompress(simple, packed, ZSTD)
    flip(packed, "images")
    with pytest.raises(SamplesFailedError, match="3 of 12 images failed") as caught:
        recompress(packed, out, IngestOptions(compression="none"))
    assert {failure.index for failure in caught.value.failures} == {3, 4, 5}
    for failure in caught.value.failures:
        assert failure.reason.startswith(f"row {failure.index}: /images: chunk 1 (images 3 to 5)")
        assert "ImageStore" not in failure.reason


@pytest.mark.parametrize("name", ["labels", "columns/age"])
def test_nothing_is_published_of_a_file_whose_numbers_were_changed(name: str, simple: Path) -> None:
    flip(simple, name)
    assert_refused(simple, OutputError, "expected the content digest .* labels, paths or columns")


def test_changed_attributes_are_refused(simple: Path) -> None:
    with h5py.File(simple, "r+") as file:
        file.attrs["manifest_name"] = "n.csv"
    assert_refused(simple, OutputError, "its attributes were changed since it was made")


def test_what_is_not_of_h5ingest_is_left_out_and_named(simple: Path, tmp_path: Path) -> None:
    with h5py.File(simple, "r+") as file:
        file["mine"] = [1]
        file.attrs["licence"] = "CC0"
    report = recompress(simple, tmp_path / "out.h5", ZSTD)
    assert report.warnings == ("left out, as they are not of h5ingest: /mine, /@licence",)
    assert verify(tmp_path / "out.h5").ok


def make_old(path: Path) -> None:
    """Make it a file of version 1 of the format: without checksums of chunks, and of attributes."""
    with h5py.File(path, "r+") as file:
        layout = str(file.attrs["schema"]).split()[1]
        file.attrs["schema"] = f"h5ingest {layout} 1"
        del file.attrs["attributes_digest"]
        if "chunk_checksums" in file and "chunking" in file["chunk_checksums"].attrs:
            del file["chunk_checksums"]


@pytest.mark.parametrize("way", ["stack", "ragged", "tree"])
def test_a_file_of_version_1_becomes_one_of_version_2(way: str, made: Made, tmp_path: Path) -> None:
    old, out = tmp_path / "old.h5", tmp_path / "out.h5"
    shutil.copy(made[way, False, "zstd"], old)
    make_old(old)
    options = {**CODECS["shuffle"], "chunk_rows": WAYS[way].get("chunk_rows")}
    with extent_chunks(CHUNK_BYTES):
        recompress(old, out, IngestOptions(**options))
    assert_same(out, made[way, False, "shuffle"])


def test_an_image_of_a_name_that_the_format_has_taken_is_refused(tmp_path: Path) -> None:
    names = [f"{name}.png" for name in ("a", "chunk_checksum")]
    for name, pixels in zip(names, make_pixels(2, (6, 5)), strict=True):
        shutil.move(tmp_path / write_images(tmp_path, [pixels])[0], tmp_path / name)
    old = tmp_path / "old.h5"
    ingest(write_manifest(tmp_path / "m.txt", names), old, IngestOptions(layout="tree"))
    make_old(old)
    with h5py.File(old, "r+") as file:
        file.move("chunk_checksum", "chunk_checksums")
        names_of = file["datasets"]
        names_of[1] = "/chunk_checksums"
    assert_refused(
        old, OutputError, "/chunk_checksums has a name that the format has taken",
        IngestOptions(compression="zstd:3"),
    )  # fmt: skip


def test_a_dataset_that_two_rows_name_is_refused(tmp_path: Path) -> None:
    names, path = write_images(tmp_path, make_pixels(4, (6, 5))), tmp_path / "in.h5"
    ingest(write_manifest(tmp_path / "m.txt", names), path, IngestOptions(layout="tree"))
    zstd = IngestOptions(compression="zstd:3")
    for wrong, said in (
        ("/0000", "expected names of one image each, found /0000 twice"),
        ("0003", "/datasets, row 3: expected the path of an image in this group, found b'0003'"),
        ("/a/b/c", "/datasets, row 3: expected the path of an image in this group"),
        ("/0009", "/0009 is missing"),
    ):
        with h5py.File(path, "r+") as file:
            file["datasets"][3] = wrong
        assert_refused(path, OutputError, said, zstd)


# --- a file that changes, a job that goes on ------------------------------------------------------


def touch(path: Path) -> None:
    """Change its time, as any change does."""
    os.utime(path, ns=(0, 10**18))


def test_a_file_that_changes_while_it_is_read_is_not_published(
    simple: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.h5"
    shutil.copy(simple, copy)
    for n, meddle in enumerate((lambda: touch(simple), lambda: os.replace(copy, simple))):
        out = tmp_path / f"{n}.h5"
        with pytest.raises(OutputError, match="replaced or changed while it was read"):
            recompress(simple, out, ZSTD, watch=Meddler(meddle))
        assert beside(out) == {".partial", ".journal"}


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What runs a job up to its last pass: all images are stored, and the journal says so."""

    def run(path: Path, out: Path, options: IngestOptions, n_ranks: int = 1) -> None:
        def die(*_: object, **__: object) -> None:
            raise agreed(StoppedError("cut off"))

        with monkeypatch.context() as patch:
            patch.setattr("h5ingest.pipeline.run.join", die)
            with pytest.raises(StoppedError):
                recompress_on(n_ranks, path, out, options)

    return run


@pytest.mark.parametrize("way", ["stack", "ragged", "tree"])
def test_a_job_goes_on_and_failed_images_of_old_are_done(
    way: str, made: Made, cut: Callable[..., None], tmp_path: Path
) -> None:
    """They cannot become better: else no batch with one would ever count as done."""
    out = tmp_path / "out.h5"
    options = IngestOptions(
        compression="zstd:3", chunk_rows=WAYS[way].get("chunk_rows"), checkpoint_s=1e-4
    )
    with extent_chunks(CHUNK_BYTES):
        cut(made[way, True, "none"], out, options, 2)
        report = recompress_on(3, made[way, True, "none"], out, options)
    assert report.n_resumed == (40 if way == "stack" else 37)  # three have no pixels at all
    assert_same(out, made[way, True, "zstd"])


def test_a_job_does_not_go_on_with_another_file(
    simple: Path, cut: Callable[..., None], tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    cut(simple, out, ZSTD)
    time_ns = simple.stat().st_mtime_ns
    touch(simple)
    with pytest.raises(
        OutputError, match="an unfinished job is here, but with other input:"
    ) as told:
        recompress(simple, out, ZSTD)
    assert f"IN changed at (ns): {time_ns} then, {10**18} now" in str(told.value)
    os.utime(simple, ns=(0, time_ns))
    with pytest.raises(OutputError, match="compression: 'zstd:3' then, 'zstd:4' now"):
        recompress(simple, out, replace(ZSTD, compression="zstd:4"))
    with h5py.File(simple, "r+") as file:  # as many bytes, and the old time
        file["labels"][0] = 1
        file.attrs["content_digest"] = "0" * 64
    os.utime(simple, ns=(0, time_ns))
    with pytest.raises(OutputError, match=r"content_digest of IN: '[0-9a-f]+' then, '0000"):
        recompress(simple, out, ZSTD)
    assert beside(out) == {".partial", ".journal"}
    report = recompress(simple, out, replace(ZSTD, compression="none", dry_run=True))
    assert report.dry_run
    assert beside(out) == {".partial", ".journal"}


def test_an_ingest_is_not_gone_on_with_as_a_recompression(
    simple: Path, cut: Callable[..., None], tmp_path: Path
) -> None:
    names = write_images(tmp_path, make_pixels(12, (6, 5)))
    manifest, out = write_manifest(tmp_path / "n.txt", names), tmp_path / "out.h5"
    cut(simple, out, ZSTD)
    with pytest.raises(
        OutputError, match=r"(?s)with other input:.*bytes of IN: [0-9]+ then, None now"
    ):
        ingest(manifest, out, ZSTD)
