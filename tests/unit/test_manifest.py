"""The manifest: any number of parts reads the same rows, and names the same line if one is bad."""

from __future__ import annotations

import codecs
import csv
import hashlib
import re
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
from helpers.support import make_pixels, write_images, write_manifest
from helpers.threads import on_ranks
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from h5ingest import ImageStore
from h5ingest.core.column_types import Seen, all_integers, convert, kinds_seen, resolve, to_integers
from h5ingest.core.errors import ManifestError
from h5ingest.core.manifest import (
    Manifest,
    blocks,
    file_sha256,
    read_class_names,
    read_part,
    share,
    stream,
)
from h5ingest.core.manifest_dialect import Dialect, LineError, parse, sniff
from h5ingest.core.manifest_heading import PATH_COLUMNS
from h5ingest.core.options import IngestOptions
from h5ingest.core.packed_strings import PackedStrings
from h5ingest.core.signatures import format_of, other_format_of
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.read_manifest import read_manifest
from h5ingest.pipeline.run import ingest

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A manifest as bytes, and what it says: the truth, since the rows were there first."""

    suffix: str
    columns: tuple[str, ...]
    header: bytes | None
    rows: list[tuple[bytes, ...]]
    lines: list[tuple[bytes, int | None]]
    """Text after the header without line end, and its row; None: a blank line."""
    line_ends: list[bytes]
    """One for each line, the header included."""
    bom: bool
    last_newline: bool

    def content(self) -> bytes:
        texts = [text for text, _ in self.lines]
        if self.header is not None:
            texts.insert(0, self.header)
        ends = list(self.line_ends[: len(texts)])
        if not self.last_newline:
            ends[-1] = b""
        body = b"".join(text + end for text, end in zip(texts, ends, strict=True))
        return BOM * self.bom + body

    def write(self, folder: Path) -> Path:
        path = folder / f"manifest{self.suffix}"
        path.write_bytes(self.content())
        return path


def without(forbidden: bytes) -> st.SearchStrategy[bytes]:
    """Cells: Unicode text or any bytes at all, but for the forbidden ones."""
    return st.one_of(
        st.text(max_size=10).map(lambda text: text.encode("utf-8", "ignore")),
        st.binary(max_size=6),
        st.sampled_from(
            [b" a b.png", b"caf\xc3\xa9.png", b"\xff\xfe.png", b"1", b"-2.5", b"", b" "]
        ),
    ).map(lambda cell: cell.translate(None, forbidden))


def quoted(cell: bytes) -> bytes:
    return b'"' + cell.replace(b'"', b'""') + b'"'


@st.composite
def manifests(draw: st.DrawFn) -> Written:
    suffix, columns, has_header = draw(
        st.sampled_from(
            [
                (".txt", ("path",), False),
                (".txt", ("path", "label"), False),
                (".txt", ("path",), True),
                (".tsv", ("path", "label", "age"), True),
                (".csv", ("path",), True),
                (".csv", ("path", "group", "label"), True),
                (".csv", ("path", "label", "group", "age"), True),
            ]
        )
    )
    comma = suffix == ".csv"
    cell = without(b"\r\n\0" if comma else b"\r\n\0\t")
    needed = cell.filter(lambda text: bool(text.strip()))
    row = st.tuples(*(needed if name in ("path", "label") else cell for name in columns))
    rows = draw(st.lists(row, min_size=1, max_size=20))
    first = rows[0][0].decode("utf-8", "surrogateescape")
    if not has_header:
        assume(first.strip().lower() not in PATH_COLUMNS and not first.startswith("\ufeff"))
    blank = st.sampled_from([b"", b" ", b"\t", b" \t\x0b"])
    lines: list[tuple[bytes, int | None]] = []
    for index, cells in enumerate(rows):
        lines += [(text, None) for text in draw(st.lists(blank, max_size=2))]
        if comma:
            written = [
                quoted(text) if draw(st.booleans()) or set(text) & set(b',"') else text
                for text in cells
            ]
            lines.append((b",".join(written), index))
        else:
            lines.append((b"\t".join(cells), index))
    lines += [(text, None) for text in draw(st.lists(blank, max_size=2))]
    header = (b"," if comma else b"\t").join(name.encode() for name in columns)
    line_end = st.sampled_from([b"\n", b"\r\n"])
    return Written(
        suffix=suffix,
        columns=columns,
        header=header if has_header else None,
        rows=rows,
        lines=lines,
        line_ends=draw(
            st.one_of(
                line_end.map(lambda end: [end] * (len(lines) + 2)),
                st.lists(line_end, min_size=len(lines) + 2, max_size=len(lines) + 2),
            )
        ),
        bom=draw(st.booleans()),
        last_newline=draw(st.booleans()),
    )


N_PARTS = st.integers(1, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("manifests")


def write(tmp_path: Path, content: bytes | str, name: str = "m.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read_all(path: Path, delimiter: str | None = None) -> tuple[Manifest, list[bytes]]:
    options = IngestOptions(delimiter=delimiter)
    manifest, held = read_manifest(path, options, SerialComm())
    assert held.indices == range(manifest.n_rows)
    assert held.groups.tolist() == [0] * manifest.n_rows
    assert (manifest.group_by, manifest.group_names) == (None, (b"",))
    assert manifest.group_rows == (manifest.n_rows,)
    assert len(held.folders) == 0
    return manifest, list(held.paths)


def refusal(path: Path, delimiter: str | None = None) -> str:
    """What the user is told; every refusal names the file."""
    with pytest.raises(ManifestError) as caught:
        read_all(path, delimiter)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def rows_of(path: Path, dialect: Dialect) -> list[tuple[bytes, ...]]:
    found: list[tuple[bytes, ...]] = []
    for columns in stream(path, dialect):
        found += zip(*(columns[name] for name in dialect.columns), strict=True)
    return found


# --- laws of splitting ---------------------------------------------------------------------------


@given(manifests(), N_PARTS)
def test_the_parts_are_disjoint_in_order_and_the_whole_body(
    folder: Path, written: Written, n_parts: int
) -> None:
    path = written.write(folder)
    content = written.content()
    dialect = sniff(path)
    ranges = [share(path, dialect, part, n_parts) for part in range(n_parts)]
    assert ranges[0][0] == dialect.body_start
    assert ranges[-1][1] == len(content)
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    assert all(start == 0 or content[start - 1 : start] in (b"\n", BOM[-1:], b"")
               for start, stop in ranges if start < stop)  # fmt: skip


@given(manifests(), N_PARTS)
def test_any_number_of_parts_gives_the_rows_that_were_written(
    folder: Path, written: Written, n_parts: int
) -> None:
    path = written.write(folder)
    dialect = sniff(path)
    assert dialect.columns == written.columns
    parts = [
        read_part(path, dialect, share(path, dialect, part, n_parts)) for part in range(n_parts)
    ]
    paths = PackedStrings.concatenate(part.paths for part in parts)
    assert list(paths) == [row[0] for row in written.rows]
    content = written.content()
    assert dialect.body_line == 1 + content[: dialect.body_start].count(b"\n")
    assert sum(part.n_lines for part in parts) == content[dialect.body_start :].count(b"\n")


@given(manifests())
def test_the_stream_gives_all_columns_and_digests_the_whole_file(
    folder: Path, written: Written
) -> None:
    path = written.write(folder)
    assert rows_of(path, sniff(path)) == written.rows
    digest = hashlib.sha256()
    for _ in stream(path, sniff(path), digest.update):
        pass
    assert digest.hexdigest() == hashlib.sha256(written.content()).hexdigest()
    assert file_sha256(path) == digest.hexdigest()


@given(manifests(), N_PARTS)
def test_labels_and_columns_mean_the_same_for_any_number_of_parts(
    folder: Path, written: Written, n_parts: int
) -> None:
    path = written.write(folder)
    dialect = sniff(path)
    ranges = [share(path, dialect, part, n_parts) for part in range(n_parts)]
    parts = [read_part(path, dialect, byte_range) for byte_range in ranges]
    by_name = dict(zip(written.columns, zip(*written.rows, strict=True), strict=True))
    if "label" in by_name:
        integers = all(re.fullmatch(rb"[+-]?[0-9]{1,18}", cell) for cell in by_name["label"])
        assert all(part.integer_labels for part in parts) == integers
        names = frozenset().union(*(read_class_names(path, dialect, r) for r in ranges))
        assert names == set(by_name["label"])
    else:
        assert all(part.integer_labels for part in parts)
    extra = [name for name in written.columns[1:] if name != "label"]
    assert list(dialect.extra_columns) == extra
    for i, name in enumerate(extra):
        seen: Seen = frozenset().union(*(part.seen[i] for part in parts))
        assert resolve(seen) == resolve(kinds_seen(by_name[name]))


@given(manifests(), st.integers(1, 40))
def test_blocks_are_whole_lines_and_together_the_range(
    folder: Path, written: Written, size: int
) -> None:
    path = written.write(folder)
    content = written.content()
    start = sniff(path).body_start
    with path.open("rb") as file:
        found = list(blocks(file, start, len(content), size=size))
    assert b"".join(found) == content[start:]
    assert all(block.endswith(b"\n") for block in found[:-1])
    assert all(found)


def line_of_problem(path: Path, n_parts: int) -> tuple[int, str]:
    """The line as the ranks find it together: those before count all lines of their parts."""
    dialect = sniff(path)
    line = dialect.body_line
    for part in range(n_parts):
        try:
            line += read_part(path, dialect, share(path, dialect, part, n_parts)).n_lines
        except LineError as error:
            return line + error.line, error.problem
    raise AssertionError("no part found the problem")


@st.composite
def spoiled(draw: st.DrawFn, n_bad: int = 1) -> tuple[Written, int]:
    """A manifest with bad lines, and the 1-based number of the first of them."""
    good = draw(manifests())
    delimiter = b"," if good.suffix == ".csv" else b"\t"
    n = len(good.columns)
    bad = [delimiter.join([b"x"] * (n + 1)), delimiter.join([b"x\0y"] + [b"x"] * (n - 1))]
    if n > 1:
        bad += [b"x", delimiter.join([b""] + [b"x"] * (n - 1))]
    if "label" in good.columns:
        cells = [b"x"] * n
        cells[good.columns.index("label")] = b""
        bad.append(delimiter.join(cells))
    if delimiter == b",":
        bad += [b'"x' + b",x" * (n - 1), b",".join([b'"x"y'] + [b"x"] * (n - 1))]
    lines = list(good.lines)
    # Without a header the first line says how many columns there are: it cannot be the bad one.
    first = 0 if good.header else 1 + next(i for i, (_, row) in enumerate(lines) if row == 0)
    for _ in range(n_bad):
        place = draw(st.integers(first, len(lines)))
        lines.insert(place, (draw(st.sampled_from(bad)), -1))
    at = next(i for i, (_, row) in enumerate(lines) if row == -1)
    # With a NUL in it, one that begins like these is refused as such.
    head = b"\n".join([good.header or lines[0][0], *(text for text, _ in lines)])
    assume(format_of(head) is None and other_format_of(head) is None)
    assume(not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)))
    return replace(good, lines=lines), at + 1 + (good.header is not None)


@given(spoiled(), N_PARTS)
def test_a_bad_line_has_its_number_for_any_number_of_parts(
    folder: Path, bad: tuple[Written, int], n_parts: int
) -> None:
    written, line = bad
    path = written.write(folder)
    assert line_of_problem(path, n_parts) == (line, line_of_problem(path, 1)[1])
    assert refusal(path).startswith(f", line {line}: expected ")


@given(spoiled(n_bad=2).map(lambda bad: (replace(bad[0], line_ends=bad[0].line_ends * 2), bad[1])),
       N_PARTS)  # fmt: skip
def test_of_several_bad_lines_the_first_is_named_for_any_number_of_parts(
    folder: Path, bad: tuple[Written, int], n_parts: int
) -> None:
    written, line = bad
    assert line_of_problem(written.write(folder), n_parts)[0] == line


# --- headers, delimiters, byte order marks -------------------------------------------------------


@pytest.mark.parametrize("name", [*PATH_COLUMNS, "PATH", "FilePath", " path "])
@pytest.mark.parametrize(("suffix", "comma"), [(".txt", "\t"), (".tsv", "\t"), (".csv", ",")])
def test_a_first_line_that_begins_with_a_path_column_is_a_header(
    tmp_path: Path, name: str, suffix: str, comma: str
) -> None:
    lines = [comma.join(cells) for cells in [(name, "Label", "age"), ("a.png", "cat", "3")]]
    path = write(tmp_path, "\n".join(lines), f"m{suffix}")
    dialect = sniff(path)
    assert dialect.has_header
    assert dialect.columns == ("path", "label", "age")
    assert dialect.extra_columns == ("age",)
    assert rows_of(path, dialect) == [(b"a.png", b"cat", b"3")]


def test_columns_may_come_in_any_order_after_the_path(tmp_path: Path) -> None:
    path = write(tmp_path, "file,age,LABEL,Group,Other Name\na.png,3,cat,train,x\n", "m.csv")
    dialect = sniff(path)
    assert dialect.columns == ("path", "age", "label", "group", "Other Name")
    assert dialect.extra_columns == ("age", "group", "Other Name")


def test_a_name_of_a_header_may_be_quoted(tmp_path: Path) -> None:
    path = write(tmp_path, '"path","a, b"\n"x, ""y"".png",1\n', "m.csv")
    dialect = sniff(path)
    assert dialect.columns == ("path", "a, b")
    assert rows_of(path, dialect) == [(b'x, "y".png', b"1")]


@pytest.mark.parametrize("content", [b"a.png\t1\nb.png\t2\n", b"path\tlabel\na.png\t1\nb.png\t2\n"])
@pytest.mark.parametrize("blank", [b"", b"\n", b"\r\n \n"])
@pytest.mark.parametrize("n_parts", [1, 2, 3])
def test_a_byte_order_mark_is_no_part_of_the_first_cell(
    tmp_path: Path, content: bytes, blank: bytes, n_parts: int
) -> None:
    path = write(tmp_path, BOM + blank + content)
    dialect = sniff(path)
    assert dialect.columns == ("path", "label")
    parts = [
        read_part(path, dialect, share(path, dialect, part, n_parts)) for part in range(n_parts)
    ]
    assert [p for part in parts for p in part.paths] == [b"a.png", b"b.png"]
    assert rows_of(path, dialect) == [(b"a.png", b"1"), (b"b.png", b"2")]


def test_a_path_keeps_spaces_quotes_commas_and_carriage_returns(tmp_path: Path) -> None:
    names = [b' "a",b.png ', b"a\rb.png", b"'c'.png", b"#d.png", b"a\\tb.png"]
    _, paths = read_all(write(tmp_path, b"\n".join(names)))
    assert paths == names


@pytest.mark.parametrize("delimiter", [";", ",", "|", " ", "\t"])
@pytest.mark.parametrize("name", ["m.txt", "m.csv"])
def test_the_delimiter_can_be_chosen(tmp_path: Path, delimiter: str, name: str) -> None:
    path = write(tmp_path, f"a.png{delimiter}3\nb.png{delimiter}4\n", name)
    manifest, paths = read_all(path, delimiter)
    assert manifest.dialect.columns == ("path", "label")
    assert paths == [b"a.png", b"b.png"]
    path = write(tmp_path, f"path{delimiter}x{delimiter}y\na.png{delimiter}3{delimiter}4\n", name)
    assert read_all(path, delimiter)[0].column_kinds == {"x": "int64", "y": "int64"}
    inner = delimiter.strip("\t")  # tabs need no quotes, so there are none
    path = write(tmp_path, f'path{delimiter}x\n"a{inner}b"{delimiter}3\n', name)
    in_quotes = f"a{inner}b" if inner else '"ab"'
    assert read_all(path, delimiter)[1] == [in_quotes.encode()]


def test_a_manifest_of_one_line_without_newline_is_read(tmp_path: Path) -> None:
    assert read_all(write(tmp_path, "a.png"))[1] == [b"a.png"]


# --- what a manifest says ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["1", "-2", "+3", "007"], None),
        (["9223372036854775807", "-9223372036854775808", "0" * 30 + "5"], None),
        (["9223372036854775808", "1"], (b"1", b"9223372036854775808")),
        (["0" * 5000 + "1", "1"], (b"0" * 5000 + b"1", b"1")),
        (["cat", "dog", "ant", "cat"], (b"ant", b"cat", b"dog")),
        (["1", "2", "x"], (b"1", b"2", b"x")),
        (["1.0", "2.0"], (b"1.0", b"2.0")),
        (["1_0", "2"], (b"1_0", b"2")),
        (["é", "z", "Z"], (b"Z", b"z", "é".encode())),
        (["10", " 9"], (b" 9", b"10")),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_labels_that_are_all_integers_stay_so_and_others_are_sorted_names(
    tmp_path: Path, labels: list[str], names: tuple[bytes, ...] | None, line_end: str
) -> None:
    lines = [f"{i}.png\t{label}{line_end}" for i, label in enumerate(labels)]
    manifest, _ = read_all(write(tmp_path, "".join(lines)))
    assert manifest.class_names == names
    assert manifest.n_rows == len(labels)


def test_a_manifest_tells_its_rows_digest_and_kinds(tmp_path: Path) -> None:
    content = b"path,label,group,age,score\na.png,1,train,3,\nb.png,2,test,4,0.5\n"
    path = write(tmp_path, content, "m.csv")
    manifest, paths = read_all(path)
    assert paths == [b"a.png", b"b.png"]
    assert manifest.path == path
    assert manifest.n_rows == 2
    assert manifest.class_names is None
    assert manifest.sha256 == hashlib.sha256(content).hexdigest()
    assert manifest.column_kinds == {"group": "text", "age": "int64", "score": "float64"}


# --- what is refused: file, line, expected, found ------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.txt", b"", ": expected one image path per line, found nothing"),
        ("m.txt", BOM, ": expected one image path per line, found nothing"),
        ("m.txt", b"\n \r\n\n", ": expected one image path per line, found nothing"),
        ("m.txt", b"a\0b\n", ": expected a text file, found a NUL byte in line 1"),
        ("m.txt", b"\n\n\0\n", ": expected a text file, found a NUL byte in line 3"),
        (
            "m.txt",
            "a.png\n".encode("utf-16"),
            ": expected a text file, found UTF-16; save it as UTF-8, or: "
            "iconv -f UTF-16 -t UTF-8 OLD > NEW",
        ),
        (
            "m.csv",
            b'"id";"file";"label"\n1;a.png;cat\n',
            ", line 1: expected ',' between columns, found ';': '\"id\";\"file\";\"label\"'. "
            "Add --delimiter ';'",
        ),
        (
            "m.csv",
            b"label\tpath\ncat\ta.png\n",
            ", line 1: expected ',' between columns, found '\\t': 'label\\tpath'. "
            "Add --delimiter tab",
        ),
        (
            "m.txt",
            b"path,label\na.png,cat\n",
            ", line 1: expected '\\t' between columns, found ',': 'path,label'. "
            "Add --delimiter ','",
        ),
        ("m.csv", b"path,label\n", ": expected at least one image, found only the header"),
        ("m.csv", b"path,label", ": expected at least one image, found only the header"),
        (
            "m.txt",
            b"\na.png\tcat\t3\n",
            ", line 2: expected 'path' or 'path<TAB>label', or a first line of column names, "
            r"one of them path; found 3 columns: 'a.png\tcat\t3'",
        ),
        (
            "m.csv",
            b"a.png,cat\n",
            ", line 1: expected the names of the columns, one of them "
            "path, filepath, file, filename or image; found 'a.png,cat'. Make the first line name "
            "the columns, or name the file .txt and separate path and label by a tab.",
        ),
        (
            "m.csv",
            b"path,a,,b\n",
            ", line 1: expected a name for each column, which becomes the name of a dataset; "
            "column 3 is ''",
        ),
        (
            "m.csv",
            b"path,a/b\n",
            ", line 1: expected a name for each column, which becomes the name of a dataset; "
            "column 2 is 'a/b'",
        ),
        (
            "m.csv",
            b"path,..\n",
            ", line 1: expected a name for each column, which becomes the name of a dataset; "
            "column 2 is '..'",
        ),
        (
            "m.csv",
            b"path,gr\xf6\xdfe\na.png,3\n",
            ", line 1: expected names of columns in UTF-8, as they become names of datasets; "
            r"column 2 is 'gr\\xf6\\xdfe'. Write this line in UTF-8; the other lines may have any "
            "bytes",
        ),
        (
            "m.csv",
            b'path,"' + b"x" * 200_000 + b'"\na.png,3\n',
            ", line 1: expected names of columns of at most 1,024 bytes, column 2 has 200,000",
        ),
        (
            "m.csv",
            b"\npath,age,age\n",
            ", line 2: expected distinct column names, found 'age' twice",
        ),
        (
            "m.csv",
            b"path,Label,label\n",
            ", line 1: expected distinct column names, found 'label' twice",
        ),
        (
            "m.csv",
            b"path,age\na.png,3\nb.png\n",
            ", line 3: expected 2 columns (path, age), as the first line has, found 1: 'b.png'",
        ),
        (
            "m.txt",
            b"a.png\n\r\nb.png\tcat\r\n",
            r", line 3: expected 1 column (path), as the first line has, found 2: 'b.png\tcat'",
        ),
        (
            "m.csv",
            b"path,age\n,3\n",
            ", line 2: expected a path, found none: ',3'",
        ),
        (
            "m.txt",
            b"a.png\tcat\nb.png\t\n",
            r", line 2: expected a label, found none: 'b.png\t'",
        ),
        (
            "m.csv",
            b'path,label\na.png,cat\n"b.png,dog\nc.png,dog\n',
            ", line 3: expected closed double quotes (a quote inside is doubled, a line end "
            "cannot be quoted), found '\"b.png,dog'",
        ),
        (
            "m.txt",
            b"a.png\nb\0.png\n",
            r", line 2: expected text, found a NUL byte in 'b\x00.png'",
        ),
        (
            "m.txt",
            b"a.png\n" + b"\xff" * 100 + b"\tx\n",
            ", line 2: expected 1 column (path), as the first line has, found 2: "
            + repr(r"\xff" * 100)[:20],
        ),
    ],
)  # fmt: skip
def test_a_refusal_says_where_what_was_expected_and_what_was_found(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    found = refusal(write(tmp_path, content, name))
    if message.endswith("'"):
        assert found == message
    else:
        assert found.startswith(message)
    assert len(found) < 400


def test_a_manifest_that_does_not_exist_is_refused_with_the_reason(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.txt") == ": cannot be read: No such file or directory"


def test_a_folder_is_no_manifest(tmp_path: Path) -> None:
    expected = ": expected a list of images, found a folder; list its images: h5ingest manifest "
    assert refusal(tmp_path) == f"{expected}{tmp_path} -o LIST.csv"


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("m.csv", b'path,"label\n'),
        ("m.csv", b'"path"x,label\n'),
        ("m.csv", b'"path,label\n'),
    ],
)
def test_a_header_with_wrong_quotes_is_refused_with_its_line(
    tmp_path: Path, name: str, header: bytes
) -> None:
    found = refusal(write(tmp_path, b"\n" + header + b"a.png,cat\n", name))
    assert found.startswith(", line 2: expected ")
    assert len(found) < 400


def test_a_first_line_of_data_is_read_like_the_others(tmp_path: Path) -> None:
    # Quotes mean something only in tables that have a header.
    path = write(tmp_path, b'"a.png",cat\n"b.png",dog\n')
    _, paths = read_all(path, ",")
    assert paths == [b'"a.png"', b'"b.png"']
    _, paths = read_all(write(tmp_path, b'"a,b.png"\n"c,d.png"\n'), ",")
    assert paths == [b'"a', b'"c']


@pytest.mark.parametrize("first", [b"", b"path\nx.png\n"])
def test_a_line_too_long_to_be_a_path_is_refused(tmp_path: Path, first: bytes) -> None:
    found = refusal(write(tmp_path, first + b"a" * (9 * 1024**2) + b"\n"))
    assert found.startswith(f", line {1 + first.count(bytes([10]))}: expected lines of text")
    assert len(found) < 400


def test_an_image_is_no_manifest(tmp_path: Path) -> None:
    image = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0 \0\0\0 \x08\0\0\0\0V\x11%(\0\0\0\0IEND\xaeB`\x82"
    assert refusal(write(tmp_path, image, "image.png")) == (
        ": expected a text file, found an image (PNG); give the folder that it lies in, or a list "
        "of such files"
    )


def test_a_quoted_cell_may_be_as_long_as_a_line(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    long = b"x" * 2**18
    path = write(tmp_path, b'path,note\n"a,b.png","%s"\nc.png,"%s\n' % (long, long), "m.csv")
    assert "line 3: expected closed double quotes" in refusal(path)
    path = write(tmp_path, b'path,note\n"a,b.png","%s""\xff"\nc.png,x\n' % long, "m.csv")
    assert read_all(path)[1] == [b"a,b.png", b"c.png"]
    with path.open("rb") as file:
        note = parse(file.read(), sniff(path))[1][1]
    assert note == long + b'"\xff'
    assert csv.field_size_limit() == limit, "it is the process's own"


# --- cells ---------------------------------------------------------------------------------------

CELLS = st.one_of(
    st.integers(-(10**20), 10**20).map(lambda n: b"%d" % n),
    st.integers(-9, 9).map(lambda n: b"%+03d" % n),
    st.integers(2**63 - 2, 2**63 + 1).map(lambda n: b"%d" % n),
    st.integers(-(2**63) - 2, -(2**63) + 1).map(lambda n: b"%d" % n),
    st.floats().map(lambda x: repr(x).encode()),
    st.sampled_from([b"", b"nan", b"-inf", b"1e5", b".5", b"5.", b"cat", b"1_0", b"0x1", b" 1",
                     b"-", b"1.5.2", b"\xff", b"infinity", "\u0663".encode(), b"9007199254740993",
                     b"1e400", b"-1e-400", b"0e9", b"-0", b"0", b"00", b"01.5", b"+.5"]),
)  # fmt: skip
COLUMNS = st.one_of(
    st.lists(CELLS, max_size=12),
    st.lists(st.integers(-(10**6), 10**6).map(lambda n: b"%d" % n), max_size=12),
    st.lists(
        st.one_of(st.integers(-(2**60), 2**60).map(lambda n: b"%d" % n), st.just(b"")),
        max_size=12,
    ),
    st.lists(st.sampled_from([b"1", b"2.5", b"", b"nan"]), max_size=12),
)


@given(COLUMNS, st.lists(st.integers(0, 12), max_size=4))
def test_the_kind_of_a_column_does_not_depend_on_how_it_is_cut(
    cells: list[bytes], cuts: list[int]
) -> None:
    pieces = [cells[start:stop] for start, stop in pairwise([0, *sorted(cuts), 99])]
    assert resolve(frozenset().union(*map(kinds_seen, pieces))) == resolve(kinds_seen(cells))


@given(COLUMNS, st.randoms())
def test_the_kind_of_a_column_does_not_depend_on_the_order(
    cells: list[bytes], random: Random
) -> None:
    shuffled = list(cells)
    random.shuffle(shuffled)
    assert resolve(kinds_seen(shuffled)) == resolve(kinds_seen(cells))


def as_number(cell: bytes) -> Fraction | float | None:
    """The number a cell says, exactly; a float for nan and the infinities; None: no number."""
    if not re.fullmatch(rb"[-+0-9.eE]+|[-+]?(?:inf|nan)", cell, re.I):
        return None
    try:
        value = float(cell)
    except ValueError:
        return None
    return Fraction(cell.decode()) if re.search(rb"[0-9]", cell) else value


@given(COLUMNS)
@settings(max_examples=300)
def test_a_column_keeps_every_cell_without_loss(cells: list[bytes]) -> None:
    kind = resolve(kinds_seen(cells))
    values = convert(cells, kind)
    assert len(values) == len(cells)
    numbers = [as_number(cell) for cell in cells]
    if kind == "text":
        assert values.tolist() == cells
        return
    assert str(values.dtype) == kind
    assert any(cells)
    for cell, number, value in zip(cells, numbers, values.tolist(), strict=True):
        if not cell:
            assert kind == "float64"
            assert np.isnan(value)
        elif kind == "int64":
            assert str(value).encode() == cell, "an integer must be the same text again"
        elif re.fullmatch(rb"[+-]?[0-9]+", cell):
            assert repr(value).encode() in (cell + b".0", b"%.16e" % value), "must stay exact"
            assert value == number
        else:
            assert number is not None
            assert np.isinf(value) == (b"inf" in cell.lower())
            assert (value == 0) == (number == 0)
            np.testing.assert_equal(value, float(number) if value == value else float("nan"))


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([b"1", b"-2", b"30", b"0"], "int64"),
        ([b"1", b"007"], "text"),
        ([b"00"], "text"),
        ([b"+49"], "text"),
        ([b"01.5"], "text"),
        ([b"007", b""], "text"),
        ([b"1", b"-0"], "float64"),
        ([b"1.50", b"+0.5", b"1e5", b"1E+5", b"0.0e0"], "float64"),
        ([b"1e400"], "text"),
        ([b"0.5", b"-1e-400"], "text"),
        ([b"0e400", b"1e-308", b"inf"], "float64"),
        ([b"9223372036854775807", b"-9223372036854775808"], "int64"),
        ([b"9223372036854775808"], "text"),
        ([b"9223372036854775807", b""], "text"),
        ([b"0" * 5000 + b"7"], "text"),
        ([b"9" * 5000], "text"),
        ([b"1", b""], "float64"),
        ([b"1", b"2.5"], "float64"),
        ([b".5", b"5.", b"-1e-3", b"INF", b"nan"], "float64"),
        ([b"", b""], "text"),
        ([], "text"),
        ([b"1", b"cat"], "text"),
        ([b"1", b" 2"], "text"),
        ([b"1_000"], "text"),
        ([b"0x10"], "text"),
        (["\u0663".encode()], "text"),
        ([b"9007199254740993"], "int64"),
        ([b"9007199254740993", b""], "text"),
        ([b"9007199254740993", b"0.5"], "text"),
        ([b"9007199254740992", b"0.5"], "float64"),
    ],
)
def test_a_column_has_the_kind_that_holds_every_cell(cells: list[bytes], kind: str) -> None:
    assert resolve(kinds_seen(cells)) == kind


@pytest.mark.parametrize("n_digits", [19, 20, 25])
def test_an_identifier_of_many_digits_is_never_rounded(n_digits: int) -> None:
    cells = [b"1234567890123456789012345"[:n_digits], b"1"]
    kind = resolve(kinds_seen(cells))
    assert kind in ("int64", "text")
    assert [int(value) for value in convert(cells, kind).tolist()] == [int(c) for c in cells]


@given(st.lists(CELLS, max_size=6))
def test_integers_are_those_that_int64_surely_holds(cells: list[bytes]) -> None:
    numbers = [int(cell) for cell in cells if re.fullmatch(rb"[+-]?[0-9]+", cell)]
    expected = len(numbers) == len(cells) and all(-(2**63) <= n < 2**63 for n in numbers)
    assert all_integers(cells) == expected
    if expected:
        assert to_integers(cells).tolist() == numbers


# --- packed strings ------------------------------------------------------------------------------

STRINGS = st.lists(st.binary(max_size=6), max_size=30)


@given(STRINGS)
def test_packed_strings_are_the_strings(strings: list[bytes]) -> None:
    packed = PackedStrings.pack(strings)
    assert len(packed) == len(strings)
    assert list(packed) == strings
    assert [packed[i] for i in range(len(strings))] == strings
    assert packed.text == b"".join(strings)


@given(STRINGS, st.data())
def test_a_slice_of_packed_strings_is_that_of_the_list(
    strings: list[bytes], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(strings)))
    stop = data.draw(st.integers(start, len(strings)))
    part = PackedStrings.pack(strings).slice(range(start, stop))
    assert list(part) == strings[start:stop]
    assert part.text == b"".join(strings[start:stop])


@given(st.lists(STRINGS, max_size=5))
def test_concatenated_parts_are_the_strings_in_order(parts: list[list[bytes]]) -> None:
    packed = PackedStrings.concatenate(PackedStrings.pack(part) for part in parts)
    assert list(packed) == [string for part in parts for string in part]


def test_an_index_beyond_the_end_is_refused() -> None:
    with pytest.raises(IndexError):
        PackedStrings.pack([b"a", b"b"])[2]


def test_ends_that_do_not_fit_the_text_are_refused() -> None:
    with pytest.raises(ValueError, match="expected ends to finish at 3, got 2"):
        PackedStrings(b"abc", np.array([1, 2]))


# --- parse, and memory ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["a.png", "path,label\nx,y"])
def test_a_block_of_blank_lines_has_no_rows(tmp_path: Path, content: str) -> None:
    dialect = sniff(write(tmp_path, content, "m.csv" if "," in content else "m.txt"))
    columns: list[Sequence[bytes]] = parse(b"\n \r\n\n", dialect)
    assert [list(column) for column in columns] == [[] for _ in dialect.columns]


def test_reading_takes_less_than_200_bytes_a_row(tmp_path: Path) -> None:
    n_rows = 200_000
    lines = [f"images/train/{i % 1000:04}/{i:08}.png\t{i % 1000}\n" for i in range(n_rows)]
    path = write(tmp_path, "".join(lines))
    del lines
    tracemalloc.start()
    try:
        _, held = read_manifest(path, IngestOptions(), SerialComm())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(held.paths) == n_rows
    assert peak / n_rows < 200


@given(rows=st.lists(st.sampled_from([b"train", b"test", b"", b"\xff", b"a/b"]), min_size=1),
       n_ranks=st.integers(1, 5))  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_column_makes_groups_the_same_on_all_ranks(
    tmp_path: Path, rows: list[bytes], n_ranks: int
) -> None:
    lines = [b"%d.png\t%s\t%d\n" % (i, cell, i) for i, cell in enumerate(rows)]
    path = write(tmp_path, b"path\tsplit\tlabel\n" + b"".join(lines))
    options = IngestOptions(group_by="split")
    told = on_ranks(n_ranks, lambda comm: read_manifest(path, options, comm))
    names = sorted(set(rows))
    for manifest, held in told:
        assert manifest.group_names == tuple(names)
        assert manifest.group_rows == tuple(rows.count(name) for name in names)
        assert [names[code] for code in held.groups] == rows[held.indices.start : held.indices.stop]
    assert [i for _, held in told for i in held.indices] == list(range(len(rows)))


def test_a_tree_has_a_folder_for_each_label_unless_there_are_groups(tmp_path: Path) -> None:
    path = write(tmp_path, "path\tlabel\tsplit\na.png\t7\tx\nb.png\tant\ty\nc.png\t7\tx\n")
    _, held = read_manifest(path, IngestOptions(layout="tree"), SerialComm())
    assert list(held.folders) == [b"7", b"ant", b"7"]
    grouped = IngestOptions(layout="tree", group_by="split")
    assert len(read_manifest(path, grouped, SerialComm())[1].folders) == 0


def test_group_names_that_no_reader_would_take_are_refused_by_a_dry_run_too(tmp_path: Path) -> None:
    """Each letter takes six in the file's attribute of names, which readers take up to 4 MiB of."""
    names = write_images(tmp_path, make_pixels(11, (5, 6)))
    letters = "\u00e9" * 70_000
    out = tmp_path / "out.h5"
    for n_groups in (9, 11):
        rows = [(name, f"{k % n_groups}{letters}") for k, name in enumerate(names)]
        manifest = write_manifest(tmp_path / "m.csv", [("path", "site"), *rows])
        for dry_run in (True, False):
            options = IngestOptions(group_by="site", dry_run=dry_run)
            if n_groups == 9:
                ingest(manifest, out, options)
                continue
            with pytest.raises(ManifestError, match=r"at most 4,194,304 letters.*of 11 names"):
                ingest(manifest, tmp_path / "more.h5", options)
    assert len(ImageStore(out).groups) == 9
    assert not list(tmp_path.glob("more*"))
