"""Images that change while they are stored, that are very long, or larger than any buffer."""

from __future__ import annotations

import io
import os
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import png
import pytest
from helpers.layout_runs import extent_chunks, images, ingest_on
from helpers.oracle import Kind, Sample, Wanted, assert_holds, encode, expected, write_samples
from helpers.support import Meddler, make_pixels, read_file, write_images, write_manifest
from helpers.threads import on_ranks

from h5ingest.core.errors import SamplesFailedError
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.options import IngestOptions
from h5ingest.images import prefetch, source_files
from h5ingest.pipeline.run import ingest
from h5ingest.storage import mpio_writer

LAYOUTS = pytest.mark.parametrize("layout", KINDS)


@LAYOUTS
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_an_image_that_changes_after_the_look_at_its_header_fails_alone(
    layout: str, compression: str | None, tmp_path: Path
) -> None:
    if layout == "encoded" and compression:
        return
    samples = images(9)
    manifest, out = write_samples(tmp_path, samples), tmp_path / "out.h5"

    def write(row: int, colour: str, depth: int, height: int, width: int) -> None:
        picture = encode(Kind(colour=colour, depth=depth), height, width, 99)
        (tmp_path / f"{row}.png").write_bytes(picture.data)

    def meddle() -> None:
        (tmp_path / "0.png").unlink()
        write(2, "rgb", 8, 5, 6)
        write(4, "rgba", 8, 6, 5)
        write(5, "rgb", 16, 6, 5)
        write(7, "rgb", 8, 60, 50)
        (tmp_path / "8.png").write_bytes(b"")

    for row in (0, 2, 4, 5, 7, 8):
        samples[row] = replace(samples[row], broken=True)
    options = IngestOptions(
        layout=layout, compression=compression, cache_bytes=0, on_error="blank", batch_bytes=100
    )
    with extent_chunks(64):
        report = ingest(manifest, out, options, watch=Meddler(meddle))
    kinds = {failure.index: failure.kind for failure in report.failures}
    assert kinds == dict.fromkeys((2, 4, 5, 7), "changed") | {0: "missing", 8: "damaged"}
    assert_holds(read_file(out), expected(samples, Wanted(layout=layout)))


def read_differently(
    monkeypatch: pytest.MonkeyPatch, name: str, other: bytes | None
) -> Counter[str]:
    """The second time that a file is read for storing, there is something else in it."""
    read, counts, lock = source_files.read, Counter[str](), threading.Lock()

    def meddling(path: bytes, limit: int | None = None, **how: Any) -> tuple[bytes, int]:
        if limit is not None:  # the probe
            return read(path, limit, **how)
        found = os.path.basename(os.fsdecode(path))
        with lock:
            counts[found] += 1
        if found == name and counts[found] == 2:
            if other is None:
                return read(path + b" is gone", **how)
            return other, len(other)
        return read(path, limit, **how)

    class Source:
        read = staticmethod(meddling)

    monkeypatch.setattr(prefetch, "source_files", Source)
    return counts


