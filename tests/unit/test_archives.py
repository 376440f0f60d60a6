"""Members of tar and zip archives as samples: the same file as from a folder, and bad archives."""

from __future__ import annotations

import io
import os
import random
import struct
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.archives import PACKERS, Member, packed, tar
from helpers.support import (
    MPICH_SOON,
    Flavour,
    Meddler,
    Stops,
    error_lines,
    make_pixels,
    read_file,
    write_manifest,
    write_png,
)
from helpers.threads import on_ranks
from PIL import Image

from h5ingest.cli.main import run
from h5ingest.core.errors import (
    Failure,
    ManifestError,
    OutputError,
    SampleError,
    SamplesFailedError,
    StoppedError,
    UsageError,
)
from h5ingest.core.options import IngestOptions
from h5ingest.images import archive_table, tar_archive, tar_blocks, zip_archive
from h5ingest.images import archives as module
from h5ingest.images.archive_table import CUT, NOT_THERE, Table
from h5ingest.images.archives import Archives, PathReader, read_table
from h5ingest.images.scan import ScanOptions
from h5ingest.images.unpacked import Unpacker
from h5ingest.inspect.codecs import measure
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.job import ProgressListener
from h5ingest.pipeline.report import IngestReport
from h5ingest.pipeline.run import ingest

N = 120
STACK: dict[str, Any] = {"cache_bytes": 0, "batch_bytes": 300, "chunk_rows": 1}
ON_TWO = pytest.mark.parametrize("n", [1, 3])

_opened: Counter[str] = Counter()


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and not isinstance(arguments[0], int):
        name = os.path.basename(os.fsdecode(arguments[0]))
        if name.startswith("part") or name.endswith(".png"):
            _opened[name] += 1


sys.addaudithook(_count)


def png(pixels: Any) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        write_png(Path(file.name), pixels)
        return file.read()


IMAGES: list[Member] = [
    (f"{('train', 'test')[k % 3 == 0]}/{'cat' if k % 2 else 'dög'}/{k},x.png", png(pixels))
    for k, pixels in enumerate(make_pixels(N, (5, 6)))
]
"""Names and files, not in the order of the names."""
NAMES = sorted((name for name, _ in IMAGES), key=os.fsencode)


@dataclass(frozen=True, slots=True)
class Place:
    """A folder for archives and what is made of them."""

    folder: Path

    def plant(self, files: Iterable[Member] = IMAGES, name: str = "photos") -> Path:
        for inner, data in files:
            path = self.folder / name / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return self.folder / name

    def pack(self, how: str, files: Iterable[Member] = IMAGES, name: str = "photos") -> Path:
        ending, make = PACKERS[how]
        return make(self.folder / f"{name}{ending}", files)

    def manifest(self, names: Iterable[str], name: str = "m.txt") -> Path:
        return write_manifest(self.folder / name, ["path", *names])

    def ingest(
        self, source: Path, n: int = 1, *, out: str = "out.h5", **options: Any
    ) -> IngestReport:
        scan = options.pop("scan", None)
        watch = options.pop("watch", None)
        chosen = IngestOptions(**{"overwrite": True, **options})
        target = self.folder / out
        if n == 1:
            return ingest(source, target, chosen, SerialComm(), scan=scan, watch=watch)
        return on_ranks(n, lambda comm: ingest(source, target, chosen, comm, scan=scan))[0]

    def failures(self, source: Path, **options: Any) -> dict[str, str]:
        """What fails, and why; all else is stored."""
        report = self.ingest(source, on_error="blank", **options)
        with h5py.File(self.folder / "out.h5") as file:
            status = dict(zip(file["paths"].asstr(), file["status"][:].tolist(), strict=True))
        failed = {failure.path: failure.reason for failure in report.failures}
        assert {path for path, s in status.items() if s != 1} == failed.keys()
        return failed


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- the same file as from a folder --------------------------------------------------------------


@ON_TWO
def test_the_file_is_that_of_the_folder(place: Place, n: int) -> None:
    folder = place.plant()
    for options in (
        {},
        STACK,
        {"layout": "tree"},
        {"layout": "ragged", "compression": "gzip"},
        {"layout": "encoded", "scan": ScanOptions(label="path", group_level=1)},
        {"scan": ScanOptions(sniff=False, label="none")},
    ):
        wanted = place.ingest(folder, n, **options)
        assert wanted.n_samples == N
        for how in PACKERS:
            found = place.ingest(place.pack(how), n, **options)
            assert found.content_digest == wanted.content_digest, (how, options)
            assert found.warnings == wanted.warnings
    assert read_file(place.folder / "out.h5").attrs["manifest_name"] == "photos.zip"
    few = [*IMAGES[:5], ("top.png", IMAGES[5][1])]  # whose label is the name of the folder
    wanted = place.ingest(place.plant(few, "few"), n)
    for how in ("gnu", "deflated"):
        found = place.ingest(place.pack(how, few, "few"), n)
        assert found.content_digest == wanted.content_digest
    left = sorted(path.name for path in place.folder.iterdir())
    few_left = ["few", "few.tar", "few.zip"]
    assert left == [*few_left, "out.h5", "photos", "photos.tar", "photos.zip"]


