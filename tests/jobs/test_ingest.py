"""Whole ingests in one process: called from Python, and as a command without any launcher."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import struct
import subprocess
import termios
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.support import (
    LAUNCHED,
    REAL,
    WHEELS,
    Flavour,
    Meddler,
    clean_environment,
    damage,
    end_session,
    error_lines,
    explain,
    make_pixels,
    read_file,
    reference_pixels,
    run,
    write_images,
    write_manifest,
    write_png,
)
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.core.errors import IngestError, ManifestError, OutputError, SamplesFailedError
from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest
from h5ingest.storage.writer import Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Nine small gray images and their manifest, in a folder of one test's own."""

    folder: Path
    pixels: NDArray[Any]
    names: list[str]
    manifest: Path
    out: Path

    def left(self) -> list[str]:
        """The names of what was made: OUT, or anything that should not have stayed."""
        return sorted(file.name for file in self.out.parent.iterdir())


UNFINISHED = ["out.h5.failed.tsv", "out.h5.journal", "out.h5.partial"]
"""What stays of a job that can go on once its images have been mended."""


@pytest.fixture
def images(tmp_path: Path) -> Images:
    pixels = make_pixels(9, (6, 5))
    names = write_images(tmp_path, pixels)
    (tmp_path / "made").mkdir()
    return Images(
        folder=tmp_path,
        pixels=pixels,
        names=names,
        manifest=write_manifest(tmp_path / "manifest.txt", names),
        out=tmp_path / "made" / "out.h5",
    )


def open_objects() -> int:
    return int(h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_ALL))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 2), (6, 5, 3), (6, 5, 4)])
