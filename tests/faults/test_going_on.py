"""What a job that did not end may be gone on with, and what is stored when files changed meanwhile.

Everything here runs in this process, on ranks that are threads where there are several; kills are
the subject of `test_resume`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.support import damage, make_pixels, read_file, write_manifest, write_png
from helpers.threads import on_ranks
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.cli.progress import BarProgress, LineProgress
from h5ingest.cli.summary import summary
from h5ingest.core import group_datasets
from h5ingest.core.errors import OutputError, SamplesFailedError, StoppedError, agreed
from h5ingest.core.options import IngestOptions
from h5ingest.inspect.verify import verify
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.report import IngestReport
from h5ingest.pipeline.run import ingest


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What runs a job up to its last pass: all images are stored, and the journal says so."""

    def run(manifest: Path, out: Path, options: IngestOptions, n_ranks: int = 1) -> None:
        def die(*_: object, **__: object) -> None:
            raise agreed(StoppedError("cut off"))

        with monkeypatch.context() as patch:
            patch.setattr("h5ingest.pipeline.run.join", die)
            with pytest.raises(StoppedError):
                on_ranks(n_ranks, lambda comm: ingest(manifest, out, options, comm))
        assert out.with_name(out.name + ".journal").exists()

    return run


def on(n_ranks: int, manifest: Path, out: Path, options: IngestOptions) -> IngestReport:
    return on_ranks(n_ranks, lambda comm: ingest(manifest, out, options, comm))[0]


def assert_refused(manifest: Path, out: Path, options: IngestOptions, *said: str) -> None:
    """The job is not gone on with, says why, and leaves all as it was."""
    beside = [out.with_name(f"{out.name}.{ending}") for ending in ("partial", "journal")]
    before = [path.read_bytes() for path in beside]
    with pytest.raises(OutputError, match="an unfinished job is here") as caught:
        ingest(manifest, out, options)
    for text in said:
        assert text in str(caught.value)
    assert [path.read_bytes() for path in beside] == before
    assert not out.exists()


# --- the journal of another layout --------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "gzip:1"])
@pytest.mark.parametrize("shape", [(12, 13), (4, 16)])
def test_a_journal_of_another_layout_is_refused_and_the_group_named(
    compression: str | None, shape: tuple[int, int], tmp_path: Path
) -> None:
    """The fourth size of four, of as many pixels or of more; one image is damaged, then mended."""
    shapes = {"a": (5, 6), "b": (6, 7), "c": (7, 8), "d": (8, 8)}
    rows: list[tuple[str, str]] = []
    for group, size in shapes.items():
        for k, pixels in enumerate(make_pixels(5, size)):
            write_png(tmp_path / f"{group}{k}.png", pixels)
            rows.append((f"{group}{k}.png", group))
    manifest = write_manifest(tmp_path / "m.csv", [("path", "cls"), *rows])
    out = tmp_path / "out.h5"
    options = IngestOptions(group_by="cls", compression=compression, chunk_rows=2)
    first = tmp_path / "a0.png"
    good = first.read_bytes()
    damage(first)
    with pytest.raises(SamplesFailedError, match="1 of 20 images failed"):
        ingest(manifest, out, options)
    first.write_bytes(good)
    new = make_pixels(5, shape)
    for k, pixels in enumerate(new):
        write_png(tmp_path / f"d{k}.png", pixels)
    now = f"/d/images: '(5, 8, 8) uint8, chunks of 2{', filter 1 (1,)' * bool(compression)}' then"
    assert_refused(manifest, out, options, now, f"'(5, {shape[0]}, {shape[1]}) uint8", "--restart")
    ingest(manifest, out, IngestOptions(
        group_by="cls", compression=compression, chunk_rows=2, restart=True
    ))  # fmt: skip
    np.testing.assert_array_equal(read_file(out).arrays["d/images"], new)


def test_only_some_of_many_differences_are_shown(tmp_path: Path) -> None:
    rows = []
    for k, pixels in enumerate(make_pixels(30, (3, 4))):
        write_png(tmp_path / f"{k}.png", pixels)
        rows.append((f"{k}.png", f"g{k:02}"))
    manifest = write_manifest(tmp_path / "m.csv", [("path", "cls"), *rows])
    out, options = tmp_path / "out.h5", IngestOptions(group_by="cls")
    damage(tmp_path / "0.png")
    with pytest.raises(SamplesFailedError):
        ingest(manifest, out, options)
    for k, pixels in enumerate(make_pixels(30, (4, 3))):
        write_png(tmp_path / f"{k}.png", pixels)
    assert_refused(manifest, out, options, "/g09/images: ", "… and 21 differences more")


