"""A damaged file under `verify`: what is hurt is named, and nothing ends but the judge."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from helpers.support import WHEELS, explain, make_pixels, write_manifest, write_png
from helpers.threads import on_ranks

from h5ingest import verify as verify_of_the_library
from h5ingest.core.errors import OutputError, SetupError
from h5ingest.core.options import IngestOptions
from h5ingest.inspect import judge_process
from h5ingest.inspect.verify import VerifyReport, verify
from h5ingest.pipeline.run import ingest, recompress

N_ROWS = 14
DIED = "the library that reads it ended with"


def made(folder: Path, **options: Any) -> Path:
    """`N_ROWS` images of 6x7 with labels and a column of text; in a stack, three make a chunk."""
    if options.get("layout", "stack") == "stack":
        options = {"chunk_rows": 3, **options}
    rows: list[object] = [("path", "label", "site", "note")]
    for k, pixels in enumerate(make_pixels(N_ROWS, (6, 7)) // 32):
        write_png(folder / f"{k}.png", pixels)
        rows.append((f"{k}.png", ["cat", "dog"][k % 2], "ab"[k // 7], f"note {k}"))
    ingest(write_manifest(folder / "m.csv", rows), folder / "out.h5", IngestOptions(**options))
    return folder / "out.h5"


def check(out: Path, n_ranks: int = 1, **how: Any) -> VerifyReport:
    return on_ranks(n_ranks, lambda comm: verify(out, comm, **how))[0]


def bad_rows(report: VerifyReport) -> list[tuple[str, int]]:
    return [(bad.dataset, bad.row) for bad in report.bad]


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


# --- bytes on the disk ---------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "zstd", "lz4"])
@pytest.mark.parametrize("n_ranks", [1, 2])
def test_a_damaged_chunk_takes_its_own_rows_with_it(
    compression: str, n_ranks: int, tmp_path: Path
) -> None:
    out = made(tmp_path, compression=compression)
    with h5py.File(out) as file:
        offset = file["images"].id.get_chunk_info(2).byte_offset
    overwrite(out, offset + 12, b"\xde\xad\xbe\xef")
    report = check(out, n_ranks)
    assert set(bad_rows(report)) <= {("/images", row) for row in (6, 7, 8)}
    assert report.bad
    assert report.n_samples == N_ROWS
    assert [bad.path for bad in report.bad] == [f"{bad.row}.png" for bad in report.bad]
    assert [text.partition(":")[0] for text in report.problems] == ["content_digest"]


def test_texts_that_cannot_be_read_are_named_and_the_images_are_judged(tmp_path: Path) -> None:
    out = made(tmp_path)
    whole = out.read_bytes()
    at = whole.index(b"note 0")  # all of them lie in one heap, behind its header
    heap = whole.rindex(b"GCOL", 0, at)
    overwrite(out, heap, b"JUNK")
    report = check(out)
    assert report.bad == ()
    assert report.n_samples == N_ROWS
    told = [text for text in report.problems if text.startswith("/columns/note: rows 0 to 13 ")]
    assert told, report.problems
    unread = [text for text in report.problems if "cannot be read: " in text]
    assert unread == list(report.problems)


def test_a_dataset_that_cannot_be_opened_is_named_and_the_others_are_judged(
    tmp_path: Path,
) -> None:
    out = made(tmp_path)
    with h5py.File(out) as file:
        header = h5py.h5o.get_info(file["labels"].id).addr
    overwrite(out, header, b"JUNK")
    report = check(out)
    assert (report.bad, report.n_samples) == ((), N_ROWS)
    (problem,) = report.problems
    assert problem.startswith("/labels: cannot be read: ")


@pytest.mark.parametrize("name", ["status", "checksums", "images"])
def test_rows_that_cannot_be_judged_are_said_not_to_be(name: str, tmp_path: Path) -> None:
    out = made(tmp_path, group_by="site")
    with h5py.File(out) as file:
        header = h5py.h5o.get_info(file[f"a/{name}"].id).addr
    overwrite(out, header, b"JUNK")
    report = check(out, 2)
    assert (report.bad, report.n_samples) == ((), 7), "those of the other group"
    assert f"/a: its rows cannot be judged without {name}" in report.problems
    assert any(text.startswith(f"/a/{name}: cannot be read: ") for text in report.problems)


@pytest.mark.parametrize("layout", ["stack", "ragged", "tree", "encoded"])
def test_nothing_that_a_file_says_is_believed(layout: str, tmp_path: Path) -> None:
    """Types, shapes, offsets and names that cannot be, one after the other."""
    out = made(tmp_path, layout=layout)
    changes = {
        "status": ["float", "scalar", "group"],
        "checksums": ["float", "short", "long"],
        "labels": ["float", "short"],
        "images/offsets": ["far", "back"],
        "images/shapes": ["negative", "float"],
        "datasets": ["nothing", "itself", "number"],
    }
    whole = out.read_bytes()
    n_tried = 0
    for name, how in ((name, how) for name, each in changes.items() for how in each):
        out.write_bytes(whole)
        with h5py.File(out, "r+") as file:
            if name not in file:
                continue
            replace(file, name, how)
        report = check(out)
        assert not report.ok, (name, how)
        n_tried += 1
    assert n_tried >= 8


def replace(file: h5py.File, name: str, how: str) -> None:
    values: Any = file[name][:]
    if how in ("far", "back"):
        file[name][3] = 2**62 if how == "far" else -5
    elif how == "negative":
        file[name][3] = -6, -7, 1
    elif how in ("nothing", "itself"):
        file[name][3] = "/nothing" if how == "nothing" else "/datasets"
    else:
        del file[name]
        if how == "group":
            file.create_group(name)
        elif how == "float":
            file[name] = values.astype(float)
        elif how == "number":
            file[name] = range(len(values))
        else:
            file[name] = {"scalar": values[0], "short": values[:-1], "long": [*values, values[0]]}[
                how
            ]


def test_the_header_may_lack_what_rows_can_be_judged_without(tmp_path: Path) -> None:
    out = made(tmp_path)
    for name, value in (
        ("options", "{"), ("options", "[]"), ("n_failed", "many"), ("n_samples", 15),
        ("content_digest", 5), ("content_digest", None), ("n_samples", None),
    ):  # fmt: skip
        with h5py.File(out, "r+") as file:
            before = file.attrs[name]
            del file.attrs[name]
            if value is not None:
                file.attrs[name] = value
        report = check(out)
        assert (report.bad, report.n_samples) == ((), N_ROWS)
        assert any(name in text for text in report.problems), report.problems
        with h5py.File(out, "r+") as file:
            file.attrs[name] = before
    assert check(out).ok


def test_a_header_that_cannot_be_understood_is_refused(tmp_path: Path) -> None:
    out = made(tmp_path, group_by="site")
    for value in ("5", "[5]", '{"a": 1', "null", 7):
        with h5py.File(out, "r+") as file:
            file.attrs["groups"] = value
        with pytest.raises(OutputError, match=r"out.h5: (its header|attribute groups)"):
            check(out)


@pytest.mark.parametrize(
    ("name", "value"),
    [("command", "h5ingest other"), ("libraries", "{}"), ("created", "2001-01-01T00:00:00Z"),
     ("manifest_sha256", "0" * 64), ("job", None)],
)  # fmt: skip
def test_an_attribute_that_was_changed_or_lost_is_found(
    name: str, value: str | None, tmp_path: Path
) -> None:
    out = made(tmp_path)
    with h5py.File(out, "r+") as file:
        file.attrs["of the user"] = "x"
    assert check(out).ok, "what users add is theirs"
    with h5py.File(out, "r+") as file:
        if value is None:
            del file.attrs[name]
        else:
            file.attrs[name] = value
    (problem,) = check(out).problems
    assert problem.startswith("attributes_digest: expected ")
    with h5py.File(out, "r+") as file:
        del file.attrs["attributes_digest"]
    assert check(out).ok, "a file of old has no such digest"


def test_names_of_dimensions_and_values_and_groups_are_those_of_the_format(tmp_path: Path) -> None:
    out = made(tmp_path, group_by="site")
    whole = out.read_bytes()
    for name, attribute, value, said in (
        ("a/images", "DIMENSION_LABELS", ["sample", "x", "y"], "/a/images: expected the dimension"),
        ("b", "name", "c", "/b: expected the name of that group, found 'c'"),
    ):
        out.write_bytes(whole)
        with h5py.File(out, "r+") as file:
            file[name].attrs[attribute] = value
        assert check(out).problems[0].startswith(said)
    out.write_bytes(whole)
    with h5py.File(out, "r+") as file:
        values = file["a/status"][:]
        del file["a/status"]
        kind = h5py.enum_dtype({"missing": 0, "good": 1, "failed": 2}, "u1")
        status = file.create_dataset("a/status", data=values, dtype=kind)
        status.dims[0].label = "sample"
        status.dims[0].attach_scale(file["a/sample"])
    (problem,) = check(out).problems
    assert problem.startswith("/a/status: expected the names ")


def test_the_scales_of_dimensions_are_all_there_or_none(tmp_path: Path) -> None:
    out = made(tmp_path, group_by="site")
    whole = out.read_bytes()

    def problems(change: Callable[[h5py.File], object]) -> tuple[str, ...]:
        out.write_bytes(whole)
        with h5py.File(out, "r+") as file:
            change(file)
        found = check(out)
        assert found.bad == ()
        assert found.problems == check(out, 2).problems
        return found.problems

    def another(file: h5py.File) -> None:
        file["a/images"].dims[1].detach_scale(file["a/y"])
        file["a/images"].dims[1].attach_scale(file["b/y"])

    def of_the_user(file: h5py.File) -> None:
        file["a/heights"] = range(6)
        file["a/heights"].make_scale("heights")
        file["a/images"].dims[1].attach_scale(file["a/heights"])

    def shorter(file: h5py.File) -> None:
        text = dict(file["a/y"].attrs)["NAME"]
        file["a/images"].dims[1].detach_scale(file["a/y"])
        del file["a/y"]
        file.create_dataset("a/y", (5,), "u1").make_scale(text.decode())
        file["a/images"].dims[1].attach_scale(file["a/y"])

    def none(file: h5py.File) -> None:
        for name in ("sample", "y", "x", "class"):
            del file["a"][name]

    expected = "/a/images: expected /a/y, (6,), as the scale of axis 1, found "
    assert problems(lambda file: file["a"].pop("y")) == (
        "expected a dimension scale /a/y, found none",
    )
    assert problems(another) == (f"{expected}another",)
    assert problems(shorter) == (f"{expected}one of the shape (5,)",)
    assert problems(lambda file: file["a/paths"].attrs.pop("DIMENSION_LIST")) == (
        "/a/paths: expected /a/sample, (7,), as the scale of axis 0, found none",
    )

    def valued(file: h5py.File) -> None:
        file["a/x"][3] = 1

    assert problems(valued) == ("/a/x: expected a dimension scale without values, found some",)
    assert problems(of_the_user) == ()
    assert problems(none) == (), "as in a file that was made before there were any"
    out.write_bytes(whole)
    with h5py.File(out) as file:
        at = h5py.h5o.get_info(file["b/x"].id).addr
    overwrite(out, at, b"JUNK")
    (problem,) = check(out).problems
    assert re.match(r".*/b/x.* cannot be read: ", problem), problem


def test_scales_are_no_strangers_and_what_users_call_alike_is(tmp_path: Path) -> None:
    out, again = made(tmp_path), tmp_path / "again.h5"
    with h5py.File(out, "r+") as file:
        del file["y"]
        file["y"] = range(6)
    report = recompress(out, again, IngestOptions(compression="zstd"))
    assert report.warnings == ("left out, as they are not of h5ingest: /y",)
    assert verify(again).ok
    with h5py.File(again) as file:
        assert [dim[0].name for dim in file["images"].dims] == ["/sample", "/y", "/x"]
        assert file["y"].id.get_offset() is None


# --- libraries that do not survive it ------------------------------------------------------------


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets judges be ended by what is named: see `programs/deadly_judge.py`."""

    def arm(*deadly: tuple[str, int, str]) -> None:
        monkeypatch.setenv("DEADLY", json.dumps(deadly))

    program = vars(judge_process)["_PROGRAM"].replace(
        "h5ingest.inspect.judge", "programs.deadly_judge"
    )
    monkeypatch.setattr(judge_process, "_PROGRAM", program)
    monkeypatch.setattr(judge_process, "_IDLE", None)
    monkeypatch.setattr(judge_process, "CPU_S", 1)
    return arm


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_a_chunk_that_ends_the_library_is_a_finding(
    deadly: Any, n_ranks: int, tmp_path: Path
) -> None:
    deadly(("/images", 4, "SIGSEGV"), ("/images", 12, "SIGABRT"))
    report = check(made(tmp_path), n_ranks)
    assert report.n_samples == N_ROWS
    assert [(bad.row, bad.path, bad.reason) for bad in report.bad] == [
        *((row, f"{row}.png", f"cannot be read: {DIED} SIGSEGV") for row in (3, 4, 5)),
        *((row, f"{row}.png", f"cannot be read: {DIED} SIGABRT") for row in (12, 13)),
    ]
    assert [text.partition(":")[0] for text in report.problems] == ["content_digest"]