def test_pixels_are_stored_exactly(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    pixels = make_pixels(7, shape, dtype)
    manifest = write_manifest(tmp_path / "manifest.txt", write_images(tmp_path, pixels))
    ingest(manifest, tmp_path / "out.h5", IngestOptions(chunk_rows=3))
    stored = read_file(tmp_path / "out.h5").arrays
    assert stored["images"].dtype == dtype
    np.testing.assert_array_equal(stored["images"], pixels)
    assert stored["checksums"].tolist() == [
        xxh3_64_intdigest(image.astype(f"<{image.dtype.str[1:]}").tobytes())
        for image in stored["images"]
    ]


def test_every_good_image_of_pngsuite_is_stored_exactly(corpora: Path, tmp_path: Path) -> None:
    groups: dict[tuple[tuple[int, ...], str], dict[str, NDArray[Any]]] = {}
    folder = corpora / "pngsuite" / "png"
    for file in sorted(folder.glob("[!x]*.png")):
        pixels = reference_pixels(file)
        groups.setdefault((pixels.shape, str(pixels.dtype)), {})[file.name] = pixels
    n_files = sum(map(len, groups.values()))
    assert n_files == 161 if REAL else n_files > 161
    assert {(shape[2:], dtype) for shape, dtype in groups} == {
        (channels, dtype) for channels in [(), (2,), (3,), (4,)] for dtype in ("uint8", "uint16")
    }
    for number, group in enumerate(groups.values()):
        manifest = write_manifest(tmp_path / f"{number}.txt", group)
        out = tmp_path / f"{number}.h5"
        ingest(manifest, out, IngestOptions(root=folder))
        stored = read_file(out).arrays["images"]
        for (name, pixels), image in zip(group.items(), stored, strict=True):
            np.testing.assert_array_equal(image, pixels, name)
            assert image.dtype == pixels.dtype, name


def test_integer_labels_stay_integers(images: Images) -> None:
    labels = [7, -3, 0, 7, 10**17, 1, 2, 3, 4]
    write_manifest(images.manifest, zip(images.names, labels, strict=True))
    ingest(images.manifest, images.out)
    stored = read_file(images.out).arrays
    assert stored["labels"].tolist() == labels
    assert "label_names" not in stored


def test_other_labels_are_class_names_numbered_in_sorted_order(images: Images) -> None:
    labels = ["zebra", "10", "été", "ant", "zebra", "Ant", "9", "猫", "ant"]
    write_manifest(images.manifest, zip(images.names, labels, strict=True))
    ingest(images.manifest, images.out)
    stored = read_file(images.out).arrays
    names = [name.decode() for name in stored["label_names"]]
    assert names == ["10", "9", "Ant", "ant", "zebra", "été", "猫"]
    assert [names[label] for label in stored["labels"]] == labels


def test_without_labels_there_is_no_labels_dataset(images: Images) -> None:
    ingest(images.manifest, images.out)
    assert read_file(images.out).arrays.keys() == {"images", "status", "checksums", "paths"}


def test_each_extra_column_gets_the_type_that_holds_all_its_cells(images: Images) -> None:
    columns: dict[str, list[object]] = {
        "whole": [4, -5, 0, 2**53 + 1, 1, 2, 3, 4, 5],
        "holes": [4, -5, "", 6, 1, "", 3, 4, 5],
        "real": [0.5, "-1e-3", "", "inf", "nan", 7, "1E5", ".5", "2."],
        "text": ["a", "", "ü", "b c", "1", "2", '"quoted, comma"', "4", "x"],
        "empty": [""] * 9,
        "too big to be float": [2**53 + 1, "", 1, 1, 1, 1, 1, 1, 1],
    }
    manifest = write_manifest(
        images.folder / "table.csv",
        [("path", *columns), *zip(images.names, *columns.values(), strict=True)],
    )
    ingest(manifest, images.out)
    stored = read_file(images.out).arrays
    assert stored.keys() == {"images", "status", "checksums", "paths"} | {
        f"columns/{name}" for name in columns
    }
    nan = float("nan")
    expected = {
        "whole": np.array(columns["whole"], np.int64),
        "holes": np.array([4, -5, nan, 6, 1, nan, 3, 4, 5]),
        "real": np.array([0.5, -0.001, nan, float("inf"), nan, 7, 1e5, 0.5, 2]),
    }
    for name, values in expected.items():
        assert stored[f"columns/{name}"].dtype == values.dtype
        np.testing.assert_array_equal(stored[f"columns/{name}"], values, name)
    columns["text"][6] = "quoted, comma"
    for name in ("text", "empty", "too big to be float"):
        assert stored[f"columns/{name}"].tolist() == [str(c).encode() for c in columns[name]]


def test_paths_of_any_bytes_survive(images: Images) -> None:
    names = ["été/ñ 猫.png", "with space.png", os.fsdecode(b"latin-\xe9\xff.png")]
    (images.folder / "été").mkdir()
    for name, pixels in zip(names, images.pixels, strict=False):
        write_png(images.folder / name, pixels)
    absolute = str(images.folder / images.names[3])
    write_manifest(images.manifest, [*names, absolute])
    ingest(images.manifest, images.out)
    stored = read_file(images.out).arrays
    assert stored["paths"].tolist() == [os.fsencode(name) for name in [*names, absolute]]
    np.testing.assert_array_equal(stored["images"], images.pixels[:4])


def test_the_file_describes_itself(images: Images) -> None:
    table = [("path", "label", "age"), *((name, "cat", 3) for name in images.names)]
    write_manifest(images.manifest, table)
    report = ingest(images.manifest, images.out, command="h5ingest as typed")
    with h5py.File(images.out) as file:
        assert [dim.label for dim in file["images"].dims] == ["sample", "y", "x"]
        for name in ("labels", "paths", "status", "checksums", "columns/age"):
            assert file[name].shape == (9,)
            assert file[name].dims[0].label == "sample"
        assert h5py.check_enum_dtype(file["status"].dtype) == {"missing": 0, "ok": 1, "failed": 2}
        assert file["checksums"].dtype == np.uint64
        assert h5py.check_string_dtype(file["paths"].dtype).encoding == "utf-8"
        attrs = dict(file.attrs)
    assert attrs["schema"] == "h5ingest stack 2"
    assert attrs["status"] == "complete"
    assert (attrs["n_samples"], attrs["n_failed"]) == (9, 0)
    assert attrs["manifest_name"] == "manifest.txt"
    digest = run(["sha256sum", images.manifest]).stdout.split()[0]
    assert attrs["manifest_sha256"] == digest
    assert attrs["content_digest"] == report.content_digest
    assert attrs["command"] == "h5ingest as typed"
    assert json.loads(attrs["options"])["layout"] == "stack"
    libraries = json.loads(attrs["libraries"])
    assert libraries["h5py"] == h5py.version.version
    assert libraries["HDF5"] == h5py.version.hdf5_version
    assert libraries["numpy"] == np.__version__
    assert "imagecodecs" in libraries["decoder"]
    assert {"MPI", "pillow", "hdf5plugin"} <= libraries.keys()


def test_color_images_have_a_channel_axis(tmp_path: Path) -> None:
    names = write_images(tmp_path, make_pixels(2, (6, 5, 3)))
    ingest(write_manifest(tmp_path / "manifest.txt", names), tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert [dim.label for dim in file["images"].dims] == ["sample", "y", "x", "channel"]


def test_chunks_hold_as_many_images_as_asked_or_about_a_mebibyte(images: Images) -> None:
    def chunks(**options: Any) -> tuple[int, ...]:
        ingest(images.manifest, images.out, IngestOptions(overwrite=True, **options))
        with h5py.File(images.out) as file:
            np.testing.assert_array_equal(file["images"][()], images.pixels)
            found: tuple[int, ...] = file["images"].chunks
        return found

    assert chunks(chunk_rows=2) == (2, 6, 5)
    assert chunks(chunk_rows=1, batch_bytes=1) == (1, 6, 5)
    assert chunks(chunk_rows=100) == (9, 6, 5)
    assert chunks() == (9, 6, 5)
    write_png(images.folder / "large.png", make_pixels(1, (256, 256))[0])
    large = write_manifest(images.folder / "large.txt", ["large.png"] * 3)
    ingest(large, images.out, IngestOptions(overwrite=True))
    with h5py.File(images.out) as file:
        assert file["images"].chunks == (1, 256, 256)


def test_neither_chunks_nor_buffers_enter_the_content_digest(images: Images) -> None:
    def digest(**options: Any) -> str:
        options["overwrite"] = True
        return ingest(images.manifest, images.out, IngestOptions(**options)).content_digest

    expected = digest()
    assert len(expected) == 64
    assert digest(chunk_rows=2) == digest(batch_bytes=1) == digest(cache_bytes=0) == expected
    images.pixels[5, 2, 2] ^= 1
    write_png(images.folder / images.names[5], images.pixels[5])
    assert digest() != expected


def test_an_existing_file_is_replaced_only_by_a_complete_one(images: Images) -> None:
    ingest(images.manifest, images.out)
    before = images.out.read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        ingest(images.manifest, images.out)
    damage(images.folder / images.names[4])
    with pytest.raises(SamplesFailedError, match=f"line 5: {images.names[4]}"):
        ingest(images.manifest, images.out, IngestOptions(overwrite=True))
    assert images.out.read_bytes() == before
    assert images.left() == ["out.h5", *UNFINISHED]
    write_manifest(images.manifest, images.names[:3])
    with pytest.raises(OutputError, match="--restart"):
        ingest(images.manifest, images.out, IngestOptions(overwrite=True))
    ingest(images.manifest, images.out, IngestOptions(overwrite=True, restart=True))
    assert images.left() == ["out.h5"]
    np.testing.assert_array_equal(read_file(images.out).arrays["images"], images.pixels[:3])


def test_a_file_that_changes_after_its_header_was_read_is_a_failed_sample(images: Images) -> None:
    def meddle() -> None:
        (images.folder / images.names[1]).unlink()
        write_png(images.folder / images.names[3], make_pixels(1, (5, 6))[0])
        write_png(images.folder / images.names[5], make_pixels(1, (6, 5), "uint16")[0])
        (images.folder / images.names[7]).write_text("no image any more")

    options = IngestOptions(cache_bytes=0, on_error="blank")
    report = ingest(images.manifest, images.out, options, watch=Meddler(meddle))
    assert {failure.index: failure.path for failure in report.failures} == {
        row: images.names[row] for row in (1, 3, 5, 7)
    }
    assert [failure.kind for failure in report.failures][:3] == ["missing", "changed", "changed"]
    stored = read_file(images.out)
    assert stored.arrays["status"].tolist() == [1, 2, 1, 2, 1, 2, 1, 2, 1]
    assert stored.attrs["n_failed"] == 4
    images.pixels[1::2] = 0
    np.testing.assert_array_equal(stored.arrays["images"], images.pixels)


def test_nothing_is_published_if_a_file_vanishes_after_its_header_was_read(images: Images) -> None:
    victim = images.folder / images.names[1]
    with pytest.raises(SamplesFailedError, match=f"1 missing\n  line 2: {victim.name}"):
        ingest(
            images.manifest, images.out, IngestOptions(cache_bytes=0), watch=Meddler(victim.unlink)
        )
    assert images.left() == UNFINISHED


def test_files_that_fit_into_the_cache_are_opened_once(images: Images) -> None:
    victim = images.folder / images.names[1]
    report = ingest(images.manifest, images.out, watch=Meddler(victim.unlink))
    assert report.failures == ()
    np.testing.assert_array_equal(read_file(images.out).arrays["images"], images.pixels)


def test_a_manifest_that_changes_while_the_job_runs_is_refused(images: Images) -> None:
    def meddle() -> None:
        write_manifest(images.manifest, reversed(images.names))

    with pytest.raises(ManifestError, match="was changed while the job ran"):
        ingest(images.manifest, images.out, watch=Meddler(meddle))
    assert not images.out.exists()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "found a FIFO"),
        (os.mkdir, "found a directory"),
        (lambda path: Path(path).touch(), "the file is empty"),
        (lambda path: Path(path).write_text("some text"), "no image format"),
        (lambda path: os.symlink(path, path), "symbolic link"),
    ],
    ids=["fifo", "folder", "empty", "text", "loop"],
)
def test_what_is_no_image_is_named_with_its_reason(
    images: Images, make: Callable[[Path], object], reason: str
) -> None:
    odd = images.folder / "odd.png"
    make(odd)
    write_manifest(images.manifest, [*images.names, odd.name])
    with pytest.raises(SamplesFailedError, match=rf"(?s)1 of 10 .*line 10: odd\.png: .*{reason}"):
        ingest(images.manifest, images.out)
    assert images.left() == ["out.h5.failed.tsv"]


