"""A job goes on where one on another host fell silent: what that one writes late gets nowhere."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from helpers.layout_runs import ingest_on
from helpers.support import damage, make_pixels, read_file, write_images

from h5ingest.core.errors import SamplesFailedError
from h5ingest.core.options import IngestOptions
from h5ingest.storage.job_files import JobPaths
from h5ingest.storage.lock import Lock

N_IMAGES = 40


def unfinished(folder: Path, options: IngestOptions) -> tuple[Path, Path]:
    """Begin a job that stores all images but one; its manifest and its output."""
    (folder / "images").mkdir(parents=True)
    pixels = make_pixels(N_IMAGES, (32, 24, 3))
    names = write_images(folder / "images", pixels)
    manifest, out = folder / "m.txt", folder / "out.h5"
    manifest.write_text("".join(f"images/{name}\n" for name in names))
    last = folder / "images" / names[-1]
    good = last.read_bytes()
    damage(last)
    with pytest.raises(SamplesFailedError):
        ingest_on(2, manifest, out, options)
    last.write_bytes(good)
    return manifest, out


def left_by(host: str, paths: JobPaths, *, silent_s: float) -> None:
    """Leave the lock of a job on some host that has shown no sign of life for so long."""
    lock = Lock(paths.lock, 60)
    told = json.loads(paths.lock.read_text())
    lock.release()
    paths.lock.write_text(json.dumps({**told, "host": host}))
    then = time.time() - silent_s
    os.utime(paths.lock, (then, then))


@pytest.mark.parametrize("compression", [None, "gzip:1"])
def test_what_a_silent_job_writes_late_reaches_nothing(
    compression: str | None, tmp_path: Path
) -> None:
    options = IngestOptions(
        compression=compression, chunk_rows=3, batch_bytes=7000, checkpoint_s=0.0001,
        peer_timeout_s=1,
    )  # fmt: skip
    manifest, out = unfinished(tmp_path, options)
    paths = JobPaths(out)
    left_by("elsewhere", paths, silent_s=3600)
    held = [path.open("r+b") for path in (paths.partial, paths.journal)]
    report = ingest_on(2, manifest, out, options)
    for file in held:
        size = os.fstat(file.fileno()).st_size
        file.write(b"late" * (size // 4 + 1))
        file.close()
    assert 0 < report.n_resumed < N_IMAGES
    pixels = make_pixels(N_IMAGES, (32, 24, 3))
    assert (read_file(out).arrays["images"] == pixels).all()
    assert not list(tmp_path.glob("out.h5.*"))


def test_a_job_on_this_host_that_has_ended_is_not_copied(tmp_path: Path) -> None:
    options = IngestOptions(chunk_rows=3, batch_bytes=7000, checkpoint_s=0.0001)
    manifest, out = unfinished(tmp_path, options)
    before = JobPaths(out).partial.stat().st_ino
    ingest_on(2, manifest, out, options)
    assert out.stat().st_ino == before