def test_the_same_manifest_read_in_another_way_is_another_job(tmp_path: Path) -> None:
    """Each line names one file with a semicolon between columns, and another one without."""
    for k, pixels in enumerate(make_pixels(8, (3, 4))):
        write_png(tmp_path / f"{k}.png", pixels)
        write_png(tmp_path / f"{k}.png;3", 255 - pixels)
    lines = [f"{k}.png;3" for k in range(8)]
    manifest, out = write_manifest(tmp_path / "m.txt", lines), tmp_path / "out.h5"
    options = IngestOptions(delimiter=";", chunk_rows=1, batch_bytes=1)
    damage(tmp_path / "0.png")
    with pytest.raises(SamplesFailedError):
        ingest(manifest, out, options)
    other = IngestOptions(delimiter=",", chunk_rows=1, batch_bytes=1)
    assert_refused(manifest, out, other, "delimiter: ';' then, ',' now")


# --- an image that two runs decode each for a part of it ------------------------------------------

CHUNK = 512
SMALL, LARGE = (11, 13), (60, 61)
"""The large image begins in the first chunk, and ends in the eighth."""
SMALL_CHUNKS = IngestOptions(
    layout="ragged", compression="gzip:1", batch_bytes=CHUNK, checkpoint_s=1e-4
)


def pair(folder: Path) -> tuple[Path, NDArray[Any], NDArray[Any]]:
    """A manifest of a small image, x, a large one, y, and a last one, z; return it, and x and y."""
    x, y = make_pixels(1, SMALL)[0], make_pixels(1, LARGE)[0]
    for name, pixels in {"x": x, "y": y, "z": x}.items():
        write_png(folder / f"{name}.png", pixels)
    return write_manifest(folder / "m.txt", ["x.png", "y.png", "z.png"]), x, y


def begun(folder: Path, out: Path) -> tuple[Path, NDArray[Any], NDArray[Any]]:
    """What a run leaves that found x damaged: the first chunk is to be made again, mended now."""
    manifest, x, y = pair(folder)
    damage(folder / "x.png")
    with pytest.raises(SamplesFailedError, match="1 of 3 images failed"):
        ingest(manifest, out, SMALL_CHUNKS)
    write_png(folder / "x.png", x)
    return manifest, x, y


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_datasets, "EXTENT_CHUNK_BYTES", CHUNK)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("n_ranks", [1, 3])
@pytest.mark.parametrize("killed", [False, True])
def test_an_image_that_ends_in_what_an_earlier_run_stored_is_of_one_file(
    n_ranks: int, killed: bool, tmp_path: Path, cut: Callable[..., None]
) -> None:
    """`killed`: the run that stored the rest of it ends before it could compare."""
    out = tmp_path / "out.h5"
    manifest, x, y = begun(tmp_path, out)
    write_png(tmp_path / "y.png", 255 - y)
    if killed:
        cut(manifest, out, SMALL_CHUNKS, n_ranks)
    with pytest.raises(SamplesFailedError, match="1 of 3 images failed") as caught:
        on(n_ranks, manifest, out, SMALL_CHUNKS)
    assert [(f.path, f.kind) for f in caught.value.failures] == [("y.png", "changed")]
    assert not out.exists()
    report = on(n_ranks, manifest, out, SMALL_CHUNKS)
    assert (report.n_changed, report.failures) == (0, ())
    stored = read_file(out).arrays
    whole = np.concatenate([image.ravel() for image in (x, 255 - y, x)])
    np.testing.assert_array_equal(stored["images/pixels"], whole)
    assert stored["status"].tolist() == [1, 1, 1]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("n_ranks", [1, 3])
