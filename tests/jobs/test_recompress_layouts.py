"""`recompress --layout`: the pixels, and all that goes with them, in another layout."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - lets h5py read what its filters have written
import numpy as np
import pytest
from helpers.faults import differences
from helpers.layout_runs import CHUNK_BYTES, extent_chunks
from helpers.oracle import Kind, encode
from helpers.pictures import drawn
from helpers.support import (
    FLAVOURS,
    WHEELS,
    explain,
    make_pixels,
    read_file,
    write_images,
    write_manifest,
)
from helpers.threads import on_ranks
from numpy.typing import NDArray

from h5ingest.cli import app
from h5ingest.core.errors import (
    IngestError,
    OutputError,
    SamplesFailedError,
    StoppedError,
    UsageError,
    agreed,
)
from h5ingest.core.notes import AS_PNG
from h5ingest.core.options import IngestOptions
from h5ingest.inspect.verify import verify
from h5ingest.pipeline.report import IngestReport
from h5ingest.pipeline.run import ingest, recompress
from h5ingest.reading.store import ImageStore

LAYOUTS = ("stack", "ragged", "tree", "encoded")
PAIRS = [(old, new) for old in LAYOUTS for new in LAYOUTS if old != new]
FILTERS: tuple[dict[str, Any], ...] = (
    {"compression": "none"},
    {"compression": "zstd:3"},
    {"compression": "gzip:1", "shuffle": True},
)


def change_on(n_ranks: int, path: Path, out: Path, layout: str, **options: Any) -> IngestReport:
    """On ranks that are threads, in small batches."""
    asked = IngestOptions(**{"layout": layout, "batch_bytes": 700, **options})
    return on_ranks(n_ranks, lambda comm: recompress(path, out, asked, comm, keep_layout=False))[0]


def write_sources(folder: Path, kind: str, *, failing: bool = False) -> Path:
    """24 images with labels, columns and a split; `equal`, or `mixed` gray and RGB of any size."""
    rows: list[tuple[object, ...]] = [("path", "label", "split", "age", "note")]
    for row in range(24):
        height, width = (8, 9) if kind == "equal" else (1 + row * 5 % 17, 1 + row * 11 % 23)
        colour = "gray" if kind == "mixed" and row % 3 == 0 else "rgb"
        data = encode(Kind(colour=colour, depth=8), height, width, row).data
        if failing and row in (0, 7, 23):
            data = b"no image"
        elif failing and row in (5, 14):  # its header is good
            data = data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
        name = f"{kind}/{row}/im\udcff_{row % 7}.png"
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(data)
        label, split = ("ant", "caf\udce9", "paths")[row % 3], ("tr", "a/b")[row // 2 % 2]
        rows.append((name, label, split, row / 4 if row % 5 else "", ("x", "caf\udce9")[row % 2]))
    return write_manifest(folder / f"{kind}.csv", rows)


def images_of(path: Path) -> list[NDArray[Any]]:
    """All images, of one group after the other, without padding."""
    with h5py.File(path) as file:
        groups = json.loads(file.attrs.get("groups", "[null]"))
    found = []
    for group in groups:
        with ImageStore(path, group=group) as store:
            for row in range(len(store)):
                image, size = store[row][0], store.sizes
                found.append(image if size is None else image[: size[row][0], : size[row][1]])
    return found


def beside_images(path: Path) -> dict[str, NDArray[Any]]:
    """What the layout does not touch."""
    kept = ("paths", "status", "labels", "label_names", "samples")
    return {
        name: values
        for name, values in read_file(path).arrays.items()
        if name.rpartition("/")[2] in kept or "columns/" in name
    }


def assert_alike(found: Path, wanted: Path, *, verified: Path | None = None) -> None:
    """The same but for the layout; `verified` against sources below this folder."""
    one, other = beside_images(found), beside_images(wanted)
    assert one.keys() == other.keys()
    for name, values in one.items():
        same = np.array_equal(values, other[name], equal_nan=values.dtype.kind == "f")
        assert same, name
    status = [values for name, values in one.items() if name.rpartition("/")[2] == "status"]
    for ok, image, before in zip(
        np.concatenate(status), images_of(found), images_of(wanted), strict=True
    ):
        if ok == 1:
            assert image.dtype == before.dtype
            np.testing.assert_array_equal(image, before)
        assert ok == 1 or not image.any()
    checked = verify(found, sources=verified is not None, root=verified)
    assert checked.ok, checked
    with h5py.File(found) as file, h5py.File(wanted) as before_:
        assert file.attrs["n_failed"] == before_.attrs["n_failed"]
        assert file.attrs["manifest_sha256"] == before_.attrs["manifest_sha256"]


# --- what is made ---------------------------------------------------------------------------------


@pytest.mark.parametrize("grouped", [False, True])
def test_a_file_becomes_what_an_ingest_with_that_layout_makes(
    grouped: bool, tmp_path: Path
) -> None:
    """Datasets, names and digest, on one to three ranks; of image files the pixels."""
    manifest = write_sources(tmp_path, "equal")
    group_by: dict[str, Any] = {"group_by": "split"} if grouped else {}
    made = {}
    with extent_chunks(CHUNK_BYTES):
        for layout in LAYOUTS:
            made[layout] = tmp_path / f"{layout}.h5"
            ingest(manifest, made[layout], IngestOptions(layout=layout, **group_by))
        for n, (old, new) in enumerate(PAIRS):
            out, filters = tmp_path / f"{old}-{new}.h5", FILTERS[n % 3]
            if new == "encoded":
                filters = {}
            report = change_on(1 + n % 3, made[old], out, new, **filters)
            assert report.recompressed
            assert_alike(out, made[old], verified=tmp_path)
            if new != "encoded":  # whose files are others than the sources
                with h5py.File(made[new]) as file:
                    assert report.content_digest == file.attrs["content_digest"], (old, new)
                assert {*differences(made[new], out)} <= {
                    "attribute options", "attribute libraries",
                    *(f"{prefix}chunk_checksums" for prefix in ("", "tr/", "a%2Fb/")),
                }  # fmt: skip


@pytest.mark.parametrize("grouped", [False, True])
def test_failed_rows_stay_what_they_are(grouped: bool, tmp_path: Path) -> None:
    """Some have a shape, others none; those of a group may all have failed."""
    group_by: dict[str, Any] = {"group_by": "split"} if grouped else {}
    made = {}
    for kind in ("equal", "mixed"):
        manifest = write_sources(tmp_path, kind, failing=True)
        for layout in LAYOUTS if kind == "equal" else LAYOUTS[1:]:
            made[layout, kind] = tmp_path / f"{kind}-{layout}.h5"
            options = IngestOptions(layout=layout, on_error="blank", **group_by)
            ingest(manifest, made[layout, kind], options)
    with extent_chunks(CHUNK_BYTES):
        for n, (old, new) in enumerate(PAIRS):
            kind = "equal" if "stack" in (old, new) else "mixed"
            out, filters = tmp_path / f"{old}-{new}.h5", FILTERS[n % 3] if new != "encoded" else {}
            report = change_on(1 + n % 3, made[old, kind], out, new, **filters)
            assert report.failures == ()
            assert report.warnings[0].startswith("5 images had failed when ")
            assert_alike(out, made[old, kind])


def test_padding_is_left_out(tmp_path: Path) -> None:
    manifest = write_sources(tmp_path, "mixed")
    ways: list[dict[str, Any]] = [
        {"fit": "pad", "pad_value": 7},
        {"fit": "contain"},
        {"fit": "resize", "size": (5, 6)},
        {"fit": "pad", "longest": 6, "dtype": "uint16"},
    ]
    for n, how in enumerate(ways):
        stack = tmp_path / f"stack{n}.h5"
        ingest(manifest, stack, IngestOptions(**how))
        for new in LAYOUTS[1:]:
            out = tmp_path / f"{n}-{new}.h5"
            codec = {} if new == "encoded" else {"compression": "zstd:1"}
            report = change_on(2, stack, out, new, **codec)
            assert_alike(out, stack, verified=tmp_path)
            if n == 0 and new != "encoded":  # gray has become RGB in the stack
                direct = tmp_path / "direct.h5"
                options = IngestOptions(layout=new, channels="rgb", overwrite=True)
                assert ingest(manifest, direct, options).content_digest == report.content_digest


CODED = {
    "png": ("rgb", 8), "jxl:1": ("rgb", 16), "webp": ("rgba", 8), "htj2k": ("gray", 16),
    "jxl": ("gray+alpha", 16), "JXL:2": ("gray", 8),
}  # fmt: skip


def test_pixels_become_image_files_of_each_codec(tmp_path: Path) -> None:
    """And back: whatever the codec takes; what it does not take is a PNG."""
    for n, (codec, (colour, depth)) in enumerate(CODED.items()):
        folder = tmp_path / str(n)
        channels = ("gray", "gray+alpha", "rgb", "rgba").index(colour) + 1
        smooth = [drawn(40 + k, 50, channels, f"uint{depth}", "waves") for k in range(3)]
        noise = [drawn(9, 7, channels, f"uint{depth}", "noise")]
        names = write_images(folder, [*smooth, *noise])
        tree, out, back = folder / "tree.h5", folder / "out.h5", folder / "back.h5"
        ingest(write_manifest(folder / "m.txt", names), tree, IngestOptions(layout="tree"))
        report = change_on(1 + n % 2, tree, out, "encoded", recode=codec)
        assert_alike(out, tree, verified=folder)
        with h5py.File(out) as file:
            wanted = {"jxl": "jxl:3", "JXL:2": "jxl:2"}.get(codec, codec)
            assert json.loads(file.attrs["options"])["recode"] == wanted
            assert json.loads(file.attrs["libraries"])["encoder"]
        assert f"recoded as {wanted}" in report.image
        again = change_on(2, out, back, "tree", compression="none")
        with h5py.File(tree) as file:
            assert again.content_digest == file.attrs["content_digest"]
    names = write_images(tmp_path, [drawn(20, 30, 1, "uint8", "waves")] * 2)
    ingest(write_manifest(tmp_path / "g.txt", names), tmp_path / "g.h5")
    report = change_on(1, tmp_path / "g.h5", tmp_path / "g-webp.h5", "encoded", recode="webp")
    assert [(note.kind, note.count) for note in report.notes] == [(AS_PNG, 2)]  # gray
    assert_alike(tmp_path / "g-webp.h5", tmp_path / "g.h5")


def test_indices_stay_indices_and_keep_their_palette(tmp_path: Path) -> None:
    data = encode(Kind(colour="palette", depth=8), 12, 11, 3).data
    (tmp_path / "a.png").write_bytes(data)
    manifest = write_manifest(tmp_path / "m.txt", ["a.png"] * 5)
    stack, out = tmp_path / "stack.h5", tmp_path / "files.h5"
    before = ingest(manifest, stack, IngestOptions(samples="raw"))
    change_on(2, stack, out, "encoded")
    assert_alike(out, stack, verified=tmp_path)
    with h5py.File(out) as file, h5py.File(stack) as wanted:
        palette = file["images/data"].attrs["palette"]
        np.testing.assert_array_equal(palette, wanted["images"].attrs["palette"])
        coded = file["images/data"][: file["images/offsets"][1]].tobytes()
        assert b"PLTE" in coded
    back = change_on(1, out, tmp_path / "back.h5", "stack", compression="none")
    assert back.content_digest == before.content_digest
    with pytest.raises(UsageError, match=r"codes colours, not palette indices.*--recode png"):
        change_on(2, stack, tmp_path / "jxl.h5", "encoded", recode="jxl")
    assert not list(tmp_path.glob("jxl.h5*"))


def test_the_layout_that_it_has_already(tmp_path: Path) -> None:
    """Is no change: the content digest stays."""
    names = write_images(tmp_path, make_pixels(6, (6, 5)))
    before = ingest(write_manifest(tmp_path / "m.txt", names), tmp_path / "in.h5")
    out = tmp_path / "out.h5"
    report = change_on(2, tmp_path / "in.h5", out, "stack", compression="zstd:3")
    assert report.content_digest == before.content_digest


def test_ranks_and_launchers_make_the_same(tmp_path: Path) -> None:
    manifest = write_sources(tmp_path, "equal")
    jobs = {
        "encoded": ["--layout", "stack", "--compression", "htj2k"],
        "ragged": ["--layout", "encoded", "--recode", "jxl:1"],
        "stack": ["--layout", "tree", "--compression", "gzip:1"],
    }
    for layout in jobs:
        ingest(manifest, tmp_path / f"{layout}.h5", IngestOptions(layout=layout))
        line = ["recompress", tmp_path / f"{layout}.h5", tmp_path / f"{layout}-1.h5"]
        request = app.parse([*map(str, line), *jobs[layout]], 1)
        assert not isinstance(request, int)
        request.work()(request.source, request.out, request.options)  # type: ignore[union-attr]
    for flavour, n_ranks in ((FLAVOURS["mpich"], 3), (FLAVOURS["openmpi"], 2), (WHEELS, 2)):
        folder = tmp_path / flavour.name
        folder.mkdir()
        lines: list[list[str | Path]] = [
            ["recompress", tmp_path / f"{layout}.h5", folder / f"{layout}.h5", *options,
             "--quiet", "--batch-bytes", "700"]
            for layout, options in jobs.items()
        ]  # fmt: skip
        told = flavour.checked().run_many(n_ranks, lines, folder / "told", timeout_s=120)
        for layout, completed in zip(jobs, told, strict=True):
            assert completed.returncode == 0, explain(completed)
            assert differences(tmp_path / f"{layout}-1.h5", folder / f"{layout}.h5") == []


# --- what is refused ------------------------------------------------------------------------------


def assert_refused(
    path: Path, kind: type[IngestError], said: str, layout: str, **options: Any
) -> None:
    """By one rank, by two who agree, and nothing is written."""
    for n_ranks in (1, 2):
        out = path.with_name(f"refused{n_ranks}.h5")
        with pytest.raises(kind, match=said) as refused:
            change_on(n_ranks, path, out, layout, **options)
        assert refused.value.agreed
        assert not list(path.parent.glob(f"{out.name}*"))


def test_images_that_do_not_fit_the_layout_are_refused_by_name(tmp_path: Path) -> None:
    sizes = [(6, 5, 3)] * 3 + [(6, 5)] * 2 + [(7, 5, 3)]
    images = [make_pixels(1, shape)[0] for shape in sizes] + [make_pixels(1, (4, 4), "uint16")[0]]
    rows = [(name, "ab"[k > 4]) for k, name in enumerate(write_images(tmp_path, images))]
    manifest = write_manifest(tmp_path / "m.csv", [("path", "split"), *rows])
    for layout in ("tree", "encoded"):
        path = tmp_path / f"{layout}.h5"
        ingest(manifest, path, IngestOptions(layout=layout))
        assert_refused(
            path, UsageError,
            r"(?s)--layout stack needs images of one kind; there are\n  3 x 6x5 RGB uint8 \(first: "
            r"0000.png\)\n  2 x 6x5 gray uint8 \(first: 0003.png\).*0006.png.*--layout tree holds",
            "stack", compression="none",
        )  # fmt: skip
        assert_refused(
            path, UsageError,
            r"(?s)--layout ragged needs.*6 x uint8 \(first: 0000.png\)\n  1 x uint16 \(first: 0006",
            "ragged", compression="none",
        )  # fmt: skip
    ingest(manifest, tmp_path / "groups.h5", IngestOptions(layout="tree", group_by="split"))
    assert_refused(
        tmp_path / "groups.h5", UsageError, "group 'a': --layout stack needs", "stack",
        compression="none",
    )  # fmt: skip
    assert_refused(
        tmp_path / "encoded.h5", UsageError, "--layout stack, ragged or tree stores their pixels",
        "encoded", recode="jxl",
    )  # fmt: skip
    assert_refused(
        tmp_path / "tree.h5", UsageError, "--group-by cannot apply", "ragged", group_by="split"
    )


def test_rows_of_several_images_are_refused(tmp_path: Path) -> None:
    names = write_images(tmp_path, make_pixels(4, (6, 5)))
    manifest = write_manifest(
        tmp_path / "m.csv", [("path", "mask"), *zip(names, names, strict=True)]
    )
    ingest(manifest, tmp_path / "in.h5", IngestOptions(image=("mask",)))
    assert_refused(
        tmp_path / "in.h5", UsageError, "holds several images a row", "tree", compression="none"
    )


def test_the_command_asks_for_a_codec_unless_image_files_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["recompress", str(tmp_path / "in.h5"), str(tmp_path / "out.h5")]
    assert app.parse([*line, "--layout", "tree"], 1) == 2
    assert "--compression is required: a codec, or none" in capsys.readouterr().err
    assert app.parse([*line, "--recode", "jxl"], 1) == 2
    assert "--recode goes with --layout encoded" in capsys.readouterr().err
    for more, kept in (
        (["--layout", "encoded"], False), (["--layout", "stack", "--compression", "none"], False),
        (["--compression", "none"], True),
    ):  # fmt: skip
        request = app.parse([*line, *more], 1)
        assert not isinstance(request, int)
        assert request.keep_layout == kept  # type: ignore[union-attr]


def test_options_are_those_that_an_ingest_would_have_had(tmp_path: Path) -> None:
    """So that more images can be added to it."""
    names = write_images(tmp_path, make_pixels(4, (6, 5)))
    manifest = write_manifest(tmp_path / "m.txt", names)
    ingest(manifest, tmp_path / "in.h5", IngestOptions(fit="pad", size=(8, 8), pad_value=3))
    change_on(1, tmp_path / "in.h5", tmp_path / "out.h5", "ragged", compression="zstd:3")
    with h5py.File(tmp_path / "out.h5") as file:
        told = json.loads(file.attrs["options"])
    some = {name: told[name] for name in ("layout", "fit", "size", "channels", "compression")}
    assert some == {
        "layout": "ragged", "fit": "error", "size": None, "channels": "gray",
        "compression": "zstd:3",
    }  # fmt: skip
    from h5ingest.pipeline.extend import extend

    more = write_images(tmp_path / "more", make_pixels(2, (3, 9)))
    extend(
        write_manifest(tmp_path / "more.txt", [f"more/{name}" for name in more]),
        tmp_path / "out.h5",
    )
    assert len(images_of(tmp_path / "out.h5")) == 6
    assert verify(tmp_path / "out.h5", sources=True, root=tmp_path).ok


# --- damage, and a job that goes on ---------------------------------------------------------------


@pytest.mark.parametrize("pair", [("encoded", "stack"), ("stack", "encoded"), ("tree", "ragged")])
def test_a_damaged_image_is_named_and_never_passed_on(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    old, new = pair
    names = write_images(tmp_path, make_pixels(12, (6, 5, 3)))
    path, out = tmp_path / "in.h5", tmp_path / "out.h5"
    ingest(write_manifest(tmp_path / "m.txt", names), path, IngestOptions(layout=old))
    with h5py.File(path) as file:
        if old == "encoded":
            at = file["images/data"].id.get_offset() + int(file["images/offsets"][5]) - 20
        else:
            dataset = file["0004"] if old == "tree" else file["images"]
            at = dataset.id.get_offset() or dataset.id.get_chunk_info(0).byte_offset + 4 * 90
    data = bytearray(path.read_bytes())
    data[at + 3] ^= 16
    path.write_bytes(data)
    codec = {} if new == "encoded" else {"compression": "zstd:1"}
    with pytest.raises(SamplesFailedError, match="1 of 12 images failed, nothing is") as caught:
        change_on(2, path, out, new, **codec)
    assert "sample 4: 0004.png: row 4: " in str(caught.value)
    assert not out.exists()
    report = change_on(2, path, out, new, on_error="blank", **codec)
    assert [(f.index, f.kind) for f in report.failures] == [(4, "damaged")]
    assert verify(out).ok
    found = images_of(out)
    assert not found[4].any()
    for k, image in enumerate(make_pixels(12, (6, 5, 3))):
        assert k == 4 or np.array_equal(found[k], image)
    assert not list(tmp_path.glob("out.h5.recoded*"))


def test_nothing_is_made_of_a_file_whose_labels_were_changed(tmp_path: Path) -> None:
    names = write_images(tmp_path, make_pixels(4, (6, 5)))
    rows = [(name, k % 2) for k, name in enumerate(names)]
    manifest = write_manifest(tmp_path / "m.csv", [("path", "label"), *rows])
    ingest(manifest, tmp_path / "in.h5")
    with h5py.File(tmp_path / "in.h5", "r+") as file:
        file["labels"][0] = 1
    assert_refused(
        tmp_path / "in.h5", OutputError, "expected the content digest", "tree", compression="none"
    )


@pytest.mark.parametrize("pair", [("stack", "encoded"), ("encoded", "tree"), ("tree", "stack")])
def test_a_job_goes_on_on_other_ranks(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored is not stored again, what is coded not coded again; another codec is."""
    old, new = pair
    path, out, expected = (tmp_path / f"{name}.h5" for name in ("in", "out", "expected"))
    ingest(write_sources(tmp_path, "equal"), path, IngestOptions(layout=old, chunk_rows=None))
    codec = {"recode": "jxl:1"} if new == "encoded" else {"compression": "zstd:1"}
    change_on(1, path, expected, new, **codec)

    def die(*_: object, **__: object) -> None:
        raise agreed(StoppedError("cut off"))

    with monkeypatch.context() as patch:
        patch.setattr("h5ingest.pipeline.run.join", die)
        with pytest.raises(StoppedError):
            change_on(2, path, out, new, checkpoint_s=1e-4, **codec)
    with pytest.raises(OutputError, match="an unfinished job is here, but with other input"):
        change_on(1, path, out, "ragged", compression="none")
    with monkeypatch.context() as patch:
        patch.setattr("h5ingest.pipeline.code_stored.code", die)
        report = change_on(3, path, out, new, **codec)
    assert report.n_resumed == 24
    assert differences(expected, out) == []
    assert {file.name for file in tmp_path.glob("out.h5*")} == {"out.h5"}


def test_a_dry_run_says_what_would_be_made(tmp_path: Path) -> None:
    path = tmp_path / "in.h5"
    ingest(write_sources(tmp_path, "mixed"), path, IngestOptions(layout="ragged"))
    shutil.rmtree(tmp_path / "mixed")
    options = IngestOptions(layout="encoded", recode="jxl", dry_run=True)
    report = recompress(path, tmp_path / "out.h5", options, keep_layout=False)
    assert report.dry_run
    assert any("codes no image" in warning for warning in report.warnings)
    with pytest.raises(UsageError, match="--layout stack needs images of one kind"):
        recompress(
            path, tmp_path / "out.h5",
            replace(options, layout="stack", recode=None), keep_layout=False,
        )  # fmt: skip
    assert not list(tmp_path.glob("out.h5*"))