@ON_TWO
@pytest.mark.parametrize("how", PACKERS)
def test_an_archive_is_a_folder_on_the_way(place: Place, how: str, n: int) -> None:
    """Members of two archives and plain files, in one manifest: as if all were folders."""
    ending, _ = PACKERS[how]
    parts = [IMAGES[0::3], IMAGES[1::3], IMAGES[2::3]]
    names = [f"a{ending}", f"deep/b{ending.upper()}", "plain"]
    turns = zip(*parts, strict=True)
    listed = [f"{names[k]}/{turn[k][0]}" for turn in turns for k in range(3)]
    digests = []
    for is_packed in (False, True):
        top = Place(place.folder / str(is_packed))
        for name, part in zip(names, parts, strict=True):
            if is_packed and name != "plain":
                (top.folder / name).parent.mkdir(parents=True, exist_ok=True)
                top.pack(how, part, name.removesuffix(ending).removesuffix(ending.upper()))
                made = top.folder / (name[: -len(ending)] + ending)
                made.rename(top.folder / name)
            else:
                top.plant(part, name)
        digests += [
            top.ingest(top.manifest(listed), n, **options).content_digest
            for options in (STACK, {"layout": "ragged"}, {"compression": "auto"})
        ]
    assert digests[:3] == digests[3:]


def test_members_are_looked_for_in_the_root(place: Place) -> None:
    folder, zipped = place.plant(), place.pack("deflated")
    manifest = place.manifest(NAMES)
    wanted = place.ingest(manifest, root=folder)
    assert place.ingest(manifest, root=zipped).content_digest == wanted.content_digest
    command = ["verify", str(place.folder / "out.h5"), "--sources", "-q", "--root"]
    assert run([*command, str(zipped)]) == 0
    below = [name.removeprefix("train/") for name in NAMES if "train" in name]
    inner = place.manifest(below, "inner.txt")
    wanted = place.ingest(inner, root=folder / "train")
    assert place.ingest(inner, root=zipped / "train").content_digest == wanted.content_digest
    assert run([*command, str(zipped / "train")]) == 0
    (name, _), *others = sorted(IMAGES)
    place.pack("deflated", [(name, others[0][1]), *others])
    place.ingest(manifest, root=folder)
    assert run([*command, str(zipped)]) == 3