def test_an_image_that_is_damaged_when_its_first_part_is_made_again_is_blank_as_a_whole(
    n_ranks: int, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    manifest, x, y = begun(tmp_path, out)
    damage(tmp_path / "y.png")
    blank = IngestOptions(
        layout="ragged", compression="gzip:1", batch_bytes=CHUNK, on_error="blank"
    )
    report = on(n_ranks, manifest, out, blank)
    assert [(f.path, f.kind) for f in report.failures] == [("y.png", "damaged")]
    stored = read_file(out).arrays
    whole = np.concatenate([image.ravel() for image in (x, np.zeros_like(y), x)])
    np.testing.assert_array_equal(stored["images/pixels"], whole)
    assert stored["status"].tolist() == [1, 2, 1]
    assert stored["checksums"][1] == xxh3_64_intdigest(np.zeros_like(y).data)


@pytest.mark.usefixtures("small_chunks")
def test_an_image_that_did_not_change_is_gone_on_with_in_parts(tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    manifest, x, y = begun(tmp_path, out)
    report = ingest(manifest, out, SMALL_CHUNKS)
    assert report.n_resumed == 1, "only the chunk that x and y share is made again, and z is not"
    stored = read_file(out).arrays
    whole = np.concatenate([image.ravel() for image in (x, y, x)])
    np.testing.assert_array_equal(stored["images/pixels"], whole)


# --- files that changed between two runs ----------------------------------------------------------

EVERY_LAYOUT: dict[str, dict[str, Any]] = {
    "stack": {"chunk_rows": 2},
    "stack gzip": {"chunk_rows": 2, "compression": "gzip:1"},
    "ragged": {"layout": "ragged"},
    "ragged gzip": {"layout": "ragged", "compression": "gzip:1"},
    "tree": {"layout": "tree"},
    "encoded": {"layout": "encoded"},
}


def rows_of(out: Path) -> list[bytes]:
    """The bytes of each image in a file."""
    with h5py.File(out) as file:
        if "datasets" in file:
            return [file[name][()].tobytes() for name in file["datasets"]]
        if isinstance(file["images"], h5py.Dataset):
            return [image.tobytes() for image in file["images"]]
        data = file["images/data" if "images/data" in file else "images/pixels"][:].tobytes()
        ends = file["images/offsets"][:].tolist()
        return [data[a:b] for a, b in pairwise(ends)]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("name", EVERY_LAYOUT)
def test_of_a_file_that_changed_there_is_the_old_image_or_the_new_one_and_it_is_counted(
    name: str, tmp_path: Path, cut: Callable[..., None]
) -> None:
    """Row 9 is damaged at first; rows 2 and 10 change when they are stored, row 8 before that."""
    old, new = make_pixels(12, (16, 32)), 255 - make_pixels(12, (16, 32))  # chunks end with images
    for k, pixels in enumerate(old):
        write_png(tmp_path / f"{k:02}.png", pixels)
    files = [(tmp_path / f"{k:02}.png").read_bytes() for k in range(12)]
    manifest = write_manifest(tmp_path / "m.txt", [f"{k:02}.png" for k in range(12)])
    options = IngestOptions(batch_bytes=2 * CHUNK, checkpoint_s=1e-4, **EVERY_LAYOUT[name])
    out = tmp_path / "out.h5"
    damaged = tmp_path / "09.png"
    damage(damaged)
    with pytest.raises(SamplesFailedError, match="1 of 12 images failed"):
        ingest(manifest, out, options)
    damaged.write_bytes(files[9])
    changed = [2, 8, 10]
    for k in changed:
        write_png(tmp_path / f"{k:02}.png", new[k])
        assert len(files[k]) == (tmp_path / f"{k:02}.png").stat().st_size
    cut(manifest, out, options)  # 8 shares its batch with 9, or not
    (tmp_path / "11.png").touch()
    watch = LineProgress(io.StringIO())
    report = ingest(manifest, out, options, watch=watch)
    assert report.n_resumed == 12
    found = rows_of(out)
    again = [(tmp_path / f"{k:02}.png").read_bytes() for k in range(12)]
    if name == "encoded":
        was, now = files, again
    else:
        was, now = [image.tobytes() for image in old], [image.tobytes() for image in new]
    stored_anew = [k for k in changed if found[k] == now[k]]
    assert stored_anew in ([], [8])
    assert [k for k in range(12) if found[k] != was[k]] == stored_anew
    with h5py.File(out) as file:
        sums = [int(value) for value in file["checksums"][:]]
    assert sums == [xxh3_64_intdigest(image) for image in found]
    assert report.n_changed == len({*changed, 11} - set(stored_anew))
    assert report.to_json()["n_changed"] == report.n_changed
    assert f"{report.n_changed} file" in summary(report)
    differing = [bad.row for bad in verify(out, SerialComm(), sources=True).bad]
    assert differing == [k for k in changed if k not in stored_anew]


def test_files_that_did_not_change_are_not_counted(
    tmp_path: Path, cut: Callable[..., None]
) -> None:
    for k, pixels in enumerate(make_pixels(7, (5, 6))):
        write_png(tmp_path / f"{k}.png", pixels)
    manifest = write_manifest(tmp_path / "m.txt", [f"{k}.png" for k in range(7)])
    out = tmp_path / "out.h5"
    cut(manifest, out, IngestOptions(), 2)
    report = on(3, manifest, out, IngestOptions())
    assert (report.n_resumed, report.n_changed) == (7, 0)
    assert report.to_json()["n_changed"] == 0


# --- how it is shown ------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [LineProgress, BarProgress])
def test_a_job_with_nothing_left_to_store_shows_its_progress(
    style: type[LineProgress | BarProgress], tmp_path: Path, cut: Callable[..., None]
) -> None:
    write_png(tmp_path / "0.png", make_pixels(1, (5, 6))[0])
    manifest, out = write_manifest(tmp_path / "m.txt", ["0.png"]), tmp_path / "out.h5"
    cut(manifest, out, IngestOptions())
    stream = io.StringIO()
    watch = style(stream)
    report = ingest(manifest, out, watch=watch)
    watch.close()
    assert report.n_resumed == 1
    if style is LineProgress:
        assert "storing: 0 of 0 images, 0 images/s\n" in stream.getvalue()
    else:
        assert "storing" in stream.getvalue()