def test_an_ingest_leaves_no_hdf5_object_open(images: Images) -> None:
    before = open_objects()
    ingest(images.manifest, images.out)
    assert open_objects() == before
    damage(images.folder / images.names[4])
    for options in (IngestOptions(), IngestOptions(overwrite=True)):
        with pytest.raises(IngestError):
            ingest(images.manifest, images.out, options)
        assert open_objects() == before


def test_the_tools_of_hdf5_1_10_read_the_file(images: Images, mpich: Flavour) -> None:
    manifest = write_manifest(
        images.folder / "table.csv",
        [("path", "label", "age"), *((name, "cat", 3) for name in images.names)],
    )
    names = {"images", "status", "checksums", "paths", "labels", "label_names", "columns/age"}
    names |= {"sample", "y", "x", "class"}  # dimension scales
    # The wheels bring an HDF5 2.x, whose newest format no 1.10 can read.
    for maker in (mpich, WHEELS.checked()):
        made = maker.forked(manifest, images.out, "--chunk", "2", "--overwrite")
        assert made.returncode == 0, explain(made)
        listed = run(["h5ls", "-r", images.out])
        assert listed.returncode == 0, explain(listed)
        found = {
            line.split()[0].lstrip("/") for line in listed.stdout.splitlines() if "Dataset" in line
        }
        assert found == names
        for arguments in (["-H"], ["-d", "/images"], ["-d", "/paths"], ["-d", "/status"]):
            dumped = run(["h5dump", *arguments, images.out])
            assert dumped.returncode == 0, explain(dumped)
            assert dumped.stderr == ""
        np.testing.assert_array_equal(read_file(images.out).arrays["images"], images.pixels)


