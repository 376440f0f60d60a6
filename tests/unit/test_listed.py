"""`h5ingest FOLDER OUT`: the same file as with a manifest that is written first."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import pytest
from helpers.support import (
    MPICH_SOON,
    Flavour,
    Stops,
    error_lines,
    make_pixels,
    read_file,
    write_png,
)
from helpers.threads import on_ranks

from h5ingest.cli.main import run
from h5ingest.core.errors import ManifestError, OutputError, StoppedError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.images.scan import ScanOptions
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.report import IngestReport
from h5ingest.pipeline.run import ingest
from h5ingest.pipeline.scan_folder import write_manifest

N = 100


class Photos:
    """A folder of images below folders, an output beside it, and what is said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder / "photos", folder / "out.h5"
        for k, pixels in enumerate(make_pixels(N, (5, 6))):
            self.put(
                ("train", "test")[k % 3 == 0] + f"/{'cat' if k % 2 else 'dog'}/{k},x.png", pixels
            )
        (self.folder / "notes.txt").write_text("no image")

    def put(self, name: str, pixels: Any) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(self.folder / name, pixels)

    def ingest(self, n: int = 1, scan: ScanOptions | None = None, **options: Any) -> IngestReport:
        chosen = IngestOptions(overwrite=True, **options)
        if n == 1:
            return ingest(self.folder, self.out, chosen, SerialComm(), scan=scan)
        return on_ranks(n, lambda c: ingest(self.folder, self.out, chosen, c, scan=scan))[0]

    def with_manifest(self, scan: ScanOptions, **options: Any) -> IngestReport:
        """What the two commands make: the manifest is in the folder, and then removed again."""
        manifest = self.folder / "m.csv"
        write_manifest(self.folder, manifest, scan)
        try:
            out = self.out.with_name("other.h5")
            return ingest(manifest, out, IngestOptions(overwrite=True, **options), SerialComm())
        finally:
            manifest.unlink()

    @property
    def beside(self) -> list[str]:
        return sorted(os.listdir(self.out.parent))


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    return Photos(tmp_path)


SCANS = [
    (ScanOptions(), {}, {}),
    (ScanOptions(label="path"), {"layout": "tree"}, {}),
    (ScanOptions(label="none", sniff=False), {"layout": "encoded"}, {}),
    (ScanOptions(group_level=1), {}, {"group_by": "group"}),
]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("scan", "options", "more"), SCANS)
def test_the_file_is_that_of_the_written_manifest(
    photos: Photos, n: int, scan: ScanOptions, options: dict[str, Any], more: dict[str, Any]
) -> None:
    report = photos.ingest(n, scan, **options)
    expected = photos.with_manifest(scan, **options, **more)
    assert report.content_digest == expected.content_digest
    assert report.n_samples == N
    assert photos.beside == ["other.h5", "out.h5", "photos"]


def test_the_file_says_what_it_is_made_of(photos: Photos) -> None:
    photos.ingest(scan=ScanOptions(label="path", hidden=True))
    attributes = read_file(photos.out).attrs
    assert attributes["manifest_name"] == "photos/"
    told = {"label": "path", "group_level": None, "hidden": True, "sniff": True}
    assert json.loads(attributes["scan"]) == told
    assert run(["verify", str(photos.out), "--sources", "--root", str(photos.folder), "-q"]) == 0
    assert run(["recompress", str(photos.out), str(photos.out) + "2", "--compression=lzf"]) == 0
    assert json.loads(read_file(Path(str(photos.out) + "2")).attrs["scan"]) == told


def test_the_command(photos: Photos, capfd: pytest.CaptureFixture[str]) -> None:
    command = [str(photos.folder), str(photos.out)]
    assert run([*command, "--group-by-folder=1", "--label=none"]) == 0
    with h5py.File(photos.out) as file:
        assert len(file["test/images"]) == 34
        assert "labels" not in file["test"]
    said = capfd.readouterr().err
    found = f"h5ingest: {photos.folder}: {N} images (100 PNG)\n2 groups: test 34, train 66\n"
    assert f"{found}left out, or doubtful:\n  1 x not an image (1 .txt)\n" in said
    assert run(["verify", str(photos.out), "--sources", "-q"]) == 3
    lost = f"no source was found: paths are relative to {photos.out.parent} unless --root DIR"
    found = capfd.readouterr().err
    assert lost in found
    assert found.count("no such file") == 1  # of 100
    assert f"… and {N - 1} rows more" in found
    assert run([*command, str(photos.out)]) == 2
    assert "h5ingest manifest DIR DIR ... -o LIST.csv" in capfd.readouterr().err
    assert run([*command, "-q", "--overwrite"]) == 0
    assert capfd.readouterr() == ("", "")
    for wrong in ("--root=.", "--delimiter=;", "--group-by-folder=0", "--label=mother"):
        assert run([*command, "--overwrite", wrong]) == 2
    notes = str(photos.folder / "notes.txt")
    assert run([notes, str(photos.out) + "2", "--hidden", "--split=a:1"]) == 2
    assert "--hidden, --split go with a folder or archive" in capfd.readouterr().err
    (photos.folder.parent / "empty").mkdir()
    assert run([str(photos.folder.parent / "empty"), str(photos.out) + "2"]) == 4
    assert "there are:\n  no files at all" in capfd.readouterr().err
    assert photos.beside == ["empty", "out.h5", "photos"]


