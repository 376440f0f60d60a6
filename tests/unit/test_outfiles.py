"""The user's files: what may be replaced, by what, and that exit code and files always agree."""

from __future__ import annotations

import ast
import errno
import json
import os
import shutil
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import h5py
import matplotlib.figure
import numpy as np
import pytest
from helpers.support import Meddler, make_pixels, read_file, write_images, write_manifest
from helpers.threads import on_ranks

import h5ingest
from h5ingest.bench import figures
from h5ingest.cli import progress
from h5ingest.cli.app import parse
from h5ingest.cli.main import run
from h5ingest.core import outfiles
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.inspect import canvas
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.run import ingest

PACKAGE = Path(h5ingest.__file__).parent
_PIXELS = make_pixels(9, (6, 5))
BOTH = IngestOptions(overwrite=True, overwrite_foreign=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder with nine small images, their manifest, a finished file and other files."""

    folder: Path
    manifest: Path
    out: Path
    """Where nothing is yet, alone in its folder."""

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def left(self) -> list[str]:
        """The names beside OUT, and its own."""
        return sorted(file.name for file in self.out.parent.iterdir())

    def check(self, out: Path) -> None:
        np.testing.assert_array_equal(read_file(out).arrays["images"], _PIXELS)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    manifest = write_manifest(folder / "m.txt", write_images(folder, _PIXELS))
    ingest(manifest, folder / "old.h5")
    write_manifest(folder / "other.csv", [("path", "label"), ("0003.png", 1)])
    (folder / "data.json").write_text('{"status": "mine"}')
    (folder / "made").mkdir()
    return folder


@pytest.fixture
def place(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A copy of it, in which the test works."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Place(folder=tmp_path, manifest=tmp_path / "m.txt", out=tmp_path / "made/out.h5")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """The command, in this process, which it neither ends nor leaves with its signal handlers."""
    monkeypatch.setattr(SerialComm, "abort", lambda _, code: None)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield lambda *words: run([str(word) for word in words])
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def everything(folder: Path) -> dict[str, object]:
    """All names below a folder, with what tells whether their files are still the same."""
    return {
        str(path): (path.lstat().st_ino, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


# --- before anything starts --------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "m.txt m.txt --overwrite",
        "m.txt ./made/../m.txt --overwrite",
        "m.txt to-manifest --overwrite",
        "m.txt hard-linked --overwrite",
        "to-manifest m.txt --overwrite",
        "made/x.h5.journal made/x.h5",
        "m.txt made/x.h5 --report made/x.h5",
        "m.txt made/x.h5 --report ./made//x.h5",
        "m.txt made/x.h5 --report to-made/x.h5",
        "m.txt made/x.h5 --report made/x.h5.partial",
        "m.txt made/x.h5 --croissant made/x.h5.failed.tsv",
        "m.txt old.h5 --overwrite --report to-old",
        "m.txt made/x.h5 --report m.txt",
        "m.txt made/x.h5 --report a.json --croissant to-made/../a.json",
        "m.txt made/x.h5 --report 0003.png",
        "m.txt made/x.h5 --croissant 0003.png",
        "m.txt made/x.h5 --report made",
        "m.txt made/x.h5 --report data.json",
        "m.txt made/x.h5 --report dangling",
        "m.txt made/x.h5 --report /dev/null",
        "m.txt made/x.h5 --croissant data.json",
        "verify old.h5 --report ./old.h5",
        "verify old.h5 --report to-old",
        "verify old.h5 --report 0003.png",
        "show old.h5 --sheet old.h5",
        "show old.h5 --sheet 0003.png",
        "show old.h5 --layers 0 --layers-to 0003.png",
        "show old.h5 --sheet a.png --layers 0 --layers-to ./a.png",
        "codecs m.txt --json m.txt",
        "codecs m.txt --plot 0003.png",
        "m.txt made/x.h5 --overwrite-foreign",
    ],
)
def test_what_would_cost_a_file_is_refused_before_anything(place: Place, words: str) -> None:
    for name, to in {
        "to-manifest": "m.txt", "to-made": "made", "to-old": "old.h5", "dangling": "nowhere",
    }.items():  # fmt: skip
        (place / name).symlink_to(to)
    os.link(place.manifest, place / "hard-linked")
    shutil.copy(place.manifest, place / "made/x.h5.journal")
    before = everything(place.folder)
    try:
        code = parse(words.split(), 1)
    except UsageError as error:
        code = error.exit_code
    assert code == 2
    assert everything(place.folder) == before


@pytest.mark.parametrize("name", ["m.txt", "made/../m.txt", "link", "hard-linked"])
def test_python_too_is_not_let_to_replace_the_manifest(place: Place, name: str) -> None:
    (place / "link").symlink_to("m.txt")
    os.link(place.manifest, place / "hard-linked")
    before = everything(place.folder)
    with pytest.raises(UsageError, match="is the same file as"):
        ingest(place.manifest, place / name, BOTH)
    assert everything(place.folder) == before


@pytest.mark.parametrize(
    "epoch", ["99999999999999", "9" * 30, "yesterday", "-1", "1.5", " 1"], ids=repr
)
def test_a_moment_that_cannot_be_is_refused_before_anything(
    place: Place, epoch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH: expected seconds"):
        ingest(place.manifest, place.out)
    assert place.left() == []


def test_a_name_is_refused_from_the_byte_on_at_which_others_cannot_be_made_of_it(
    place: Place,
) -> None:
    most = os.pathconf(place.folder, "PC_NAME_MAX") - 42
    for n in (most + 1, most + 5, 218, 255, 256, 5000):
        with pytest.raises(OutputError, match=f"at most {most} bytes, found {n}"):
            ingest(place.manifest, place.out.with_name("x" * n))
    assert place.left() == []
    longest = place.out.with_name("é" * (most // 2) + "x" * (most % 2))
    ingest(place.manifest, longest)
    place.check(longest)


# --- what is replaced --------------------------------------------------------------------------


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


def _with_user_block(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = 1
    with path.open("r+b") as raw:
        raw.write(Path("0003.png").read_bytes())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("precious"), "a text file"),
        (lambda path: path.write_bytes(b"\0\1\2\3"), "a file of another kind"),
        (lambda path: path.touch(), "an empty file"),
        (lambda path: shutil.copy("other.csv", path), "a text file"),
        (lambda path: shutil.copy("0003.png", path), "an image"),
        (lambda path: os.link("0003.png", path), "an image"),
        (_with_user_block, "an image"),
        (lambda path: path.mkdir(), "a folder"),
        (os.mkfifo, "a FIFO"),
        (_socket, "a socket"),
        (_device, "a device"),
        (lambda path: path.symlink_to("nowhere"), "a symbolic link to nowhere, which does not"),
        (lambda path: path.symlink_to("../old.h5"), "a symbolic link to ../old.h5"),
    ],
)
@pytest.mark.parametrize("appears", ["before", "while it runs"])
def test_only_an_hdf5_file_is_ever_replaced(
    place: Place, make: Callable[[Path], object], said: str, appears: str
) -> None:
    watch = Meddler(lambda: make(place.out) if appears == "while it runs" else None)
    if appears == "before":
        make(place.out)
    with pytest.raises(OutputError, match=f"(found|as) {said}"):
        ingest(place.manifest, place.out, BOTH, watch=watch)
    found = place.out.lstat()
    made = place.out.with_name("again.h5")
    make(made)
    assert stat.S_IFMT(found.st_mode) == stat.S_IFMT(made.lstat().st_mode)
    if stat.S_ISREG(found.st_mode) and said != "an image":
        assert place.out.read_bytes() == made.read_bytes()
    elif said == "an image":
        assert place.out.read_bytes()[:60] == (place / "0003.png").read_bytes()[:60]
    assert (place / "old.h5").exists()


def test_what_h5ingest_did_not_write_is_replaced_only_by_a_second_word(place: Place) -> None:
    def foreign(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file["mine"] = np.arange(9)

    def damaged(path: Path) -> None:
        path.write_bytes((place / "old.h5").read_bytes()[:600])

    for make in (foreign, damaged):
        make(place.out)
        before = everything(place.out.parent)
        for options in (IngestOptions(), IngestOptions(overwrite=True)):
            with pytest.raises(OutputError, match="--overwrite-foreign"):
                ingest(place.manifest, place.out, options)
            assert everything(place.out.parent) == before
        ingest(place.manifest, place.out, BOTH)
        place.check(place.out)
    ingest(place.manifest, place.out, IngestOptions(overwrite=True))  # its own: one word does
    with pytest.raises(OutputError, match="exists already; --overwrite"):
        ingest(place.manifest, place.out)


@pytest.mark.parametrize("n_ranks", [1, 3])
@pytest.mark.parametrize("name", ["made/out.h5", "link.png", "hard.png"])
def test_a_source_is_never_replaced(place: Place, name: str, n_ranks: int) -> None:
    """An HDF5 file among the images can only be one that failed."""
    shutil.copy(place / "old.h5", place.out)
    (place / "link.png").symlink_to("made/out.h5")
    os.link(place.out, place / "hard.png")
    manifest = write_manifest(place / "all.txt", [*(f"000{i}.png" for i in range(8)), name])
    before = everything(place.out.parent)
    options = IngestOptions(overwrite=True, on_error="blank")
    with pytest.raises(OutputError, match=f"a file of the manifest .sample 8: {name}"):
        on_ranks(n_ranks, lambda comm: ingest(manifest, place.out, options, comm))
    assert everything(place.out.parent) == before


@pytest.mark.parametrize("links", ["hard links", "none"])
def test_an_output_that_appears_while_the_job_runs_is_kept(
    place: Place, links: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if links == "none":

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    number: list[int] = []

    def noted() -> None:
        shutil.copy(place / "old.h5", place.out)
        number.append(place.out.stat().st_ino)

    appear = Meddler(noted)
    with pytest.raises(OutputError, match=r"(?s)exists already.*All images are stored"):
        ingest(place.manifest, place.out, watch=appear)
    assert [place.out.stat().st_ino] == number
    place.out.rename(place.out.with_name("theirs.h5"))
    report = ingest(place.manifest, place.out)
    assert report.n_resumed == 9
    place.check(place.out)
    assert place.left() == ["out.h5", "theirs.h5"]


def test_an_output_with_two_names_is_not_written_any_more(place: Place) -> None:
    """As a kill leaves it, between the link and the removal of the other name."""

    def leave() -> int:
        shutil.copy(place / "old.h5", place.out)
        os.link(place.out, place.out.with_name("out.h5.partial"))
        place.out.with_name("out.h5.journal").write_text("whatever")
        return place.out.stat().st_ino

    published = leave()
    with pytest.raises(OutputError, match="exists already"):
        ingest(place.manifest, place.out)
    assert place.left() == ["out.h5"]
    assert place.out.stat().st_ino == published
    place.out.unlink()
    published = leave()
    ingest(place.manifest, place.out, IngestOptions(overwrite=True))
    assert place.left() == ["out.h5"]
    assert place.out.stat().st_ino != published
    place.check(place.out)


@pytest.mark.parametrize("ending", ["failed.tsv", "journal"])
def test_what_lies_beside_the_output_and_is_not_of_a_job_is_kept(place: Place, ending: str) -> None:
    table = place.out.with_name(f"out.h5.{ending}")
    for make in (
        lambda: table.write_text("precious\t1\n"),
        lambda: table.symlink_to("../other.csv"),
        table.mkdir,
    ):
        make()
        before = everything(place.folder)
        with pytest.raises(OutputError, match=f"{ending}: expected .* to replace"):
            ingest(place.manifest, place.out)
        assert everything(place.folder) == before
        table.rmdir() if table.is_dir() and not table.is_symlink() else table.unlink()


# --- exit code and files -----------------------------------------------------------------------


def _unlink_fails(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    really = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith(ending):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        really(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)


def _folder_sync_fails(monkeypatch: pytest.MonkeyPatch, folder: Path, after: Path) -> None:
    really = outfiles.sync

    def sync(path: Path) -> None:
        if path == folder and after.exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        really(path)

    monkeypatch.setattr(outfiles, "sync", sync)


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("report", "reports/r.json"),
        ("croissant", "reports/c.json"),
        ("journal", "what was beside it stays"),
        ("lock", "out.h5 holds 9"),
        ("folder", "a crash of the machine might undo its name"),
    ],
)
def test_once_published_the_exit_code_is_0(
    place: Place, fails: str, said: str,
    command: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    reports = place / "reports"
    reports.mkdir()
    meddle: Callable[[], object] = list
    more: list[str | Path] = ["--report", place / "ok.json", "--croissant", place / "ok2.json"]
    if fails in ("report", "croissant"):
        meddle = reports.rmdir
        more[more.index(f"--{fails}") + 1] = reports / f"{fails[0]}.json"
    elif fails in ("journal", "lock"):
        _unlink_fails(monkeypatch, f"out.h5.{fails}")
    else:
        _folder_sync_fails(monkeypatch, place.out.parent, place.out)
    monkeypatch.setattr(progress, "start", lambda *_: _Closing(meddle))
    code = command(place.manifest, place.out, *more)
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert said in " ".join((printed.out + printed.err).split())
    assert "Traceback" not in printed.err
    place.check(place.out)
    names = {"ok.json": "report", "ok2.json": "croissant"}
    assert [name for name in names if (place / name).exists()] == [
        name for name, step in names.items() if step != fails
    ]


class _Closing(Meddler):
    def close(self) -> None:
        pass

    def notice(self, text: str) -> None:
        pass


def test_failed_images_are_the_exit_code_even_if_the_report_cannot_be_written(
    place: Place, command: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    reports = place / "reports"
    reports.mkdir()
    (place / "0003.png").write_bytes((place / "0003.png").read_bytes()[:-20])
    monkeypatch.setattr(progress, "start", lambda *_: _Closing(reports.rmdir))
    assert command(place.manifest, place.out, "--report", reports / "r.json") == 3
    assert "h5ingest: warning: --report" in capsys.readouterr().err
    assert not place.out.exists()


def test_a_folder_that_goes_while_the_job_runs_is_said(place: Place) -> None:
    folder = place.out.parent
    with pytest.raises(OutputError, match=f"{folder}: the folder is gone"):
        ingest(place.manifest, place.out, watch=Meddler(lambda: shutil.rmtree(folder)))
    assert not folder.exists()


# --- the one function --------------------------------------------------------------------------


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f.tsv"
    table = b"index\tpath\tkind\treason\n"
    outfiles.write(path, table + b"1", outfiles.FAILURES)

    def broken(file: BinaryIO) -> None:
        file.write(table)
        raise OSError(errno.ENOSPC, "No space left on device")

    def stopped(file: BinaryIO) -> None:
        file.write(table)
        raise KeyboardInterrupt

    with pytest.raises(OutputError, match=r"f\.tsv: No space left"):
        outfiles.write(path, broken, outfiles.FAILURES)
    with pytest.raises(KeyboardInterrupt):
        outfiles.write(path, stopped, outfiles.FAILURES)
    for kind in (outfiles.RESULTS, outfiles.PICTURE, outfiles.MANIFEST):
        with pytest.raises(OutputError, match="found a text file: remove it or name another"):
            outfiles.write(path, b"", kind)
    with pytest.raises(OutputError, match="exists"):
        outfiles.write(path, b"", outfiles.FAILURES, replace=False)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="found a folder"):
        outfiles.write(tmp_path / "folder", b"", outfiles.FAILURES)
    assert path.read_bytes() == table + b"1"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["f.tsv", "folder"]
    outfiles.write(path, lambda file: file.write(table + b"2"), outfiles.FAILURES)
    assert path.read_bytes() == table + b"2"


def test_what_appears_while_a_file_is_written_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    for replace in (True, False):
        with pytest.raises(OutputError):
            outfiles.write(
                path, lambda _: path.write_text("precious"), outfiles.RESULTS, replace=replace
            )
        assert path.read_text() == "precious"
        assert list(tmp_path.iterdir()) == [path]
        path.unlink()


def test_what_a_verb_wrote_it_writes_again(place: Place, command: Callable[..., int]) -> None:
    """Each kind is known again by its first bytes."""
    commands = [
        ["m.txt", "made/out.h5", "--report", "r.json", "--croissant", "c.json", "--overwrite"],
        ["verify", "made/out.h5", "--report", "v.json"],
        ["show", "made/out.h5", "--sheet", "s.png", "--layers", "1", "--layers-to", "l.png"],
        ["manifest", ".", "-o", "list.csv", "--overwrite"],
        ["manifest", ".", "-o", "list.tsv", "--overwrite", "--label", "none"],
    ]
    for words in commands * 2:
        assert command(*words) == 0, words
    assert json.loads((place / "r.json").read_text())["status"] == "complete"
    figure = figures.figure(3, 2, "title")
    drawn = place / "drawn.png"
    drawn.write_bytes(figures.to_png(figure))
    outfiles.check(drawn, outfiles.PICTURE)
    matplotlib.figure.Figure().savefig(drawn, metadata=outfiles.PNG_TEXT)
    outfiles.check(drawn, outfiles.PICTURE)
    matplotlib.figure.Figure().savefig(drawn)
    with pytest.raises(OutputError, match="found an image"):
        outfiles.check(drawn, outfiles.PICTURE)
    assert canvas.signed().chunks


@pytest.mark.parametrize("out", [".", "/", "..", "made"])
def test_a_folder_is_no_output(
    out: str, place: Place, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(place.folder)
    assert command("ingest", "m.txt", out) == OutputError.exit_code
    message = f"{out}: expected the name of a file to make, found a folder"
    assert message in capsys.readouterr().err
    assert everything(place.folder) == before


def test_a_manifest_of_a_folder_replaces_only_a_manifest(
    place: Place, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(place.folder)
    for name in ("m.txt", "old.h5", "0003.png", "data.json", "made"):
        assert command("manifest", ".", "-o", name, "--overwrite") == OutputError.exit_code
        assert "expected a manifest" in capsys.readouterr().err
    assert command("manifest", ".", "-o", "other.csv") == OutputError.exit_code
    assert "exists; --overwrite" in capsys.readouterr().err
    assert everything(place.folder) == before


# --- every place that writes -------------------------------------------------------------------

WRITERS = {
    "core.outfiles:write": "the one function, under a name that nobody knows",
    "core.outfiles:give_name": "the only one that gives a file a name that the user chose",
    "core.outfiles:give_folder_name": "the only one that does so for a folder",
    "exports.folder:_new": "DIR.partial/files/*, new",
    "storage.lock:Lock._write": "OUT.lock, new",
    "storage.lock:Lock._create": "OUT.lock, new",
    "storage.lock:Lock._take_over": "OUT.lock of a job that is gone, by who has the claim to it",
    "storage.journal:Journal.__init__": "OUT.journal",
    "storage.job_files:reserve": "OUT.partial, new",
    "storage.lustre_stripes:_create_striped": "OUT.partial, new",
    "storage.job_files:set_aside": "OUT.partial and OUT.journal, to OUT.….old",
    "storage.job_files:_copy": "OUT.partial and OUT.journal, from OUT.….old",
    "storage.raw_file:RawFile.__init__": "OUT.partial",
    "storage.raw_file:RawFile.resize": "OUT.partial",
    "storage.raw_file:reopened": "OUT.partial",
    "storage.chunk_placer:ChunkPlacer.__init__": "OUT.partial",
    "storage.placed_file:PlacedFile.__init__": "OUT.partial",
    "storage.direct_io:DirectFile.__init__": "OUT.partial",
    "storage.mpio_writer:MpioWriter.__init__": "OUT.partial",
    "storage.chunk_placer:ChunkPlacer._flush": "OUT.partial",
    "storage.metadata_driver:Metadata.__init__": "OUT.partial",
    "storage.checkpoints:Checkpoints.open": "OUT.partial",
    "storage.spool:Spool.add": "OUT.recoded/*",
    "storage.spool:SpoolReader.read": "only read",
    "storage.compress:Compressor.__init__": "in memory",
    "diagnostics.codec_trial:_differing": "in memory",
    "inspect.page:Picture.png": "in memory",
    "diagnostics.host_blocks:wrong_blocks.have": "the trial's own folder",
    "diagnostics.host_pair:write_file": "the trial's own folder",
    "diagnostics.host_trial:_Steps._delays": "the trial's own folder",
    "diagnostics.host_trial:_Steps._replaced.replace": "the trial's own folder",
    "diagnostics.host_trial:_Steps.run": "the trial's own folder",
    "diagnostics.host_trial:_create": "the trial's own folder",
    "mpi.comm:SerialComm.create": "OUT.partial, new, with stripes",
    "pipeline.manifest_draft:Draft.temporary": "no name",
    "pipeline.standard_input:StandardInput.__init__": "a temporary file",
    "images.unpacked:Unpacker.unpack": "OUT.unpacked/*, or a folder of its own",
    "images.unpacked:Unpacker._made_folder": "a folder of its own",
    "images.tar_archive:TarArchive.table": "a link within an archive: no file",
    "cli.main:_manifest": "standard output",
    "cli.streams:keep": "standard streams that the caller closed: /dev/null",
    "inspect.canvas:save": "what the one function has opened",
    "inspect.codec_table:draw": "what the one function has opened",
    "inspect.contact_sheet:sheet": "by canvas.save",
    "inspect.contact_sheet:layers": "by canvas.save",
    "core.outfiles:_look": "only read",
    "reading.open_file:open_file": "only read",
    "storage.journal:_opened": "only read",
    "inspect.codecs:_measure": "a temporary folder",
    "inspect.codecs:_write": "a temporary folder",
    "inspect.judge:_answer_all": "/dev/null",
    "inspect.judge:_take_the_blame": "/proc: what this process is worth",
}
"""Function -> what it opens for writing, or renames."""


def test_nothing_else_opens_a_file_for_writing() -> None:
    found = set()
    for file in sorted(PACKAGE.rglob("*.py")):
        module = file.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
        for where, call in _calls(ast.parse(file.read_text("utf-8")), ""):
            if _writes(call) and not module.startswith("bench."):
                found.add(f"{module}:{where}")
    assert found == set(WRITERS)


def test_benchmarks_write_only_where_they_have_made_a_folder() -> None:
    """What they are told to write, their verbs write by the one function."""
    found = {
        file.stem
        for file in (PACKAGE / "bench").glob("*.py")
        if any(_writes(call) for _, call in _calls(ast.parse(file.read_text("utf-8")), ""))
    }
    given_a_place = {"backends", "corpus", "hdf5", "image_sets", "lineup", "synthetic"}
    in_memory = {"figures"}
    make_one = {"storage", "reading", "scaling"}
    assert found == given_a_place | in_memory | make_one
    for name in make_one:
        text = (PACKAGE / "bench" / f"{name}.py").read_text("utf-8")
        assert 'TemporaryDirectory(prefix="h5ingest-bench-", dir=folder)' in text


def _calls(node: ast.AST, where: str) -> Iterator[tuple[str, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        inside = where
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inside = f"{where}.{child.name}".strip(".")
        if isinstance(child, ast.Call):
            yield where, child
        yield from _calls(child, inside)


def _writes(call: ast.Call) -> bool:
    """Whether a call opens, makes or renames a file; too much is better than too little."""
    name = ast.unparse(call.func)
    method = name.rpartition(".")[2]
    words = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    words += [k.value.value for k in call.keywords if k.arg == "mode"]  # type: ignore[attr-defined]
    flags = " ".join(ast.unparse(argument) for argument in call.args)
    if name == "os.open":
        return "O_RDONLY" not in flags and "_FLAGS" not in flags
    if name.endswith("h5f.open"):
        return "RDWR" in flags
    if method == "open" and name != "lmdb.open":
        modes = [w for w in words if set(w) <= set("rwaxbt+")]
        return any(set(mode) & set("wax+") for mode in modes) or "opener" in flags
    if method == "File" and "h5py" in name:
        return "r" not in words
    if method == "replace":
        return len(call.args) == 1 and not call.keywords
    return method in _WRITING or name in ("lmdb.open", "h5py.h5f.create", "shutil.copy")


_WRITING = {
    "write_text", "write_bytes", "rename", "renames", "link", "symlink", "symlink_to",
    "hardlink_to", "touch", "truncate", "ftruncate", "save", "savez", "savefig", "copy2",
    "copyfile", "move", "mknod", "mkfifo", "creat", "tofile", "TemporaryFile",
    "NamedTemporaryFile", "TemporaryDirectory", "mkstemp", "mkdtemp",
}  # fmt: skip
"""Names of functions that make, fill or rename a file."""