def test_the_wheels_make_a_file_of_the_same_content(images: Images) -> None:
    made = WHEELS.checked().forked(images.manifest, images.out)
    assert made.returncode == 0, explain(made)
    with h5py.File(images.out) as file:
        found = file.attrs["content_digest"]
    assert ingest(images.manifest, images.folder / "own.h5").content_digest == found


def test_the_command_needs_no_launcher(images: Images, mpich: Flavour) -> None:
    done = mpich.alone(
        "manifest.txt", "made/out.h5", "--report", "made/report.json", cwd=images.folder
    )
    assert done.returncode == 0, explain(done)
    np.testing.assert_array_equal(read_file(images.out).arrays["images"], images.pixels)
    assert "holds 9 images of 6x5 gray uint8" in done.stdout
    assert "of image files: 1 file instead of 9\n" in done.stdout
    assert [line.split(" (")[0] for line in done.stderr.splitlines()] == [
        "reading headers: 9 of 9 images",
        "storing: 9 of 9 images",
    ]
    report = json.loads((images.out.parent / "report.json").read_text())
    assert (report["n_ranks"], report["n_samples"], report["n_failed"]) == (1, 9, 0)
    assert images.left() == ["out.h5", "report.json"]


def test_quiet_prints_errors_only(images: Images, mpich: Flavour) -> None:
    done = mpich.forked(images.manifest, images.out, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), explain(done)
    refused = mpich.forked(images.manifest, images.out, "-q")
    assert (refused.returncode, refused.stdout) == (5, "")
    assert len(refused.stderr.splitlines()) == len(error_lines(refused)) == 1