@pytest.mark.long
def test_other_rows_and_datasets_that_end_the_library_are_findings(
    deadly: Any, tmp_path: Path
) -> None:
    out = made(tmp_path)
    deadly(("/labels", 4, "exit"), ("/paths", 13, "loop"), ("/columns/note", -1, "SIGBUS"))
    report = check(out)
    assert (report.bad, report.n_samples) == ((), N_ROWS)
    assert set(report.problems) == {
        f"/labels: row 4 cannot be read: {DIED} exit code 3",
        "/paths: row 13 cannot be read: the library that reads it did not come to an end",
        f"/columns/note: cannot be read: {DIED} SIGBUS",
    }


def test_an_image_of_its_own_that_ends_the_library_takes_no_other_with_it(
    deadly: Any, tmp_path: Path
) -> None:
    deadly(("/cat/4", -1, "SIGSEGV"))
    report = check(made(tmp_path, layout="tree"))
    assert bad_rows(report) == [("/images", 4)]
    assert report.n_samples == N_ROWS


def test_what_only_a_judge_with_a_past_dies_of_is_no_finding(deadly: Any, tmp_path: Path) -> None:
    deadly(("/checksums", 1, "later"), ("/labels", 1, "later"))
    assert check(made(tmp_path)).ok


def test_after_many_deaths_what_is_not_looked_at_is_said(
    deadly: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(judge_process, "MOST_DEATHS", 5)
    deadly(*(("/images", row, "SIGSEGV") for row in range(N_ROWS)))
    report = check(made(tmp_path))
    looked_at = [bad.row for bad in report.bad]
    assert looked_at == list(range(len(looked_at)))
    assert 3 <= len(looked_at) < N_ROWS
    assert report.n_samples == len(looked_at)
    said = (
        f"/images: rows {len(looked_at)} to 13 not looked at: the library that reads it had ended 5"
    )
    assert any(text.startswith(said) for text in report.problems), report.problems


def test_a_source_that_ends_its_decoder_is_told_from_the_file(deadly: Any, tmp_path: Path) -> None:
    out = made(tmp_path)
    with (tmp_path / "7.png").open("ab") as file:
        file.write(b"deadly")
    deadly(("source", 0, "SIGSEGV"))
    assert check(out).ok
    (bad,) = check(out, sources=True).bad
    assert (bad.row, bad.reason) == (7, f"its source cannot be compared: {DIED} SIGSEGV")


def test_a_file_that_no_library_survives_to_open_is_refused(deadly: Any, tmp_path: Path) -> None:
    out = made(tmp_path)
    deadly(("/", -1, "SIGSEGV"))
    for n_ranks in (1, 2):
        with pytest.raises(OutputError, match=f"cannot be opened: {DIED} SIGSEGV"):
            check(out, n_ranks)


@pytest.mark.parametrize(
    ("python", "said"),
    [("/nowhere/python", "which cannot be started: "), ("/bin/false", "ended while it started")],
)
def test_without_a_process_of_its_own_verify_says_so(
    python: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = made(tmp_path)
    monkeypatch.setattr(judge_process, "_IDLE", None)
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(SetupError, match=said):
        verify_of_the_library(out)


def test_the_command_names_what_is_hurt_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Its standard streams are those of the command alone, and its judge ends with it."""
    out = made(tmp_path, compression="gzip")
    with h5py.File(out) as file:
        offset = file["images"].id.get_chunk_info(2).byte_offset
    overwrite(out, offset, b"\xde\xad\xbe\xef")
    completed = WHEELS.checked().alone("verify", out)
    assert completed.returncode == 3, explain(completed)
    lines = [line for line in completed.stderr.splitlines() if not line.startswith("checking: ")]
    assert len(lines) == 4, explain(completed)
    assert all(re.match("h5ingest: error: ", line) for line in lines), explain(completed)
    assert completed.stdout.splitlines()[-1] == "4 differences"
