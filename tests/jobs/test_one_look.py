"""Each image of a large stack is opened once; the file is that of a job that read all headers."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.support import Flavour, checkered, explain, read_file, write_manifest, write_png
from helpers.threads import on_ranks
from numpy.typing import NDArray

from h5ingest import IngestOptions, verify
from h5ingest.core.errors import OutputError, SamplesFailedError, StoppedError, UsageError
from h5ingest.images.png_chunks import SIGNATURE as PNG_SIGNATURE
from h5ingest.images.prefetch import FileCache
from h5ingest.images.scan import ScanOptions
from h5ingest.mpi.signals import Interrupt
from h5ingest.pipeline import first_look, look_at_images
from h5ingest.pipeline.job import ProgressListener
from h5ingest.pipeline.report import IngestReport
from h5ingest.pipeline.run import ingest
from h5ingest.pipeline.scan_folder import write_manifest as write_manifest_of

N = 300
LOOKED_AT = 38
"""Of N images."""
STACK: dict[str, Any] = {"cache_bytes": 0, "batch_bytes": 500, "chunk_rows": 1}

_opened: Counter[str] = Counter()


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and not isinstance(arguments[0], int):
        name = os.path.basename(os.fsdecode(arguments[0]))
        if name.endswith(".png"):
            _opened[name] += 1


sys.addaudithook(_count)


class Folder:
    """N small gray images in two groups, and their manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: dict[int, NDArray[Any]] = {}
        for k in range(N):
            self.put(k, np.full((6, 7), k % 256, np.uint8))
        rows = [(f"{k}.png", ("a", "b")[k % 2]) for k in range(N)]
        self.manifest = write_manifest(folder / "m.csv", [("path", "split"), *rows])

    def put(self, k: int, image: NDArray[Any]) -> None:
        self.images[k] = image
        write_png(self.folder / f"{k}.png", image)

    def ingest(self, n: int, name: str, **options: Any) -> IngestReport:
        wanted = IngestOptions(**{**STACK, **options})
        out = self.folder / name
        return on_ranks(n, lambda comm: ingest(self.manifest, out, wanted, comm))[0]

    def both(self, n: int, **options: Any) -> IngestReport:
        """Ingest with one look, and after a look at all; the files and reports are the same."""
        found = self.ingest(n, "one.h5", overwrite=True, **options)
        wanted = self.ingest(n, "all.h5", overwrite=True, probe="all", **options)
        assert found.content_digest == wanted.content_digest
        assert verify(self.folder / "one.h5").ok
        for name in (
            "conversions",
            "changes",
            "losses",
            "notes",
            "n_samples",
            "bytes_in",
            "image",
            "failures",
        ):
            assert getattr(found, name) == getattr(wanted, name), name
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_opens_for_each_image(folder: Folder, n: int) -> None:
    moved = 0 if n == 1 else 20  # shares of lines and shares of rows differ a little
    for options, least, most in (
        ({}, N, N + moved),
        ({"group_by": "split"}, N, N + (n > 1) * LOOKED_AT),
        ({"cache_bytes": 3000}, N, N + moved),
        ({"cache_bytes": 10**6}, N, N + moved),
        ({"probe": "all"}, 2 * N, 2 * N),
        ({"layout": "ragged", "chunk_rows": None}, 2 * N, 2 * N),
        ({"fit": "pad"}, 2 * N, 2 * N),
        ({"fit": "pad", "size": (6, 8)}, N, N + moved),
    ):
        _opened.clear()
        folder.ingest(n, "a.h5", overwrite=True, **options)
        assert len(_opened) == N
        assert least <= _opened.total() <= most, options
        assert verify(folder.folder / "a.h5").ok