def test_paths_are_relative_to_the_root_option_or_else_to_the_manifest(
    images: Images, mpich: Flavour
) -> None:
    elsewhere = images.folder / "elsewhere"
    elsewhere.mkdir()
    moved = shutil.copy(images.manifest, elsewhere / "manifest.txt")
    refused = mpich.forked(moved, images.out, cwd=images.folder)
    assert refused.returncode == 3, explain(refused)
    assert f"was looked for as {elsewhere}/{images.names[0]}" in refused.stderr
    done = mpich.forked(moved, images.out, "--root", ".", cwd=images.folder)
    assert done.returncode == 0, explain(done)


def test_a_failed_run_writes_the_report_that_its_message_promises(
    images: Images, mpich: Flavour
) -> None:
    absent = [f"absent-{row}.png" for row in range(25)]
    write_manifest(images.manifest, [*images.names, *absent])
    report = images.out.parent / "report.json"
    refused = mpich.forked(images.manifest, images.out, "--report", report)
    assert refused.returncode == 3, explain(refused)
    assert "25 of 34 files cannot be read: 25 missing" in refused.stderr
    assert "and 15 more (--report FILE.json lists them all)" in refused.stderr
    failures = json.loads(report.read_text())["failures"]
    assert [failure["path"] for failure in failures] == absent


def test_a_full_disk_is_an_error_with_its_exit_code(images: Images, mpich: Flavour) -> None:
    failed = run(
        [
            mpich.bin / "python", LAUNCHED, "full", "0", "5", images.manifest, images.out,
            "--chunk", "1", "--batch-bytes", "30",
        ]
    )  # fmt: skip
    assert failed.returncode == 5, explain(failed)
    assert len(error_lines(failed)) == 1
    assert "out.h5.partial: writing rows" in failed.stderr
    assert "Traceback" not in failed.stderr, explain(failed)
    assert not images.out.exists()


def test_a_terminal_sees_a_bar(images: Images, mpich: Flavour) -> None:
    terminal, ours = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = clean_environment({"TERM": "xterm"})
    del environment["COLUMNS"]
    process = subprocess.Popen(
        [mpich.bin / "h5ingest", images.manifest, images.out],
        stdin=ours, stdout=ours, stderr=ours, start_new_session=True, env=environment,
    )  # fmt: skip
    os.close(ours)
    shown = b""
    try:
        while True:
            try:
                data = os.read(terminal, 4096)
            except OSError:  # EIO: the last one who had the terminal has closed it
                break
            if not data:
                break
            shown += data
        assert process.wait(timeout=30) == 0, shown.decode()
    finally:
        end_session(process)
        os.close(terminal)
    text = shown.decode()
    assert "reading headers" in text
    assert "storing" in text
    assert "100%" in text
    assert "━" in text
    assert "9 of 9" not in text  # the lines for log files


def test_who_has_little_to_store_touches_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    get_buffer = Writer.get_buffer

    def noted(self: Writer, name: str, rows: range) -> np.ndarray[Any, Any]:
        array = get_buffer(self, name, rows)
        asked.append(array.nbytes)
        return array

    monkeypatch.setattr(Writer, "get_buffer", noted)
    names = write_images(tmp_path / "images", make_pixels(48, (256, 256)))
    manifest = write_manifest(tmp_path / "m.txt", [f"images/{name}" for name in names])
    all_bytes = 48 * 2**16
    for how, most in (
        ({}, 2**19),
        ({"batch_bytes": 2**17}, 2**17),
        ({"compression": "gzip:1"}, all_bytes),
    ):
        asked.clear()
        options = IngestOptions(**how, chunk_rows=1, overwrite=True)
        ingest(manifest, tmp_path / "out.h5", options)
        assert sum(asked) == all_bytes
        assert max(asked) == most, how
