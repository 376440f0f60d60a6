"""What a newcomer meets first: help, the ten worst messages of once, the summary, `show`."""

from __future__ import annotations

import io
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import typer.main
from helpers.support import (
    clean_environment,
    explain,
    make_pixels,
    run,
    write_images,
    write_manifest,
    write_png,
)
from helpers.threads import on_ranks
from rich.console import Console

import h5ingest
from h5ingest import ImageStore
from h5ingest.cli import app
from h5ingest.cli.export_command import export_one, tell_export
from h5ingest.cli.messages import Status
from h5ingest.cli.progress import BarProgress
from h5ingest.cli.requests import ExportRequest, IngestRequest
from h5ingest.cli.summary import MOST_LINES, summary
from h5ingest.core.errors import (
    Failure,
    IngestError,
    ManifestError,
    OutputError,
    StorageError,
    UsageError,
)
from h5ingest.core.notes import Note
from h5ingest.core.options import IngestOptions
from h5ingest.core.units import MIB
from h5ingest.images.scan import ScanOptions
from h5ingest.images.scan_summary import describe
from h5ingest.inspect import contact_sheet, show
from h5ingest.inspect.compression_hint import compression_hint
from h5ingest.pipeline.extend import extend
from h5ingest.pipeline.run import ingest
from h5ingest.pipeline.scan_folder import write_manifest as write_a_manifest
from h5ingest.storage.datasets import output_errors