def test_of_the_first_look_only_small_files_are_kept(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (folder.folder / "0.png").stat().st_size
    monkeypatch.setattr(look_at_images, "KEPT_BYTES", 10 * (size + 128))
    _opened.clear()
    folder.ingest(1, "few.h5")
    assert _opened.total() == N + LOOKED_AT - 10
    monkeypatch.undo()
    for k in range(0, N, 16):
        folder.put(k, np.random.default_rng(k).integers(0, 256, (64, 64), np.uint8))
    _opened.clear()
    folder.ingest(1, "large.h5", fit="pad", size=(64, 64))
    assert _opened == {f"{k}.png": 2 if k % 16 == 0 else 1 for k in range(N)}


def test_a_cache_is_full_when_files_do_not_fit_any_more() -> None:
    cache = FileCache(10_000)
    for k in range(30):
        cache.keep([k], [(bytes(4000), 4000)])
    assert cache.full
    assert cache.lacks(np.arange(30)).tolist() == [False] * 2 + [True] * 28
    cache.keep([30], [(bytes(10), 10)])
    assert cache.lacks(np.array([30])).all()
    assert len(cache.take(1)) == 4000
    assert cache.lacks(np.array([0, 1])).tolist() == [False, True]


class Watch(ProgressListener):
    """Notes how many images are looked at."""

    def __init__(self) -> None:
        self.probed: list[int] = []

    def phase(self, name: str, n_images: int) -> None:
        if name in ("look", "probe"):
            self.probed.append(n_images)


def test_only_few_are_all_looked_at_before_one_is_stored_though_the_cache_holds_more(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, digests = folder.folder / "out.h5", set()
    for most, wanted in ((N, [LOOKED_AT, N]), (N - 1, [LOOKED_AT])):
        monkeypatch.setattr(first_look, "_SMALL", most)
        watch = Watch()
        _opened.clear()
        report = ingest(folder.manifest, out, IngestOptions(overwrite=True), watch=watch)
        digests.add(report.content_digest)
        assert watch.probed == wanted
        assert _opened.total() == len(_opened) == N
    assert len(digests) == 1


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("layout", ["stack", "ragged"])
def test_system_calls_counted_from_outside(folder: Folder, layout: str, mpich: Flavour) -> None:
    calls = "open,openat,read,pread64,stat,lstat,fstat,newfstatat,statx,close"
    twice = 2 * N, 2 * N
    for probe, (least, most) in (
        ("auto", (N, N + 20) if layout == "stack" else twice),
        ("all", twice),
    ):
        trace, out = folder.folder / probe, folder.folder / f"{probe}.h5"
        done = mpich.launch(
            2, "strace", "-f", "-ff", "--seccomp-bpf", "-y", "-qq", "-e", f"trace={calls}",
            "-o", trace, mpich.bin / "h5ingest", folder.manifest, out, "--cache-bytes", "0",
            "--layout", layout, "--probe", probe,
        )  # fmt: skip
        assert done.returncode == 0, explain(done)
        told = "".join(each.read_text() for each in folder.folder.glob(f"{probe}.[0-9]*"))
        by_name = re.findall(r"^(open|openat|stat|lstat|newfstatat|statx)\(.*\.png\"", told, re.M)
        by_number = re.findall(r"^(\w+)\(\d+<[^>]*\.png>", told, re.M)
        found = Counter(by_name + by_number)
        assert set(found) == {"openat", "read", "close"}
        assert least <= found["openat"] == found["close"] == found["read"] <= most


@pytest.mark.parametrize("n", [1, 3])
def test_the_file_is_that_of_two_passes(folder: Folder, n: int) -> None:
    rgb = np.arange(6 * 7 * 3, dtype=np.uint8).reshape(6, 7, 3)
    folder.put(0, rgb)
    for k in (8, 50, 133):
        folder.put(k, np.full((6, 7, 2), k, np.uint8))
        folder.put(k + 1, np.full((6, 7), k, np.uint8))
    assert folder.both(n, channels="rgb").losses
    for k in (8, 50, 133):
        folder.put(k, np.full((6, 7), k, np.uint8))
    report = folder.both(n)
    assert report.conversions == ("299 images from 6x7 gray uint8 to 6x7 RGB uint8",)
    folder.both(n, compression="gzip:1", chunk_rows=3)
    folder.both(n, fit="resize", size=(9, 9))
    folder.both(n, fit="crop", size=(5, 5))
    folder.both(n, group_by="split")


PLACES = {
    "first": [0],
    "second": [1],
    "middle": [N // 3 + 1],
    "last": [N - 1],
    "many": [1, 2, 9, 150, N - 1],
}
ODD: dict[str, NDArray[Any]] = {
    "size": np.zeros((5, 7), np.uint8),
    "depth": np.full((6, 7), 300, np.uint16),
}


@pytest.mark.parametrize(("place", "odd", "n"), checkered(PLACES, ODD, [1, 3]))
def test_an_image_that_does_not_fit_is_refused_as_before(
    folder: Folder, place: str, odd: str, n: int
) -> None:
    before = dict(folder.images)
    for k in PLACES[place]:
        folder.put(k, ODD[odd])
    with pytest.raises(SamplesFailedError) as wanted:
        folder.ingest(n, "out.h5", probe="all")
    assert not (folder.folder / "out.h5.partial").exists()
    with pytest.raises(SamplesFailedError) as found:
        folder.ingest(n, "out.h5")
    assert str(found.value).removesuffix(
        "\nWhat has been stored stays, in case these images are repaired; to go on with another "
        "option, add --restart."
    ) == str(wanted.value)
    assert not (folder.folder / "out.h5").exists()
    for k in PLACES[place]:
        folder.put(k, before[k])
    report = folder.ingest(n, "out.h5")
    assert report.content_digest == folder.ingest(n, "all.h5", probe="all").content_digest
    np.testing.assert_array_equal(
        read_file(folder.folder / "out.h5").arrays["images"], [*folder.images.values()]
    )


@pytest.mark.parametrize(("place", "n"), checkered(PLACES, [1, 3]))
def test_an_image_may_change_what_all_become(folder: Folder, place: str, n: int) -> None:
    for k in PLACES[place]:
        folder.put(k, np.full((6, 7, 3), k % 256, np.uint8) * np.array([1, 0, 0], np.uint8))
    folder.both(n)
    folder.both(n, compression="gzip:1")
    stored = read_file(folder.folder / "one.h5").arrays["images"]
    assert stored.shape == (N, 6, 7, 3)
    for k in PLACES[place]:
        np.testing.assert_array_equal(stored[k], folder.images[k])


@pytest.mark.parametrize("n", [1, 3])
def test_files_that_fail_cost_no_second_look(folder: Folder, n: int) -> None:
    for k in (0, 5, 120, N - 1):
        (folder.folder / f"{k}.png").unlink()
    for k in (8, 121):
        (folder.folder / f"{k}.png").write_bytes(b"\x89PNG nonsense")
    _opened.clear()
    with pytest.raises(SamplesFailedError, match="6 of 300 images failed") as raised:
        folder.ingest(n, "out.h5")
    assert sorted(f.index for f in raised.value.failures) == [0, 5, 8, 120, 121, N - 1]
    assert max(_opened.values()) <= 2
    assert _opened.total() <= N + LOOKED_AT
    folder.both(n, on_error="blank")
    for k in (0, 5, 8, 120, 121, N - 1):
        folder.put(k, folder.images[k])
    report = folder.ingest(n, "out.h5")
    wanted = folder.ingest(n, "all.h5", probe="all", overwrite=True)
    assert report.content_digest == wanted.content_digest
    assert report.n_resumed > 100


def test_if_no_file_is_there_the_folder_is_named(folder: Folder) -> None:
    with pytest.raises(SamplesFailedError, match="none of its 300 files exists"):
        folder.ingest(2, "out.h5", root=folder.folder.parent)


class Stops(ProgressListener):
    """Asks to stop when so many images are stored."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.interrupt = Interrupt()
        self.storing = False

    def phase(self, name: str, n_images: int) -> None:
        self.storing = name == "store"

    def advance(self, n_images: int, n_bytes: int, n_failed: int) -> None:
        if self.storing and n_images >= self.n:
            self.interrupt.requested = True


@pytest.mark.parametrize("late", [False, True])
def test_a_job_that_was_stopped_goes_on(folder: Folder, late: bool) -> None:
    if late:
        folder.put(N - 1, np.full((6, 7, 3), [1, 2, 3], np.uint8))
    stops = Stops(20)
    with pytest.raises(StoppedError):
        ingest(
            folder.manifest,
            folder.folder / "out.h5",
            IngestOptions(**STACK, readers=0, checkpoint_s=0.001),
            watch=stops,
            interrupt=stops.interrupt,
        )
    report = folder.ingest(2, "out.h5")
    assert late or report.n_resumed
    assert report.content_digest == folder.ingest(1, "all.h5", probe="all").content_digest


def test_a_file_of_the_manifest_is_not_replaced(folder: Folder) -> None:
    folder.ingest(1, "old.h5")
    (folder.folder / "299.png").unlink()
    (folder.folder / "299.png").symlink_to("old.h5")
    with pytest.raises(OutputError, match="is a file of the manifest"):
        folder.ingest(2, "old.h5", overwrite=True, on_error="blank")
    assert verify(folder.folder / "old.h5").ok


# --- an index beside the manifest ----------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "stack": {},
    "padded": {"fit": "pad"},
    "ragged": {"layout": "ragged"},
    "ragged gzip": {"layout": "ragged", "compression": "gzip:1"},
    "tree": {"layout": "tree"},
    "encoded": {"layout": "encoded"},
}


class Indexed(Folder):
    """Images of several sizes and kinds, one of them no image, whose manifest has an index."""

    def __init__(self, folder: Path, *, equal: bool) -> None:
        self.folder, self.images = folder, {}
        shapes = [(6, 7)] if equal else [(6, 7), (3, 4, 3), (5, 5, 2), (9, 2)]
        for k in range(N):
            self.put(k, np.full(shapes[k % len(shapes)], k % 256, np.uint8))
        self.manifest = folder / "m.csv"
        write_index(folder, self.manifest)

    def put(self, k: int, image: NDArray[Any]) -> None:
        self.images[k] = image
        write_png(self.folder / f"{k:03}.png", image)


def write_index(folder: Path, manifest: Path) -> None:
    write_manifest_of(folder, manifest, ScanOptions(index=True, overwrite=True, label="none"))


@pytest.mark.parametrize(("kind", "n"), checkered(KINDS, [1, 4]))
def test_with_an_index_each_file_is_opened_once(tmp_path: Path, kind: str, n: int) -> None:
    folder = Indexed(tmp_path, equal=kind == "stack")
    options = {"chunk_rows": None, **KINDS[kind]}
    _opened.clear()
    report = folder.ingest(n, "one.h5", **options)
    parts = 3 if kind == "ragged gzip" else 0  # images that two ranks decode
    assert N <= _opened.total() <= N + parts
    wanted = folder.ingest(n, "all.h5", probe="all", **options)
    assert report.content_digest == wanted.content_digest
    for name in ("conversions", "changes", "losses", "notes", "bytes_in", "image"):
        assert getattr(report, name) == getattr(wanted, name), name


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_the_index_does_not_know_is_looked_at(tmp_path: Path, kind: str) -> None:
    folder = Indexed(tmp_path, equal=kind == "stack")
    whole = dict(folder.images)
    for k in (0, 100, N - 1):
        (tmp_path / f"{k:03}.png").write_bytes(PNG_SIGNATURE + b"nothing")
    write_index(tmp_path, folder.manifest)
    options = {"chunk_rows": None, **KINDS[kind]}
    with pytest.raises(SamplesFailedError, match="3 of 300 images failed"):
        folder.ingest(2, "one.h5", **options)
    blank = {**options, "on_error": "blank", "overwrite": True, "restart": True}
    report = folder.ingest(2, "blank.h5", **blank)
    assert sorted(f.index for f in report.failures) == [0, 100, N - 1]
    wanted = folder.ingest(2, "all.h5", probe="all", **blank)
    assert report.content_digest == wanted.content_digest
    for k in (0, 100, N - 1):
        folder.put(k, whole[k])
    report = folder.ingest(2, "one.h5", **{**options, "restart": True})
    wanted = folder.ingest(2, "all.h5", probe="all", **{**options, "overwrite": True})
    assert report.content_digest == wanted.content_digest


@pytest.mark.parametrize(
    ("now", "kind"), checkered([((6, 8),), ((6, 7, 3),), ((7, 6),), ((6, 7, 2),)], KINDS)
)
def test_an_image_that_is_not_as_the_index_has_it(
    tmp_path: Path, kind: str, now: tuple[int, ...]
) -> None:
    folder = Indexed(tmp_path, equal=kind == "stack")
    old = (tmp_path / "200.png").read_bytes()
    folder.put(200, np.full(now, 1, np.uint8))  # it was (6, 7)
    new = (tmp_path / "200.png").read_bytes()
    if kind == "encoded":  # of the same length
        (tmp_path / "200.png").write_bytes(new + bytes(max(0, len(old) - len(new))))
    options = {"chunk_rows": None, **KINDS[kind]}
    if kind not in ("stack", "padded"):
        with pytest.raises(SamplesFailedError) as raised:
            folder.ingest(2, "one.h5", **options)
        assert [(f.index, f.kind) for f in raised.value.failures] == [(200, "changed")]
        assert not (tmp_path / "one.h5").exists()
    elif kind == "stack" and now[:2] != (6, 7):
        with pytest.raises(SamplesFailedError, match="the images do not fit together"):
            folder.ingest(2, "one.h5", **options)
    else:  # it is as if all headers had been read
        report = folder.ingest(2, "one.h5", **options)
        wanted = folder.ingest(2, "all.h5", probe="all", **options)
        assert report.content_digest == wanted.content_digest


def test_an_index_of_another_manifest_is_not_used(tmp_path: Path) -> None:
    folder = Indexed(tmp_path, equal=False)
    folder.manifest.write_text(folder.manifest.read_text() + "000.png\n")
    notices = Notices()
    options = IngestOptions(layout="ragged", cache_bytes=0)
    ingest(folder.manifest, tmp_path / "a.h5", options, watch=notices)
    assert "m.csv.index is not used" in notices.texts[0]
    write_index(tmp_path, folder.manifest)
    index = tmp_path / "m.csv.index"
    index.write_bytes(index.read_bytes()[:-1])
    ingest(folder.manifest, tmp_path / "b.h5", options, watch=notices)
    assert "m.csv.index is not used" in notices.texts[1]
    assert verify(tmp_path / "b.h5").ok


class Notices(ProgressListener):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def notice(self, text: str) -> None:
        self.texts.append(text)


def test_an_index_replaces_only_an_index(tmp_path: Path) -> None:
    Indexed(tmp_path, equal=True)
    write_index(tmp_path, tmp_path / "m.csv")
    (tmp_path / "m.csv.index").write_text("mine")
    with pytest.raises(OutputError, match="expected the index of a manifest"):
        write_index(tmp_path, tmp_path / "m.csv")
    with pytest.raises(UsageError, match="beside the manifest"):
        write_manifest_of(tmp_path, io.BytesIO(), ScanOptions(index=True))
    with pytest.raises(UsageError, match="does not go with --no-sniff"):
        ScanOptions(index=True, sniff=False)
