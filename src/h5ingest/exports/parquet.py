"""A Parquet file as Hugging Face's `datasets` reads it: `image` has the bytes and path of a file.

Further images of a row have columns of their own, called as in the manifest. Labels that have names
are a ClassLabel; other columns are what the file has. Where it has groups, a column `sample` says
which line of the manifest a row was: rows are in the order of the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

import numpy as np

from h5ingest.core.errors import OutputError, SetupError
from h5ingest.core.lists import kind_of, parse_kind
from h5ingest.core.units import MIB
from h5ingest.exports import table
from h5ingest.exports.members import Cells, Member
from h5ingest.exports.stored import Stored
from h5ingest.exports.work import Work
from h5ingest.reading.text import Strings

SAMPLE: Final = "sample"
"""Name of the column of indices in the manifest."""
_MOST_ROWS: Final = 256
_MOST_BYTES: Final = 64 * MIB
"""Of a row group."""


def pyarrow_module() -> Any:
    """Return the library; raise `SetupError` if it is not installed."""
    try:
        import pyarrow  # an extra
    except ImportError:
        raise SetupError("Parquet needs a library: pip install 'h5ingest[parquet]'") from None
    return pyarrow


def rows_of(work: Work, positions: range) -> Sequence[Cells]:
    """Return what the table has of rows beside their images, in the order of `_columns`.

    Raises:
        OutputError: the file cannot be read, or a text is no UTF-8.
    """
    share = work.share.at(np.arange(positions.start, positions.stop))
    stored, found = work.stored, list[Cells]()
    columns = table.columns_of(stored)
    for number, here in share.runs():
        group, rows = stored.group(number), share.rows[here]
        cells = table.cells_of(stored, group, rows)
        with stored.inside():
            labels, _ = group.classes()
            samples = group.samples(rows).tolist()
        if labels is not None:
            cells["label"] = labels[rows].tolist()
        every = [_as_text(stored, name, cells[name]) for name in columns]
        if stored.header.groups:
            every.append(samples)
        found += zip(*every, strict=True) if every else [()] * len(rows)
    return found


def _as_text(stored: Stored, column: str, cells: Sequence[Any]) -> Sequence[Any]:
    """Return texts as Parquet has them; numbers as they are."""
    try:
        return [cell.decode() if isinstance(cell, bytes) else cell for cell in cells]
    except UnicodeDecodeError as error:
        raise OutputError(
            f"{stored.path}: column {column!r}: expected UTF-8, as Parquet has no other texts, "
            f"found {error.object!r}; a folder or an archive can hold them"
        ) from None


class Parquet:
    """A Parquet file that is being written; see `members.Archive`. Names are UTF-8."""

    def __init__(self, file: BinaryIO, stored: Stored) -> None:
        """Begin, with the columns of a file.

        Raises:
            OutputError: one has the name of a column that is made here.
        """
        pa = pyarrow_module()
        import pyarrow.parquet

        file_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        images = ("image", *stored.image_columns[1:])
        fields = [(name, file_type) for name in images]
        features: dict[str, dict[str, Any]] = {name: {"_type": "Image"} for name in images}
        if len(features) < len(images):
            raise OutputError(f"{stored.path}: a column is called 'image', as one of Parquet")
        for name, kind, names in _columns(stored):
            if name in features:
                raise OutputError(f"{stored.path}: a column is called {name!r}, as one of Parquet")
            dtype, inner = parse_kind(kind) or (kind, None)
            type_ = pa.string() if dtype == "text" else getattr(pa, dtype)()
            feature: dict[str, Any]
            feature = {"dtype": "string" if dtype == "text" else dtype, "_type": "Value"}
            if names is not None:
                feature = {"names": names, "_type": "ClassLabel"}
            for n in () if inner is None else (*inner[::-1], -1):
                type_ = pa.list_(type_, n)
                feature = {"feature": feature, "length": n, "_type": "Sequence"}
            fields.append((name, type_))
            features[name] = feature
        about = json.dumps({"info": {"features": features}})
        self._pa, self._schema = pa, pa.schema(fields, {"huggingface": about})
        self._writer = pyarrow.parquet.ParquetWriter(
            file, self._schema, compression="NONE", use_dictionary=False
        )
        self._rows: list[tuple[Any, ...]] = []
        self._n_bytes = 0

    def add(self, row: Sequence[Member], cells: Cells = ()) -> None:
        images = ({"bytes": data, "path": name.decode()} for name, data in row)
        self._rows.append((*images, *cells))
        self._n_bytes += sum(len(data) for _, data in row)
        if len(self._rows) >= _MOST_ROWS or self._n_bytes >= _MOST_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = [
                self._pa.array(column, field.type)
                for column, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
            ]
            self._writer.write_table(self._pa.Table.from_arrays(columns, schema=self._schema))
            self._rows, self._n_bytes = [], 0

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def give_up(self) -> None:
        self._writer.is_open = False  # else it would be ended when this object goes


def _columns(stored: Stored) -> list[tuple[str, str, list[str] | None]]:
    """Return name, kind and, of labels that have some, names of all columns beside images."""
    group, found = stored.group(0), list[tuple[str, str, list[str] | None]]()
    with stored.inside():
        labels, names = group.classes()
        columns = group.columns()
    if labels is not None:
        raw = None if names is None else names.raw(np.arange(len(names)))
        texts = None if raw is None else list(_as_text(stored, "label", raw))
        found.append(("label", kind_of(labels), texts))
    for name, column in columns.items():
        found.append((name, "text" if isinstance(column, Strings) else kind_of(column), None))
    return found + [(SAMPLE, "int64", None)] * bool(stored.header.groups)