@pytest.mark.parametrize("layout", ["ragged"])
@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("on_error", ["fail", "blank"])
def test_an_image_of_two_ranks_that_changes_between_their_looks_is_a_failed_one(
    layout: str, gone: bool, on_error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = images(3, 20, 20)
    manifest, out = write_samples(tmp_path, samples), tmp_path / "out.h5"
    options = IngestOptions(
        layout=layout, compression="gzip", cache_bytes=0, on_error=on_error
    )  # fmt: skip
    other = None if gone else encode(Kind(colour="rgb", depth=8), 20, 20, 77).data
    counts = read_differently(monkeypatch, "1.png", other)
    with extent_chunks(100):  # the border is in the image in the middle
        if on_error == "fail":
            with pytest.raises(SamplesFailedError, match=r"line 3: 1\.png"):
                ingest_on(2, manifest, out, options)
            assert not out.exists()
        else:
            report = ingest_on(2, manifest, out, options)
            assert [failure.index for failure in report.failures] == [1]
            samples[1] = replace(samples[1], broken=True)
            found = read_file(out)
            assert found.arrays["status"].tolist() == [1, 2, 1]
            start, stop = found.arrays["images/offsets"][1:3].tolist()
            assert not found.arrays["images/pixels"][start:stop].any()
    assert counts == {"0.png": 1, "1.png": 2, "2.png": 1}


def test_an_image_on_many_ranks_is_decoded_once_by_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [*images(1, 2, 2), *images(1, 90, 90)[:1], *images(1, 2, 2)]
    samples = [replace(one, path=f"{row}.png") for row, one in enumerate(samples)]
    manifest, out = write_samples(tmp_path, samples), tmp_path / "out.h5"
    options = IngestOptions(layout="ragged", compression="gzip", cache_bytes=0, batch_bytes=300)
    for n_ranks in (1, 3, 6):
        counts = read_differently(monkeypatch, "", None)
        with extent_chunks(100):
            report = ingest_on(n_ranks, manifest, out, replace(options, overwrite=True))
        assert counts == {"0.png": 1, "1.png": n_ranks, "2.png": 1}
        assert report.failures == ()
        assert_holds(read_file(out), expected(samples, Wanted(layout="ragged")))
        monkeypatch.undo()


def test_more_ranks_than_chunks_decode_nothing_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = images(5)
    manifest, out = write_samples(tmp_path, samples), tmp_path / "out.h5"
    counts = read_differently(monkeypatch, "", None)
    options = IngestOptions(layout="ragged", compression="gzip", cache_bytes=0)
    ingest_on(4, manifest, out, options)  # a single chunk
    assert counts == {one.path: 1 for one in samples}
    assert_holds(read_file(out), expected(samples, Wanted(layout="ragged")))


@LAYOUTS
@pytest.mark.parametrize("size", [(1, 65536), (65536, 1), (2, 70001), (1, 1)])
def test_very_long_images(layout: str, size: tuple[int, int], tmp_path: Path) -> None:
    height, width = size
    pixels = np.random.default_rng(1).integers(0, 255, size, np.uint8, endpoint=True)
    file = io.BytesIO()
    png.Writer(width, height, greyscale=True).write(file, pixels)
    samples = [Sample(path=f"{i}.png", data=file.getvalue(), pixels=pixels) for i in range(3)]
    manifest, out = write_samples(tmp_path, samples), tmp_path / "out.h5"
    for compression in (None, "gzip:1") if layout != "encoded" else (None,):
        options = IngestOptions(layout=layout, compression=compression, overwrite=True)
        on_ranks(2, lambda comm, o=options: ingest(manifest, out, o, comm))  # type: ignore[misc]
        assert_holds(read_file(out), expected(samples, Wanted(layout=layout)))


@LAYOUTS
def test_a_header_that_claims_too_much_is_refused_in_every_layout(
    layout: str, tmp_path: Path
) -> None:
    samples = images(3)
    samples[1] = replace(images(1, 30, 31)[0], path="1.png", pixels=None)
    manifest, out = write_samples(tmp_path, samples), tmp_path / "out.h5"
    options = IngestOptions(layout=layout, max_pixels=900)
    with pytest.raises(SamplesFailedError, match=r"31x30 = 930 pixels, more than --max-pixels 900"):
        ingest_on(2, manifest, out, options)
    report = ingest_on(2, manifest, out, replace(options, on_error="blank"))
    assert [(f.index, f.kind) for f in report.failures] == [(1, "too large")]
    assert_holds(read_file(out), expected(samples, Wanted(layout=layout)))


@LAYOUTS
def test_reasons_are_the_same_in_every_layout(layout: str, tmp_path: Path) -> None:
    samples = images(6)
    data = samples[0].data
    assert data is not None
    bad: dict[int, tuple[bytes | None, str]] = {
        1: (None, "missing"), 2: (b"text", "not an image"), 3: (b"", "damaged"),
        4: (data[:-20] + bytes([data[-20] ^ 1]) + data[-19:], "damaged"), 5: (data[:60], "damaged"),
    }  # fmt: skip
    for row, (content, _) in bad.items():
        known = samples[row].pixels if row > 3 else None
        samples[row] = replace(samples[row], data=content, pixels=known, broken=row > 3)
    manifest, out = write_samples(tmp_path, samples), tmp_path / "out.h5"
    options = IngestOptions(layout=layout, on_error="blank", cache_bytes=0)
    report = ingest_on(3, manifest, out, options)
    kinds = {failure.index: failure.kind for failure in report.failures}
    assert kinds == {row: kind for row, (_, kind) in bad.items()}
    assert_holds(read_file(out), expected(samples, Wanted(layout=layout)))


@pytest.mark.parametrize("layout", ["stack", "ragged", "encoded"])
@pytest.mark.parametrize("most_bytes", [30, 64, 1000])
def test_writes_are_cut_into_pieces_that_mpi_can_count(
    layout: str, most_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mpio_writer, "_MOST_BYTES", most_bytes)
    samples = images(7, 9, 8)
    manifest, out = write_samples(tmp_path, samples), tmp_path / "out.h5"
    ingest(manifest, out, IngestOptions(layout=layout, chunk_rows=2 if layout == "stack" else None))
    assert_holds(read_file(out), expected(samples, Wanted(layout=layout)))


def test_hdf5_does_not_look_at_every_element_that_is_written(tmp_path: Path) -> None:
    # It does, at some 40 ns each, if memory and file are described by spaces of different ranks.
    names = write_images(tmp_path, make_pixels(200, (100, 100)))
    manifest = write_manifest(tmp_path / "manifest.txt", names)
    runs = [ingest(manifest, tmp_path / f"{run}.h5", IngestOptions()) for run in range(3)]
    assert all("HDF5" in report.writer for report in runs)
    write_s, decode_s = (
        min(report.phases[phase].min for report in runs) for phase in ("write", "decode")
    )
    assert write_s < decode_s


def test_the_report_of_a_single_image_is_whole(tmp_path: Path) -> None:
    for layout in KINDS:
        samples: list[Sample] = images(1, 1, 1)
        manifest, out = write_samples(tmp_path, samples), tmp_path / f"{layout}.h5"
        report = ingest_on(3, manifest, out, IngestOptions(layout=layout))
        about: dict[str, Any] = report.to_json()
        assert (about["n_samples"], about["n_failed"], about["warnings"]) == (1, 0, ())
        assert_holds(read_file(out), expected(samples, Wanted(layout=layout)))