OF_TEN = ("--root", "--layout", "--group-by", "--fit", "--size", "--compression", "--on-error",
          "--overwrite", "--dry-run", "--report")  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a user works in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def page(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert app.parse([*words, "--help"], 1) == 0
    return capsys.readouterr().out


# --- help ----------------------------------------------------------------------------------------


def test_every_page_of_the_help_fits_and_has_no_noise(capsys: pytest.CaptureFixture[str]) -> None:
    group: Any = typer.main.get_command(app.make_app())
    bench = [["bench", verb] for verb in group.commands["bench"].commands]
    for words in ([], *([verb] for verb in app.VERBS), *bench):
        lines = page(capsys, *words).splitlines()
        assert max(map(len, lines)) <= 80, words
        assert lines[0].startswith(f"Usage: {' '.join(['h5ingest', *words])} "), words
        names = "\n".join(line[:26] for line in lines if line.startswith("  -"))
        assert not re.search(r"[<>{}\[\]]|bool", names), words
        assert all(" -" not in name[4:] or "," in name for name in names.splitlines()), words


def test_the_help_begins_with_three_examples_and_lists_verbs_by_need(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = page(capsys).splitlines()
    examples = [line for line in lines if re.match("  (mpirun -n 64 )?h5ingest ", line)]
    assert [lines.index(line) for line in examples] == [5, 6, 7]
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == [
        *(f"{heading}:" for heading in dict.fromkeys(app.VERBS.values())), "Options:",
    ]  # fmt: skip
    listed = [line.split()[0] for line in lines if re.match("  [a-z]+  ", line)]
    assert listed == list(app.VERBS)
    for example in examples:
        words = example.split("h5ingest ")[1].split("  ")[0].split()
        Path(words[0]).touch()
        assert isinstance(app.parse(words, 1), IngestRequest)


def test_the_ten_options_that_are_used_most_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, "ingest")
    first = text[text.index("Used most:") :].split("\n\n")[0]
    assert tuple(re.findall(r"^  (--[a-z-]+)", first, re.MULTILINE)) == OF_TEN
    assert text.index("Used most:") < text.index("The manifest:")
    assert text.rstrip().splitlines()[-1].endswith("goes on.")  # exit codes come last
    assert "  --sort name|natural " in text


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("h5ingest sh", ["show"]),
        ("h5ingest photos out.h5 --comp", ["--compression"]),
        ("h5ingest ingest a b --layout e", ["encoded"]),
        ("h5ingest bench sc", ["scaling"]),
        ("h5ingest verfy x --ro", ["--root"]),
    ],
)
def test_the_shell_completes(
    typed: str, expected: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("_H5INGEST_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert app.parse([], 1) == 0
    assert capsys.readouterr().out.split() == expected


# --- messages ------------------------------------------------------------------------------------


@pytest.fixture
def photos(here: Path) -> Path:
    """Twelve photographs of two sizes, in two folders; a grouped file, and half of it."""
    for place, n, size in (("ant", 8, (30, 40)), ("bee", 4, (20, 50))):
        write_images(here / "photos" / place, make_pixels(n, (*size, 3)))
    write_manifest(here / "m.csv", [("path", "cls"), *_of(here, "photos")])
    ingest(here / "m.csv", here / "g.h5", IngestOptions(group_by="cls"))
    (here / "half.h5").write_bytes((here / "g.h5").read_bytes()[:20_000])
    return here


def _of(here: Path, name: str) -> list[tuple[str, str]]:
    files = sorted((here / name).rglob("*.png"))
    return [(str(file.relative_to(here)), file.parent.name) for file in files]


def said(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The error of a command, carried out here."""
    try:
        request = app.parse(words.split(), 1)
        if isinstance(request, IngestRequest):
            ingest(request.source, request.out, request.options)
    except IngestError as error:
        return str(error)
    return capsys.readouterr().err


WORST = {
    "photos/ant/{0} o.h5": (
        "photos/ant/{0}: ", "expected a text file", "found an image (PNG)",
        "give the folder that it lies in",
    ),
    "g.h5 o.h5": ("g.h5: ", "expected a text file", "found an HDF5 file", "h5ingest show, verify"),
    "m.csv o.h5 --size 3x": (
        "--size: ", "expected HEIGHTxWIDTH such as 224x224", "got '3x'",
        "Try 'h5ingest ingest --help'",
    ),
    "verfy g.h5": (
        "no file or folder 'verfy'", "no such verb", "'verfy'", "did you mean verify?",
    ),
    "show g.h5 --sheet s.png": (
        "g.h5: ", "expected a group, one of ant, bee", "got none", "say --group NAME",
    ),
    "m.csv o.h5 --fit crop --size 25x25": (
        "4 x 20x50 RGB uint8 (first: line 10: photos/bee/", "the images do not fit together",
        "--fit crop to 25x25 is larger than these images", "--fit cover scales each first",
    ),
    "show half.h5": ("half.h5: ", "bytes, found 20,000", "the end is missing", "Copy it again"),
    "quoted.txt o.h5": (
        'line 1: "photos/ant/{0}"', "no such file", "quotes are part of a path", "take them away",
    ),
    "comments.txt o.h5": (
        "line 1: # photos", "no such file", "a manifest has no comments", "take away lines",
    ),
    "deep.csv o.h5 --fit resize --size 9x9": (
        "1 x gray uint16 (first: line 14: deep.png)", "12 x RGB uint8", "8 and 16 bits are mixed",
        "--dtype uint16 makes all 16 bits",
    ),
}  # fmt: skip
"""Command -> where, what was expected, what was found, what to do."""


def test_the_ten_worst_messages_say_where_what_and_what_to_do(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = min(file.name for file in (photos / "photos/ant").iterdir())
    (photos / "quoted.txt").write_text(f'"photos/ant/{first}"\nphotos/ant/{first}\n')
    (photos / "comments.txt").write_text(f"# photos of ants\nphotos/ant/{first}\n")
    write_png(photos / "deep.png", make_pixels(1, (8, 8), "uint16")[0])
    deep = (photos / "m.csv").read_text() + "deep.png,deep\n"
    (photos / "deep.csv").write_text(deep)
    assert len(WORST) == 10
    for words, parts in WORST.items():
        message = said(words.replace("{0}", first), capsys)
        assert len(parts) == 4
        for part in parts:
            assert part.replace("{0}", first) in message, f"{words}\n{message}"
        assert message.count("\n") <= 6, message
        assert "Traceback" not in message
        assert not (photos / "o.h5").exists()


SLIPS = {
    "g.h5 photos": (
        "OUT photos: expected the HDF5 file, found a folder",
        "did you mean MANIFEST photos, OUT g.h5?",
    ),
    "new.h5 photos": ("did you mean MANIFEST photos, OUT new.h5?",),
    "extend g.h5 m.csv": (
        "OUT m.csv: expected the HDF5 file, found a text file", "MANIFEST m.csv, OUT g.h5?",
    ),
    "photo o.h5": ("no file or folder 'photo', and no such verb; did you mean photos?",),
    "photos": ("Missing argument 'OUT': the HDF5 file to make\n", "h5ingest ingest --help"),
    "g.h5": ("Missing argument 'OUT'", "to look at one: h5ingest show g.h5"),
    "manifest photos m.csv": ("Missing option '-o' / '--out': the manifest to write",),
    "photos o.h5 --fit": ("'--fit' requires an argument", "Try 'h5ingest ingest --help'"),
    "photos o.h5 --group-by split": (
        "expected a column 'split' to group by, found path, label", "--group-by-folder 1",
        "--split train:0.8,val:0.2",
    ),
    "export g.h5 o --rows 5:2": ("--rows: expected an END beyond FIRST, as in 10:20, got 5:2",),
}  # fmt: skip
"""Command -> what is said, with what was meant."""


def test_slips_are_answered_with_what_was_meant(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(photos.rglob("*"))
    for words, parts in SLIPS.items():
        message = said(words, capsys)
        for part in parts:
            assert part in message, f"{words}\n{message}"
    assert sorted(photos.rglob("*")) == before


def test_a_folder_that_is_called_almost_like_a_verb_is_a_folder(photos: Path) -> None:
    (photos / "verif").mkdir()
    request = app.parse(["verif", "o.h5"], 1)
    assert isinstance(request, IngestRequest)
    assert request.source == Path("verif")


def test_a_file_that_is_not_complete_yet_is_said_to_be_so(photos: Path) -> None:
    with h5py.File("o.h5.partial", "w") as file:
        file["images"] = [1]
    with pytest.raises(OutputError, match=r"o\.h5: not complete yet.* the same command"):
        ImageStore("o.h5")
    with pytest.raises(OutputError, match=r"names no schema yet; start the command"):
        ImageStore("o.h5.partial")


def test_what_may_not_be_read_or_looked_into_is_an_error_of_its_own(photos: Path) -> None:
    (photos / "inside").mkdir(mode=0)
    for name in ("g.h5", "m.csv"):
        (photos / name).chmod(0)
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] * (not os.geteuid())
    for words, code in (
        ("show g.h5", 5), ("verify g.h5", 5), ("export g.h5 copy", 5), ("photos g.h5", 5),
        ("m.csv o.h5", 4), ("photos inside/o.h5", 5), ("export g.h5 inside/copy", 5),
        ("doctor inside/o.h5", 0), ("doctor " + "x" * 300 + "/o.h5", 5),
    ):  # fmt: skip
        command = [*bound, sys.executable, "-m", "h5ingest", *words.split()]
        done = run(command, env=clean_environment(), cwd=photos)
        assert done.returncode == code, explain(done)
        assert "Traceback" not in done.stderr
        assert "Permission denied" in done.stderr or "doctor" in words, explain(done)


def test_a_file_that_was_cut_short_is_called_so_by_every_verb(photos: Path) -> None:
    (photos / "other.h5").write_bytes(b"")
    with h5py.File(photos / "other.h5", "w") as file:
        file["x"] = [1]
    cut = r"half\.h5.*expected [\d,]+ bytes, found 20,000: the end is missing"
    works: list[tuple[Callable[[], object], str]] = [
        (lambda: ingest(photos / "half.h5", photos / "o.h5"), cut),
        (lambda: extend(photos / "m.csv", photos / "half.h5"), cut),
        (lambda: extend(photos / "m.csv", photos / "other.h5"), "not one of h5ingest"),
        (lambda: extend(photos / "m.csv", photos / "m.csv"), r"m\.csv: not an HDF5 file"),
    ]
    for work, wanted in works:
        with pytest.raises(IngestError, match=wanted) as caught:
            work()
        assert "eof" not in str(caught.value)
        assert "--overwrite" not in str(caught.value)


def test_one_image_or_references_are_exported_with_a_word(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, wanted in (
        ("--row 1 --group bee", r"one\.png: row 1 of g\.h5, [\d.]+ KiB"),
        ("--row 1 --group bee -q", ""),
        ("--kerchunk --group bee", r"one\.png: references to g\.h5, [\d.]+ KiB"),
    ):
        (photos / "one.png").unlink(missing_ok=True)
        request = app.parse(["export", "g.h5", "one.png", *words.split()], 1)
        assert isinstance(request, ExportRequest)
        export_one(request)
        assert re.fullmatch(wanted, capsys.readouterr().out.strip()), words
    assert "only --group and --url" in said("export g.h5 r.json --kerchunk --row 0", capsys)


def test_an_export_counts_as_everything_else_does(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = app.parse(["export", "g.h5", "out-%d.tar"], 1)
    assert isinstance(request, ExportRequest)
    report = h5ingest.export(Path("g.h5"), Path("out-%d.tar"), request.options)
    tell_export(replace(report, n_images=1000, n_ranks=1000, n_kept=1), request)
    text = capsys.readouterr().out
    assert re.match(r"out-%d\.tar: 1,000 images, .* s on 1,000 ranks\n", text), text
    assert "kept, as they were there already: 1 shard\n" in text


def test_columns_show_their_names(here: Path) -> None:
    rows = [("path", "a", "b"), (write_images(here, make_pixels(1, (4, 4)))[0], "1", "x")]
    ingest(write_manifest(here / "m.csv", rows), here / "o.h5")
    with ImageStore(here / "o.h5") as store:
        assert repr(store.columns) == "Columns(a, b)"


def test_a_terminal_that_knows_few_letters_ends_no_verb(photos: Path) -> None:
    name = "M\u00e4use.h5"
    ingest(photos / "m.csv", photos / name, IngestOptions(label_column="cls", fit="pad"))
    poor = clean_environment({"LC_ALL": "C", "PYTHONUTF8": "0"})
    done = run([sys.executable, "-m", "h5ingest", "show", name], env=poor, cwd=photos)
    assert done.returncode == 0, explain(done)
    assert "ant  8  ########################" in done.stdout


def test_what_the_system_says_is_said_without_names_that_no_user_knows(here: Path) -> None:
    with pytest.raises(StorageError) as caught, output_errors("o.h5.lock: cannot be created"):
        (here / "no" / "o.h5.lock.2c72938d").write_text("")
    assert str(caught.value) == "o.h5.lock: cannot be created: No such file or directory"


# --- manifests -----------------------------------------------------------------------------------


def test_a_manifest_may_come_through_a_pipe(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [path for path, _ in _of(photos, "photos")]
    for text in ((photos / "m.csv").read_text(), "\n".join(paths)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        report = ingest(Path("-"), photos / "o.h5", IngestOptions(fit="pad", overwrite=True))
        assert report.n_samples == 12
        with ImageStore(photos / "o.h5") as store:
            assert list(store.paths) == paths
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.png,1\n")))
    with pytest.raises(IngestError, match=r"-: none of its 1 file exists"):
        ingest(Path("-"), photos / "p.h5")

    def several(comm: Any) -> None:
        with pytest.raises(
            UsageError, match="-: standard input is read by one rank, this job has 2"
        ):
            ingest(Path("-"), photos / "p.h5", comm=comm)

    on_ranks(2, several)


def test_a_pipe_is_taken_as_standard_input_only(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo("list")
    for path in (Path("list"), Path("-")):  # nobody writes to the one, the other is closed
        monkeypatch.setattr(sys, "stdin", None)
        wanted = "found a pipe.*h5ingest - OUT" if path.name == "list" else "standard input.*closed"
        with pytest.raises(ManifestError, match=wanted):
            ingest(path, photos / "o.h5")


@pytest.mark.parametrize(
    "header", ["label,path", "LABEL\tFile", "id,label,filename", "n\timage\tlabel"]
)
def test_the_column_of_paths_may_be_anywhere(header: str, photos: Path) -> None:
    tab = "\t" if "\t" in header else ","
    names = [name.lower() for name in header.split(tab)]
    rows = [
        [{"label": label}.get(name, path if name in ("path", "file", "filename", "image") else "7")
         for name in names]
        for path, label in _of(photos, "photos")
    ]  # fmt: skip
    manifest = photos / ("x.txt" if tab == "\t" else "x.csv")
    manifest.write_text("\n".join([header, *(tab.join(row) for row in rows)]))
    ingest(manifest, photos / "x.h5", IngestOptions(fit="pad"))
    with ImageStore(photos / "x.h5") as store:
        assert list(store.paths) == [path for path, _ in _of(photos, "photos")]
        assert store.label_names == ("ant", "bee")
        assert set(store.columns) == set(names) & {"id", "n"}


def test_a_path_may_begin_like_an_image(here: Path) -> None:
    names = ["P1 2.png", "GIF89a.png", "BM.png"]
    for name in names:
        write_png(here / name, make_pixels(1, (4, 4))[0])
    for name in names:
        manifest = write_manifest(here / "m.txt", sorted(names, key=lambda one: one != name))
        assert ingest(manifest, here / "o.h5", IngestOptions(dry_run=True)).n_samples == 3


def test_a_class_that_is_called_image_is_no_header(here: Path) -> None:
    for name, text in (("a.txt", "0\timage\n1\tpath\n"), ("b.txt", "x.png\tfile\ny.png\tfile\n")):
        (here / name).write_text(text)
        for line in text.splitlines():
            write_png(here / line.split("\t")[0], make_pixels(1, (4, 4))[0])
        assert ingest(here / name, here / f"{name}.h5").n_samples == 2


@pytest.mark.parametrize("n_ranks", [1, 3])
def test_lines_that_repeat_a_file_are_counted(n_ranks: int, photos: Path) -> None:
    paths = [path for path, _ in _of(photos, "photos")]
    write_manifest(photos / "r.txt", [*paths, paths[7], paths[0], paths[7]])
    options = IngestOptions(fit="pad", dry_run=True)

    def warned(comm: Any) -> tuple[str, ...]:
        return ingest(photos / "r.txt", photos / "r.h5", options, comm).warnings

    every = on_ranks(n_ranks, warned)
    (text,) = every[0]
    assert text.startswith("3 lines of the manifest name a file that another line names too")
    assert text.endswith(f"(first: {paths[7]})")
    assert ingest(photos / "m.csv", photos / "r.h5", options).warnings == ()


def test_a_column_that_looks_like_labels_is_pointed_out(photos: Path) -> None:
    text = (photos / "m.csv").read_text()
    for name, n in (("Class", 1), ("label", 0), ("colour", 0)):
        (photos / "c.csv").write_text(text.replace("path,cls", f"path,{name}", 1))
        report = ingest(photos / "c.csv", photos / "c.h5", IngestOptions(fit="pad", dry_run=True))
        assert len(report.warnings) == n
        assert all(
            f"'{name}' is stored as columns/{name}, not as labels" in w for w in report.warnings
        )


@pytest.mark.parametrize(
    ("name", "text", "options", "wanted"),
    [
        ("m.csv", "# a note\npath,label\na.png,1\n", {}, "line 1: a manifest has no comments"),
        ("m.txt", "# a note\nid;file\n7;a.png\n", {"delimiter": ";"}, "line 1: a manifest has no"),
        ("m.txt", "a.png,1\nb.png,2\n", {}, r"\(if ',' separates .*: add --delimiter ','\)"),
        ("m.txt", "# a note\na.png 1\n", {}, r"no comments: .*\)\n\(if ' ' separates"),
    ],
)
def test_an_odd_manifest_says_what_it_may_be(
    name: str, text: str, options: dict[str, Any], wanted: str, here: Path
) -> None:
    (here / name).write_text(text)
    with pytest.raises(IngestError, match=wanted):
        ingest(here / name, here / "o.h5", IngestOptions(**options))


def test_no_delimiter_is_guessed_for_paths_that_are_just_missing(here: Path) -> None:
    (here / "m.txt").write_text("a.png\nb, c.png\n")
    with pytest.raises(IngestError, match="none of its 2 files") as caught:
        ingest(here / "m.txt", here / "o.h5")
    assert "--delimiter" not in str(caught.value)


def test_labels_that_are_not_utf8_are_pointed_out(photos: Path) -> None:
    text = (photos / "m.csv").read_bytes().replace(b"path,cls", b"path,label")
    (photos / "l.csv").write_bytes(text.replace(b",ant", b",\xe4nt"))
    (warning,) = ingest(photos / "l.csv", photos / "l.h5", IngestOptions(fit="pad")).warnings
    assert warning.startswith(r"1 label not in UTF-8, stored byte for byte (first: \xe4nt)")
    assert "iconv" in warning


def test_folders_of_images_and_masks_are_told_from_classes(photos: Path) -> None:
    for names, wanted in (("images masks", "--pair images:masks"), ("masks cat", ""),
                          ("images labels other", "")):  # fmt: skip
        folder = photos / names
        for name in names.split():
            write_images(folder / name, make_pixels(2, (4, 4)))
        tally = write_a_manifest(folder, photos / f"{names}.csv", ScanOptions())
        assert ("--pair" in describe(tally)) == bool(wanted)
        assert wanted in describe(tally)


# --- the summary ---------------------------------------------------------------------------------


def test_the_summary_takes_twelve_lines_whatever_happens(photos: Path) -> None:
    report = ingest(photos / "m.csv", photos / "o.h5", IngestOptions(fit="pad"))
    plain = summary(report).splitlines()
    assert len(plain) <= MOST_LINES
    assert plain[0] == f"made       {photos / 'o.h5'} holds 12 images of 30x50 RGB uint8"
    assert "converted  12 of 12 images, of 2 sizes, were padded to 30x50" in plain
    assert [line[11:] for line in plain[-3:]] == [
        f"h5ingest show {photos / 'o.h5'}", f"h5ingest verify {photos / 'o.h5'}",
        f"python: h5ingest.ImageStore('{photos / 'o.h5'}')",
    ]  # fmt: skip
    assert not any("median" in line for line in plain)
    resumed = replace(report, n_resumed=9, seconds=1.5)
    assert "time       1.50 s on 1 rank: 2.0 images/s" in summary(resumed)
    note = Note(kind="x", count=1, index=0, path="a")
    failed = Failure(index=0, path="a", kind="missing", reason="gone")
    worst = replace(
        report, n_resumed=3, n_changed=1, notes=(note,) * 4, warnings=("w",) * 5, losses=("l",) * 3,
        failures=(failed,),
    )  # fmt: skip
    lines = summary(worst, hint="larger").splitlines()
    assert len(lines) == MOST_LINES
    every = summary(worst, hint="larger", verbose=True)
    n_hidden = int(re.search(r"more +(\d+) lines more: -v prints", "\n".join(lines))[1])  # type: ignore[index]
    phases = every.splitlines()[every.splitlines().index(next(
        line for line in every.splitlines() if line.startswith("writer"))) :]  # fmt: skip
    n_kinds = len(report.conversions)  # which -v adds
    assert len(every.splitlines()) - len(phases) - n_kinds == len(lines) - 1 + n_hidden
    assert len(phases) == 2 + len(report.phases)
    assert "1, stored as" not in every
    assert re.search(r"^failed +1 image, stored as zeros", summary(worst), re.MULTILINE)
    assert "holds 1 image of 30x50" in summary(replace(report, n_samples=1))


def test_the_summary_fits_into_a_terminal_and_says_how_a_group_is_opened(photos: Path) -> None:
    report = ingest(photos / "m.csv", Path("o.h5"), IngestOptions(group_by="cls", on_error="blank"))
    report = replace(report, warnings=("a line that goes on and on " * 9,))
    fitted = summary(report, columns=80).splitlines()
    assert max(map(len, fitted)) <= 80
    assert " ".join(fitted).split() == summary(report).split()
    assert fitted[-1].split(": ", 1)[1] == "h5ingest.ImageStore('o.h5', group='ant')"
    with eval(fitted[-1].split(": ", 1)[1], {"h5ingest": h5ingest}) as store:
        assert len(store) == 8


def test_a_few_images_that_change_all_are_named_as_the_reason(here: Path) -> None:
    names = write_images(here, make_pixels(6, (9, 9, 3)))
    for number in range(2):
        write_png(here / f"a{number}.png", make_pixels(1, (9, 9, 4))[0])
    manifest = write_manifest(here / "m.txt", [*names, "a0.png", "a1.png"])
    report = ingest(manifest, here / "o.h5")
    assert report.changes == (
        "6 of 8 images became RGBA, because 2 have transparency (--channels rgb drops it)",
    )
    report = ingest(manifest, here / "o.h5", IngestOptions(channels="rgb", overwrite=True))
    assert report.changes == ("2 of 8 images became RGB (--channels rgb)",)
    write_png(here / "gray.png", make_pixels(1, (9, 9, 2))[0])
    manifest = write_manifest(here / "m.txt", ["gray.png", "a0.png"])
    report = ingest(manifest, here / "gray.h5")
    assert report.changes == ("1 of 2 images became RGBA, because 1 is in colour",)


def test_a_file_larger_than_its_sources_says_what_would_help(here: Path) -> None:
    smooth = np.zeros((40, 200, 200), np.uint8)
    smooth += np.arange(200, dtype=np.uint8) // 4
    manifest = write_manifest(here / "m.txt", write_images(here, smooth))
    options = IngestOptions()
    report = ingest(manifest, here / "o.h5", options)
    hint = compression_hint(report, options)
    found = re.fullmatch(
        r"larger than the image files: --compression (\S+) would make it about ([\d.]+) KiB", hint
    )
    assert found, hint
    packed = IngestOptions(compression=found[1], overwrite=True)
    report = ingest(manifest, here / "o.h5", packed)
    assert report.bytes_out / 1024 == pytest.approx(float(found[2]), rel=0.5, abs=40)
    assert compression_hint(report, packed) == ""
    noise = write_manifest(here / "n.txt", write_images(here, make_pixels(40, (200, 200))))
    assert compression_hint(ingest(noise, here / "n.h5", options), options) == ""


def test_no_compression_is_named_for_what_its_options_do_not_describe(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (12, 256, 256, 3))
    names = write_images(tmp_path / "im", np.ascontiguousarray(smooth))
    rows = [(f"im/{a}", f"im/{b}") for a, b in zip(names[:8], names[4:], strict=True)]
    pairs = write_manifest(tmp_path / "pairs.csv", [("path", "mask"), *rows])
    more = write_manifest(tmp_path / "more.txt", [f"im/{name}" for name in names[8:]])
    plain, options = IngestOptions(), IngestOptions(image=("mask",))
    report = ingest(pairs, tmp_path / "pairs.h5", options)
    assert report.bytes_out > max(report.bytes_in, MIB)
    assert compression_hint(report, options) == ""
    first = write_manifest(tmp_path / "first.txt", [f"im/{name}" for name in names[:8]])
    assert compression_hint(ingest(first, tmp_path / "out.h5", plain), plain) != ""
    report = extend(more, tmp_path / "out.h5")
    assert report.n_samples == 12
    assert compression_hint(report, plain) == ""


# --- show ----------------------------------------------------------------------------------------


def shown(path: Path, *, every: bool) -> list[str]:
    console = Console(file=io.StringIO(), width=200, highlight=False, markup=False)
    console.print(show.tree(path, every=every))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_many_groups_fit_on_a_screen_with_the_totals_first(here: Path) -> None:
    (name,) = write_images(here, make_pixels(1, (4, 4)))
    rows = [("path", "cls"), *((name, f"{k:03}") for k in range(60) for _ in range(2))]
    ingest(write_manifest(here / "m.csv", rows), here / "o.h5", IngestOptions(group_by="cls"))
    brief = shown(here / "o.h5", every=False)
    assert len(brief) <= 24
    assert brief[1] == "├── 120 images in 60 groups, none failed"
    assert brief[2] == "├── 000: 2 images of 4x4 gray uint8, none failed"
    assert "├── … and 48 groups more" in brief
    assert len(shown(here / "o.h5", every=True)) > 60 * 5


def test_failed_images_are_counted_the_same_everywhere(here: Path) -> None:
    names = write_images(here, make_pixels(7, (8, 8)))
    for name in names[:2]:
        (here / name).write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    manifest = write_manifest(here / "m.txt", names)
    report = ingest(manifest, here / "o.h5", IngestOptions(on_error="blank"))
    assert "holds 7 images" in summary(report)
    assert "failed  2 images, stored as zeros with status 2: h5ingest show names" in summary(report)
    for every in (False, True):
        assert shown(here / "o.h5", every=every)[1] == ("├── 7 images of 8x8 gray uint8, 2 failed")
    with ImageStore(here / "o.h5", failed="skip") as store:
        assert contact_sheet._about(store) == ["7 images of 8x8 gray uint8, 2 failed"]
    with h5py.File(here / "o.h5") as file:
        assert (file.attrs["n_samples"], file.attrs["n_failed"]) == (7, 2)


# --- progress ------------------------------------------------------------------------------------


def test_the_bar_is_one_line_for_all_phases_and_ends_as_one(photos: Path) -> None:
    stream = io.StringIO()
    watch = BarProgress(stream)
    ingest(photos / "m.csv", photos / "o.h5", IngestOptions(fit="pad"), watch=watch)
    watch.close()
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("storing ")
    assert "100%" in line


def test_long_work_says_so_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Status(every_s=0.02) as status:
        status("1,000 images, run 1 of 3: LMDB")
        deadline = time.monotonic() + 20
        printed = ""
        while printed.count("\n") < 2 and time.monotonic() < deadline:
            printed += capsys.readouterr().err
    lines = [line for line in printed.splitlines() if "LMDB" in line]
    assert lines
    assert all(
        re.fullmatch(r"h5ingest: 1,000 images, run 1 of 3: LMDB \(\d+ s\)", line) for line in lines
    )