def test_sources_within_archives_are_verified(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    place.pack("pax")
    place.ingest(place.manifest(f"photos.tar/{name}" for name in NAMES))
    assert run(["verify", str(place.folder / "out.h5"), "--sources"]) == 0
    assert f"sources: {N} decoded again" in capfd.readouterr().out


def test_codecs_are_measured_on_members(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h5ingest.inspect.codecs.CODECS", ("gzip:1",))
    place.pack("stored")
    manifest = place.manifest(f"photos.zip/{name}" for name in NAMES)
    report = measure(manifest, IngestOptions(), n_wanted=10)
    assert (report.n_sampled, report.failures) == (10, ())


def test_a_manifest_of_an_archive(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    zipped = place.pack("stored", [*IMAGES, ("notes.txt", b"text"), (".hidden/x.png", b"")])
    manifest = place.folder / "m.csv"
    assert run(["manifest", str(zipped), "-o", str(manifest), "--index"]) == 0
    assert capfd.readouterr().err == (
        f"{manifest}: {N} images ({N} PNG)\n2 classes\nleft out, or doubtful:\n"
        "  1 x not an image (1 .txt)\n  1 x hidden file or folder (--hidden includes them)\n"
    )
    report = place.ingest(manifest, **STACK)
    assert report.n_samples == N
    with h5py.File(place.folder / "out.h5") as file:
        assert list(file["paths"].asstr()) == [f"photos.zip/{name}" for name in NAMES]


def test_images_that_are_recoded(place: Place) -> None:
    pixels = [np.full((40, 50, 3), k, np.uint8) for k in range(12)]
    files = [(f"{k}.png", png(each)) for k, each in enumerate(pixels)]
    options: dict[str, Any] = {"layout": "encoded", "recode": "webp"}
    wanted = place.ingest(place.plant(files, "some"), **options)
    assert place.ingest(place.pack("pax", files, "some"), **options).content_digest == (
        wanted.content_digest
    )


# --- what is opened ------------------------------------------------------------------------------


@ON_TWO
@pytest.mark.parametrize("how", ["gnu", "deflated"])
def test_archives_are_opened_once_by_each_rank_that_reads(place: Place, how: str, n: int) -> None:
    ending, _ = PACKERS[how]
    for k in range(3):
        place.pack(how, IMAGES[k::3], f"part{k}")
    names = [f"part{k}{ending}/{name}" for k in range(3) for name, _ in IMAGES[k::3]]
    for options in (STACK, {**STACK, "probe": "all"}, {"layout": "ragged"}, {"readers": 4}):
        _opened.clear()
        place.ingest(place.manifest(names), n, **options)
        assert not [name for name in _opened if name.endswith(".png")]
        assert len(_opened) == 3
        # once for the table, and by one or two ranks (more where a border moves) that read from it
        assert _opened.total() <= 3 + 3 * min(n, 2) + (n - 1), options


def test_few_archives_are_open_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OPEN", 2)
    for k in range(N):
        place.pack("ustar", [IMAGES[k]], f"part{k}")
    names = [f"part{k}.tar/{IMAGES[k][0]}" for k in range(N)]
    most, before = 0, len(os.listdir("/proc/self/fd"))

    class Watch(ProgressListener):
        def advance(self, n_images: int, n_bytes: int, n_failed: int) -> None:
            nonlocal most
            most = max(most, len(os.listdir("/proc/self/fd")) - before)

    for readers in (0, 8):
        place.ingest(place.manifest(names), watch=Watch(), **STACK, readers=readers)
    assert 0 < most < 30
    assert len(os.listdir("/proc/self/fd")) <= before + 1


# --- what archives may have ----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["gnu", "pax", "stored"])
def test_long_and_strange_names(place: Place, how: str) -> None:
    names = ["x" * 240 + ".png", "/".join(["y" * 90] * 5) + ".png", " .png", 'a"b,c.png', "é.png"]
    files = [(name, data) for name, (_, data) in zip(names, IMAGES, strict=False)]
    report = place.ingest(place.pack(how, files))
    assert report.n_samples == len(names)
    with h5py.File(place.folder / "out.h5") as file:
        found = list(file["paths"].asstr())
        assert found == sorted((name.replace(" .png", " .png") for name in names), key=os.fsencode)


def test_names_lead_nowhere(place: Place) -> None:
    """A member may be called like a file outside: it is a name, and that file is not read."""
    decoy = png(np.zeros((5, 6), np.uint8))
    (place.folder / "outside.png").write_bytes(decoy)
    inner = Place(place.folder / "inner")
    inner.folder.mkdir()
    names = [f"{place.folder}/outside.png", "../outside.png", "../../../outside.png", "./a/./b.png"]
    files = [(name, data) for name, (_, data) in zip(names, IMAGES, strict=False)]
    for make in (tar, packed):
        archive = make(inner.folder / f"a.{make.__name__.replace('packed', 'zip')}", files)
        report = inner.ingest(archive)
        assert (report.n_samples, report.failures) == (4, ())
        with h5py.File(inner.folder / "out.h5") as file:
            assert file["images"][:].reshape(4, -1).any(axis=1).all()
            assert set(file["paths"].asstr()) == {*names[:3], "a/./b.png"}
    through = inner.manifest([f"a.tar/{name}" for name in names])
    assert inner.ingest(through).failures == ()
    assert sorted(p.name for p in inner.folder.iterdir()) == ["a.tar", "a.zip", "m.txt", "out.h5"]


def test_of_members_of_one_name_the_last_counts(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    files = [("a.png", IMAGES[0][1]), ("b.png", IMAGES[1][1]), ("./a.png", IMAGES[2][1])]
    for make in (tar, packed):
        archive = make(place.folder / f"a.{'tar' if make is tar else 'zip'}", files)
        report = place.ingest(archive)
        said = f"{archive}: 1 of its names come again later: the last member counts"
        assert report.warnings == (said,)
        assert (
            run(["manifest", str(archive), "-o", str(place.folder / "m.csv"), "--overwrite"]) == 0
        )
        again = "1 x member whose name comes again later, which counts\n    'a.png'\n"
        assert again in capfd.readouterr().err
        with h5py.File(place.folder / "out.h5") as file:
            assert (file["images"][:] == make_pixels(N, (5, 6))[[2, 1]]).all()


def test_links_within_a_tar(place: Place) -> None:
    path = place.folder / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in IMAGES[:2]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind, target in (
            ("hard.png", tarfile.LNKTYPE, IMAGES[0][0]),
            ("dir/soft.png", tarfile.SYMTYPE, f"../{IMAGES[1][0]}"),
            ("./again.png", tarfile.SYMTYPE, "dir/soft.png"),
            ("./more.png", tarfile.SYMTYPE, "again.png"),
            ("gone.png", tarfile.SYMTYPE, "nowhere.png"),
            ("out.png", tarfile.SYMTYPE, "/etc/hostname"),
            ("loop.png", tarfile.SYMTYPE, "loop.png"),
            ("folder.png", tarfile.DIRTYPE, ""),
            ("fifo.png", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    names = ["hard.png", "dir/soft.png", "again.png", "more.png", "gone.png", "out.png", "loop.png",
             "folder.png", "fifo.png", "none.png"]  # fmt: skip
    failed = place.failures(place.manifest(f"a.tar/{name}" for name in names))
    link, none = "a link to what is not in the archive", "no such member in the archive"
    no_file = "expected a file in the archive, found a folder or device"
    assert failed == {
        "a.tar/gone.png": link, "a.tar/out.png": link, "a.tar/loop.png": no_file,
        "a.tar/folder.png": no_file, "a.tar/fifo.png": no_file, "a.tar/none.png": none,
    }  # fmt: skip
    with h5py.File(place.folder / "out.h5") as file:
        assert (file["images"][:4] == make_pixels(N, (5, 6))[[0, 1, 1, 1]]).all()


def test_zip64_and_a_prefix(place: Place) -> None:
    path = place.folder / "a.zip"
    path.write_bytes(b"#!/bin/sh\nexit\n")  # as in an archive that unpacks itself
    with zipfile.ZipFile(path, "a") as archive:
        for name, data in IMAGES[:9]:
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(data)
        archive.comment = b"x" * 1000
    assert place.ingest(path).n_samples == 9


def test_pax_headers_for_all(place: Place) -> None:
    path = place.folder / "a.tar"
    with tarfile.open(path, "w", pax_headers={"comment": "as git archive writes it"}) as archive:
        for name, data in IMAGES[:9]:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            archive.addfile(info, io.BytesIO(data))
    assert place.ingest(path).n_samples == 9


def test_pax_headers_that_only_tell_times_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python's tarfile writes them for each file; whatever else they tell is left to it."""
    told: list[dict[str, str]] = [
        {"mtime": "1764400000.1234567"}, {"mtime": "-1.5", "uname": "é", "uid": "70000000"},
        {"path": "renamed.png"}, {"mtime": "1.5", "path": "renamed too.png"}, {"atime": "2\n9 a=b"},
        {"comment": "x"}, {},
    ]  # fmt: skip
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for k, headers in enumerate(told):
            info = tarfile.TarInfo(f"{k}.png")
            info.size, info.pax_headers = 600 + k, headers
            archive.addfile(info, io.BytesIO(bytes([k]) * info.size))
    asked: set[int] = set()
    usual = tarfile.TarInfo.fromtarfile

    def counted(tar: tarfile.TarFile) -> tarfile.TarInfo:
        info = usual(tar)
        asked.add(info.size - 600)
        return info

    with path.open("rb") as file:
        opened = tar_archive.TarArchive(file.fileno(), path.stat().st_size)
        with monkeypatch.context() as context:
            context.setattr(tarfile.TarInfo, "fromtarfile", staticmethod(counted))
            table = opened.table(lambda: None)
        assert asked == {0, 2, 3, 4, 5}, "the first one is read by `TarFile` itself"
        with tarfile.open(path) as archive:
            assert list(table.rows) == [info.name.encode() for info in archive]
        assert table.problem == ""
        members = table.find(list(table.rows), 0)
        for k, member in enumerate(members):
            assert opened.read(archive_table.Member(*member.item()), None)[0] == bytes([k]) * (
                600 + k
            )


def drawn_tar(dice: random.Random) -> bytes:
    """Mostly runs of usual files, of one of the formats; some of it damaged."""
    file, form = io.BytesIO(), dice.choice([tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
    form = dice.choice([form, tarfile.GNU_FORMAT])
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        names: list[str] = []
        for k in range(dice.randint(0, 80)):
            name = dice.choice(["{}", "./{}", "dir/ö{}", "x" * 95 + "{}", "{}/" + "y" * 95])
            name = name.format(k) if dice.random() < 0.1 else f"a/{k}.png"
            info = tarfile.TarInfo(dice.choice(names) if names and dice.random() < 0.02 else name)
            names.append(info.name)
            info.size = dice.choice([0, 1, 511, 512, 513, 3000])
            info.mtime = dice.choice([1764400000, 1764400000.1234567, 0.5])
            if dice.random() < 0.05:
                kinds = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.AREGTYPE
                info.type, info.linkname = dice.choice(kinds), dice.choice(names)
                info.size = 0
            archive.addfile(info, io.BytesIO(dice.randbytes(info.size)))
    data = bytearray(file.getvalue())
    for _ in range(dice.choice([0, 0, 1, 3])):
        at = dice.randrange(len(data) // 512) * 512 + dice.choice([0, 99, 124, 135, 148, 156, 257])
        data[at] = dice.choice(b"\x00\xff07 9-x/")
    return bytes(data[: dice.choice([len(data), len(data), dice.randrange(len(data))])])


def test_many_headers_at_once_are_what_each_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_found = 0

    def counted(piece: bytes, at: int) -> tar_blocks.Files | None:
        nonlocal n_found
        files = tar_blocks.usual_files(piece, at)
        n_found += 0 if files is None else len(files.names)
        return files

    path, dice = tmp_path / "a.tar", random.Random(8)
    for round_ in range(200):
        path.write_bytes(drawn_tar(dice))
        monkeypatch.setattr(tar_archive, "_AHEAD", 512 * dice.choice([1, 20, 21, 512]))
        told = []
        for many in (counted, lambda piece, at: None):
            monkeypatch.setattr(tar_archive, "usual_files", many)
            with path.open("rb") as file:
                table = tar_archive.TarArchive(file.fileno(), path.stat().st_size).table(
                    lambda: None
                )
            names = list(table.rows)
            members = table.find(names, 0).tolist()
            told.append((names, members, table.n_repeated, table.repeated, table.problem))
        assert told[0] == told[1], round_
    assert n_found > 1500


# --- bad archives --------------------------------------------------------------------------------


def starts(path: Path) -> dict[str, int]:
    """Where in a tar the data of each member begin."""
    with tarfile.open(path) as archive:
        return {info.name: info.offset_data for info in archive}


@ON_TWO
def test_of_a_tar_that_was_cut_off_what_is_intact_is_stored(place: Place, n: int) -> None:
    path = place.pack("gnu")
    at = starts(path)
    order = [name for name, _ in IMAGES]
    os.truncate(path, at[order[60]] + 20)
    manifest = place.manifest(f"photos.tar/{name}" for name in order)
    for _ in range(2):
        with pytest.raises(SamplesFailedError, match="60 of 120") as caught:
            place.ingest(manifest, n, **STACK)
        assert f"{order[60]}: the archive ends within it" in str(caught.value)
    failed = place.failures(manifest, n=n, **STACK, restart=True)
    assert failed.keys() == {f"photos.tar/{name}" for name in order[60:]}
    assert failed.pop(f"photos.tar/{order[60]}") == "the archive ends within it"
    [why] = set(failed.values())
    assert why == "not found in the archive, which ends within a member: it has been cut off"
    # listed: what the rest was cannot be known
    with pytest.raises(ManifestError, match=r"ends within a member.*\n.*--on-error blank"):
        place.ingest(path, n)
    report = place.ingest(path, n, on_error="blank")
    assert report.n_samples == 61
    assert [f.path for f in report.failures] == [order[60]]
    os.truncate(path, at[order[60]] - 512)
    with pytest.raises(ManifestError, match="has no mark at its end: it may have been cut off"):
        place.ingest(path, n)
    assert place.ingest(path, n, on_error="blank").n_samples == 60


def test_a_tar_with_a_damaged_header(place: Place) -> None:
    path = place.pack("ustar")
    order = [name for name, _ in IMAGES]
    data = bytearray(path.read_bytes())
    data[starts(path)[order[7]] - 512 + 3] ^= 1
    path.write_bytes(data)
    failed = place.failures(place.manifest(f"photos.tar/{name}" for name in order))
    assert failed.keys() == {f"photos.tar/{name}" for name in order[7:]}


@pytest.mark.parametrize("how", ["stored", "deflated"])
def test_of_a_zip_that_was_cut_off_what_is_intact_is_stored(place: Place, how: str) -> None:
    path = place.pack(how)
    order = [name for name, _ in IMAGES]
    with zipfile.ZipFile(path) as archive:
        at = archive.infolist()[60].header_offset
    os.truncate(path, at + 70)
    manifest = place.manifest(f"photos.zip/{name}" for name in order)
    failed = place.failures(manifest)
    assert failed.keys() == {f"photos.zip/{name}" for name in order[60:]}
    assert failed[f"photos.zip/{order[60]}"] == "the archive ends within it"
    assert "has no table that can be read" in failed[f"photos.zip/{order[61]}"]


def test_what_is_no_archive_is_said(place: Place) -> None:
    (place.folder / "text.tar").write_text("some text, and more of it\n" * 100)
    (place.folder / "text.zip").write_text("some text, and more of it\n" * 100)
    (place.folder / "empty.tar").write_bytes(b"")
    names = ["text.tar/a.png", "text.zip/a.png", "empty.tar/a.png", "none.tar/a.png", "ok.png"]
    (place.folder / "ok.png").write_bytes(IMAGES[0][1])
    failed = place.failures(place.manifest(names))
    assert "is no tar archive" in failed["text.tar/a.png"]
    assert "is no tar archive" in failed["empty.tar/a.png"]
    assert "has no table that can be read" in failed["text.zip/a.png"]
    assert failed["none.tar/a.png"] == "no such file"
    (place.folder / "a.tar.gz").write_bytes(b"\x1f\x8b and so on")
    (place.folder / "a.7z").write_bytes(b"7z\xbc\xaf and so on")
    with pytest.raises(UsageError, match=r"archive \(\.tar, \.zip, \.tar\.gz and the like\)"):
        place.ingest(place.folder / "a.7z")
    with pytest.raises(ManifestError, match="cannot be unpacked beyond 0 bytes"):
        place.ingest(place.folder / "a.tar.gz")
    for name in ("text.tar", "text.zip", "empty.tar"):
        with pytest.raises(ManifestError, match=name):
            place.ingest(place.folder / name)


def patched(path: Path, name: str, **fields: tuple[int, str, int]) -> None:
    """Set fields of a member in the table of a zip: offset there, format, value."""
    data = bytearray(path.read_bytes())
    at = data.rindex(name.encode()) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    for offset, form, value in fields.values():
        struct.pack_into(form, data, at + offset, value)
    path.write_bytes(data)


def test_members_of_a_zip_that_cannot_be_read(place: Place) -> None:
    path = place.folder / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("locked", "huge", "bomb", "short", "ok", "crc", "moved", "never"):
            archive.writestr(f"{name}.png", IMAGES[0][1])
        archive.writestr("zeros.png", bytes(50_000_000))
        archive.writestr("bz2.png", IMAGES[0][1], zipfile.ZIP_BZIP2)
        file = io.BytesIO()
        Image.new("L", (6, 5), 7).save(file, "BMP")
        archive.writestr("flipped.bmp", file.getvalue(), zipfile.ZIP_STORED)
        archive.mkdir("folder.png")
    patched(path, "locked.png", flags=(8, "<H", 1))
    patched(path, "huge.png", size=(24, "<I", 2**31))
    patched(path, "bomb.png", size=(24, "<I", 20))
    patched(path, "short.png", size=(24, "<I", 2000))
    patched(path, "never.png", stored=(20, "<I", 2**32 - 1), size=(24, "<I", 2**32 - 1))
    patched(path, "crc.png", crc=(16, "<I", 7))
    patched(path, "moved.png", at=(42, "<I", 3))
    patched(path, "zeros.png", size=(24, "<I", 100))
    data = bytearray(path.read_bytes())
    data[data.index(b"BM", data.index(b"flipped.bmp")) + 1100] ^= 1  # a pixel
    path.write_bytes(data)
    names = ["locked.png", "huge.png", "bomb.png", "short.png", "ok.png", "crc.png", "moved.png",
             "never.png", "zeros.png", "bz2.png", "flipped.bmp", "folder.png"]  # fmt: skip
    failed = place.failures(place.manifest(f"a.zip/{name}" for name in names))
    assert set(names) - {name.removeprefix("a.zip/") for name in failed} == {"ok.png"}
    reasons = {name.removeprefix("a.zip/"): reason for name, reason in failed.items()}
    assert "encrypted" in reasons["locked.png"]
    assert "it says that it inflates to 2,147,483,648 bytes" in reasons["huge.png"]
    assert reasons["bomb.png"] == "expected 20 bytes, inflated 21"
    assert reasons["zeros.png"] == "expected 100 bytes, inflated 101"
    assert "expected 2,000 bytes, inflated" in reasons["short.png"]
    assert "checksum" in reasons["crc.png"]
    assert "checksum" in reasons["flipped.bmp"]
    assert "header" in reasons["moved.png"]
    assert reasons["never.png"] == "the archive ends within it"
    assert "another method than deflate" in reasons["bz2.png"]
    assert "folder" in reasons["folder.png"]


def test_a_sparse_member_is_refused(place: Place) -> None:
    path = place.folder / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind in (("sparse.png", tarfile.GNUTYPE_SPARSE), ("ok.png", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(IMAGES[0][1])
            archive.addfile(info, io.BytesIO(IMAGES[0][1]))
    failed = place.failures(place.folder / "a.tar")
    assert failed == {"sparse.png": "a sparse member: pack it anew, without --sparse"}


@ON_TWO
def test_an_archive_that_changes_while_it_is_read_ends_the_job(place: Place, n: int) -> None:
    path = place.pack("pax")
    manifest = place.manifest(f"photos.tar/{name}" for name in NAMES)
    wanted = place.ingest(manifest, out="wanted.h5").content_digest

    def touch() -> None:
        os.utime(path, ns=(1, os.stat(path).st_mtime_ns + 1))

    def changing(options: IngestOptions) -> Callable[[Any], IngestReport]:
        out = place.folder / "out.h5"
        return lambda comm: ingest(
            manifest, out, options, comm, watch=Meddler(touch) if comm.rank == 0 else None
        )

    for probe in ("auto", "all"):
        options = IngestOptions(**STACK, probe=probe, restart=True)
        with pytest.raises(ManifestError, match=r"photos\.tar: the archive was changed while"):
            on_ranks(n, changing(options))
        assert not (place.folder / "out.h5").exists()
        with pytest.raises(OutputError, match=r"photos\.tar: '.* ns' then, '.* ns' now"):
            place.ingest(manifest, n, **STACK)
    assert place.ingest(manifest, n, restart=True).content_digest == wanted


@pytest.mark.parametrize("how", ["gnu", "deflated"])
def test_a_job_goes_on(place: Place, how: str) -> None:
    path, out = place.pack(how), place.folder / "out.h5"
    watch, options = Stops(), IngestOptions(**STACK, checkpoint_s=0.001, readers=0)
    with pytest.raises(StoppedError):
        ingest(path, out, options, SerialComm(), watch=watch, interrupt=watch.interrupt)
    report = place.ingest(path, 3, **STACK)
    assert report.n_resumed
    assert report.n_changed == 0
    assert report.content_digest == place.ingest(place.plant()).content_digest


def test_any_damage_is_a_failure_by_name(place: Place) -> None:
    """Whatever stands in an archive: tables are made, and members are read or refused."""
    played = random.Random(21)
    wanted = {name.encode(): data for name, data in IMAGES[:12]}
    originals = {how: place.pack(how, IMAGES[:12], how).read_bytes() for how in PACKERS}
    kept = 0
    for round_ in range(300):
        how = played.choice([*PACKERS])
        data = bytearray(originals[how])
        for _ in range(played.randint(1, 4)):
            at = played.randrange(len(data)) if played.random() < 0.5 else -played.randint(1, 900)
            match played.randrange(4):
                case 0:
                    data[at] ^= 1 << played.randrange(8)
                case 1:
                    data[at] = played.choice(b"\x00\xff019 ")
                case 2:
                    del data[at : at + played.randint(1, 600)]
                case _:
                    data[at:at] = played.randbytes(played.randint(1, 40))
        path = place.folder / f"broken{PACKERS[how][0]}"
        path.write_bytes(data)
        archive, table = read_table(os.fsencode(path), Unpacker())
        archives = Archives([archive], os.fsencode(place.folder))
        for name in [*table.rows, b"none"]:
            [member] = table.find([name], 0).tolist()
            for limit in (None, 10):
                try:
                    found, size = archives.read((name, member), limit)
                except SampleError as error:
                    Failure(index=0, path="", kind=error.kind, reason=error.reason)
                    continue
                assert len(found) == (size if limit is None else min(size, limit)), round_
                if limit is None and how in ("stored", "deflated") and name in wanted:
                    kept += found == wanted[name]
    assert kept > 200


def test_heads_of_deflated_members(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_archive, "_PIECE", 100)
    data = random.Random(3).randbytes(30_000) + bytes(30_000)
    path = packed(place.folder / "a.zip", [("x", data)], zipfile.ZIP_DEFLATED)
    archive, table = read_table(os.fsencode(path), Unpacker())
    archives = Archives([archive], b"")
    [member] = table.find([b"x"], 0).tolist()
    for limit in (1, 50, 29_000, 59_999, 60_000, 60_001):
        found = archives.read((b"x", member), limit)
        assert found == (data[:limit], len(data)), limit
    reader = PathReader(os.fsencode(place.folder))
    assert reader.read(b"a.zip/x") == (data, len(data))
    with pytest.raises(SampleError, match="no such member"):
        reader.read(b"a.zip/y")


def test_small_members_in_their_order_are_read_many_at_a_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(5)
    sizes = [dice.choice([0, 1, 300, 900, 20_000]) for _ in range(500)] + [40_000, 300_000, 7]
    files = [(f"{k:03}", dice.randbytes(size)) for k, size in enumerate(sizes)]
    path = tar(place.folder / "a.tar", files)
    archive, table = read_table(os.fsencode(path), Unpacker())
    found = zip(files, table.find([name.encode() for name, _ in files], 0).tolist(), strict=True)
    members = [(name, data, member) for (name, data), member in found]
    read, lengths = os.pread, list[int]()

    def pread(fd: int, n_bytes: int, at: int) -> bytes:
        lengths.append(n_bytes)
        return read(fd, n_bytes, at)

    monkeypatch.setattr(os, "pread", pread)
    for order in (members, members[::-1], dice.sample(members, len(members))):
        lengths.clear()
        archives = Archives([archive], b"")
        for limit in (32, None):
            for name, data, member in order:
                found_now = archives.read((name.encode(), member), limit)
                assert found_now == (data[:limit], len(data))
        if order is members:
            assert len(lengths) < 60, "one for each 256 KiB, about"
        else:
            assert sum(lengths) < 3 * path.stat().st_size, "it is read twice, and little more"


def test_sizes_that_cannot_be() -> None:
    table = Table()
    for name, size in ((b"below", -1), (b"beyond", 2**64 - 1), (b"ok", 7)):
        table.add(name, 0, 512, size, size)
    found = table.find([b"ok", b"below", b"beyond", b"none"], 3)
    assert found["how"].tolist() == [0, CUT, CUT, NOT_THERE]
    assert found["size"].tolist() == [7, 0, 0, 0]
    assert set(found["archive"]) == {3}


def test_headers_of_a_tar_are_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_archive, "_MOST_HEADER", 1100)
    path = tar(place.folder / "a.tar", [("x" * 900 + ".png", b""), ("y" * 1100 + ".png", b"")])
    archive, table = read_table(os.fsencode(path), Unpacker())
    assert len(table.rows) == 1
    assert "a header of" in archive.problem


def test_a_reader_by_paths_keeps_few_names(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_NAMES", 3)
    monkeypatch.setattr(module, "MOST_OPEN", 2)
    for k in range(6):
        packed(place.folder / f"{k}.zip", [("a", b"%d" % k), ("b", b"")])
    reader = PathReader(os.fsencode(place.folder))
    for k in (0, 1, 2, 3, 4, 5, 0, 3):
        assert reader.read(b"%d.zip/a" % k) == (b"%d" % k, 1)


# --- as a command, on real ranks -----------------------------------------------------------------


@MPICH_SOON
def test_ranks_share_the_archives(place: Place, flavour: Flavour) -> None:
    wanted = place.ingest(place.plant(), out="wanted.h5").content_digest
    for how in ("pax", "deflated"):
        place.pack(how)
    for k in range(4):
        place.pack("stored", IMAGES[k::4], f"part{k}")
    order = [f"part{k}.zip/{name}" for k in range(4) for name, _ in IMAGES[k::4]]
    manifest = place.manifest(order)
    cut = place.folder / "cut.tar"
    cut.write_bytes((place.folder / "photos.tar").read_bytes()[:50_000])
    options = ["--probe=all", "--cache-bytes=0", "--readers=4"]
    done = flavour.checked().run_many(
        3,
        [
            [place.folder / "photos.tar", place.folder / "t.h5", *options],
            [place.folder / "photos.zip", place.folder / "z.h5"],
            [manifest, place.folder / "m.h5", *options],
            [cut, place.folder / "c.h5"],
        ],
        place.folder / "told",
    )
    assert [each.returncode for each in done] == [0, 0, 0, 4]
    assert [len(error_lines(each)) for each in done] == [0, 0, 0, 1]
    for name in ("t.h5", "z.h5"):
        assert read_file(place.folder / name).attrs["content_digest"] == wanted
    alone = place.ingest(manifest)
    assert read_file(place.folder / "m.h5").attrs["content_digest"] == alone.content_digest