@pytest.mark.parametrize("n", [1, 3])
def test_a_file_named_as_an_image_that_is_none_is_a_warning(photos: Photos, n: int) -> None:
    (photos.folder / "train/cat/page.jpg").write_text("<html>not found</html>")
    (photos.folder / "train/cat/empty.png").touch()
    report = photos.ingest(n)
    assert report.n_samples == N
    assert report.warnings == (
        "2 files with the ending of an image, but no image inside: left out "
        "(first: train/cat/empty.png)",
    )


def test_a_dry_run_writes_nothing(photos: Photos) -> None:
    report = photos.ingest(dry_run=True)
    assert (report.n_samples, report.dry_run) == (N, True)
    assert photos.beside == ["photos"]
    (photos.folder / "train/cat/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and so on")
    (photos.folder.parent / "out.h5.scan.csv").write_text("path\nthat of a job\n")
    with pytest.raises(Exception, match=r"broken\.png"):
        photos.ingest(dry_run=True)
    assert photos.beside == ["out.h5.scan.csv", "photos"]
    assert (photos.folder.parent / "out.h5.scan.csv").read_text() == "path\nthat of a job\n"


def test_a_job_that_is_refused_leaves_nothing(photos: Photos) -> None:
    photos.put("train/cat/large.png", make_pixels(1, (50, 6))[0])
    with pytest.raises(Exception, match=r"photos: the images do not fit"):
        photos.ingest()
    assert not [name for name in photos.beside if "scan" in name]


def test_a_file_of_the_user_stays(photos: Photos) -> None:
    users = photos.out.with_name("out.h5.scan.csv")
    users.write_text("some text\n")
    with pytest.raises(OutputError, match=r"out\.h5\.scan\.csv: expected a manifest"):
        photos.ingest()
    with pytest.raises(ManifestError):
        ingest(photos.folder / "test/nothing", photos.out, IngestOptions(), SerialComm())
    write_manifest(photos.folder, photos.folder / "m.csv", ScanOptions())
    ingest(photos.folder / "m.csv", photos.out, IngestOptions(), SerialComm())
    assert users.read_text() == "some text\n"


def stop(photos: Photos) -> None:
    watch, options = Stops(), IngestOptions(batch_bytes=30, checkpoint_s=0.001, readers=0)
    with pytest.raises(StoppedError):
        ingest(
            photos.folder, photos.out, options, SerialComm(),
            watch=watch, interrupt=watch.interrupt,
        )  # fmt: skip
    assert "out.h5.scan.csv" in photos.beside


@pytest.mark.parametrize("n", [1, 3])
def test_a_job_goes_on_in_a_folder_that_is_what_it_was(photos: Photos, n: int) -> None:
    stop(photos)
    (photos.folder / "more.txt").write_text("no image")
    report = photos.ingest(n, batch_bytes=30)
    assert report.n_resumed
    assert report.content_digest == photos.with_manifest(ScanOptions()).content_digest
    assert photos.beside == ["other.h5", "out.h5", "photos"]


def test_a_folder_that_has_changed_is_said(photos: Photos) -> None:
    stop(photos)
    photos.put("train/cat/new.png", make_pixels(1, (5, 6))[0])
    for _ in range(2):  # what was found first is kept
        with pytest.raises(OutputError, match=r"photos: has changed since") as caught:
            photos.ingest(batch_bytes=30)
        assert "there is 'train/cat/new.png,cat' now" in str(caught.value)
    with pytest.raises(OutputError, match=r"label: 'parent' then, 'none' now"):
        photos.ingest(scan=ScanOptions(label="none"), batch_bytes=30)
    with pytest.raises(OutputError, match=r"root: .*photos' then, .*train' now"):
        ingest(photos.folder / "train", photos.out, IngestOptions(), SerialComm())
    (photos.folder / "train/cat/new.png").unlink()
    (photos.folder / "train/dog/98,x.png").unlink()
    with pytest.raises(OutputError, match=r"had '\"train/dog/98,x.png\",dog' there is nothing now"):
        photos.ingest(batch_bytes=30)
    assert photos.ingest(restart=True).n_samples == N - 1
    assert photos.beside == ["out.h5", "photos"]


def test_what_no_manifest_can_hold_is_refused(photos: Photos) -> None:
    photos.put("line\nend.png", make_pixels(1, (5, 6))[0])
    with pytest.raises(ManifestError, match="a line end in the name"):
        photos.ingest()
    (photos.folder / "line\nend.png").rename(photos.folder / 'tab\tand,"quotes".png')
    assert photos.ingest().n_samples == N + 1
    other = photos.out.with_name("o.h5")
    with pytest.raises(UsageError, match=r"expected a folder or an archive .*, found a file"):
        ingest(photos.folder / "notes.txt", other, comm=SerialComm(), scan=ScanOptions())


@MPICH_SOON
def test_ranks_share_the_work(photos: Photos, flavour: Flavour) -> None:
    found = flavour.checked().run_many(
        3,
        [
            [photos.folder, photos.out],
            [photos.folder, photos.out.with_name("o.h5"), "--root", "x"],
            [photos.folder / "none", photos.out.with_name("o.h5")],
        ],
        photos.out.with_name("told"),
    )
    assert [done.returncode for done in found] == [0, 2, 4]
    assert [len(error_lines(done)) for done in found] == [0, 1, 1]
    digest = read_file(photos.out).attrs["content_digest"]
    assert digest == photos.with_manifest(ScanOptions()).content_digest
    assert photos.beside == ["other.h5", "out.h5", "photos", "told"]
