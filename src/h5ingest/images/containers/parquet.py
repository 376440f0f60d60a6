"""Parquet: a column of image files, as of the data sets of Hugging Face, and columns beside it.

An image is bytes, or a struct of `bytes` and `path`. The bytes of a row group are read when its
first image is wanted, and kept until those of two others have been: rows are read in order.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from h5ingest.core.errors import SampleError, SetupError, one_line
from h5ingest.core.sample_table import MEMBER
from h5ingest.core.signatures import format_of
from h5ingest.images.archive_table import Member
from h5ingest.images.containers.container import Container, Listing, text_of
from h5ingest.images.scan import HEAD_BYTES, Noted, note

if TYPE_CHECKING:
    import pyarrow as pa

MOST_GROUP_BYTES: Final = 2**32
"""Of the images in a row group."""
_KEPT: Final = 2
"""Row groups in memory."""
_IMAGES: Final = ("image", "img", "images", "jpg", "png", "picture")
_LABELS: Final = ("label", "labels", "fine_label")


class Parquet(Container):
    """A parquet file."""

    def __init__(self, fd: int, size: int, path: bytes = b"", inner: bytes = b"") -> None:
        super().__init__(fd, size, path, inner)
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError:
            raise SetupError(
                f"{os.fsdecode(path)}: to read it the package pyarrow is needed: "
                f"pip install 'h5ingest[parquet]'"
            ) from None
        self._errors = (pa.ArrowException, OSError, ValueError, MemoryError)
        self._lock = threading.Lock()
        self._groups: dict[int, Any] = {}
        try:
            self._file = parquet.ParquetFile(os.fsdecode(path))
            self._schema: pa.Schema = self._file.schema_arrow
        except self._errors as error:
            raise SampleError("damaged", f"pyarrow cannot read it ({one_line(error)})") from None
        self._column = self._choose()

    def _choose(self) -> str:
        """Return the name of the column of images."""
        import pyarrow.types as is_

        def holds_bytes(kind: Any) -> bool:
            if is_.is_struct(kind):
                at = kind.get_field_index("bytes")
                return at >= 0 and holds_bytes(kind.field(at).type)
            return bool(is_.is_binary(kind) or is_.is_large_binary(kind))

        found = [field.name for field in self._schema if holds_bytes(field.type)]
        wanted = os.fsdecode(self._inner)
        named = [wanted] if wanted else [name for name in _IMAGES if name in found]
        if wanted and wanted not in found:
            raise SampleError("missing", f"no column {wanted!r} of bytes; there are: {found}")
        if not named and len(found) != 1:
            names = ", ".join(found) or ", ".join(self._schema.names)
            what = "several columns" if found else "no column"
            raise SampleError(
                "unsupported",
                f"{what} of bytes, or of structs with bytes, for the images: {names}. Name one "
                f"behind a colon, FILE.parquet:NAME",
            )
        return (named or found)[0]

    def samples(self, beat: Callable[[], None]) -> Listing:
        noted: Noted = {}
        scalars = self._scalars(noted)
        about, paths = self._file.metadata, list[bytes]()
        columns: dict[str, list[bytes]] = {name: [] for name in scalars}
        is_struct = self._has_field("path")
        wanted = [*scalars, *([f"{self._column}.path"] if is_struct else [])]
        members = np.zeros(about.num_rows, MEMBER)
        first = 0
        try:
            for number in range(about.num_row_groups):
                beat()
                n = about.row_group(number).num_rows
                members["at"][first : first + n] = np.arange(n)
                members["stored"][first : first + n] = number
                first += n
                if not wanted:
                    continue
                table = self._file.read_row_group(number, columns=wanted, use_threads=False)
                for name, cells in columns.items():
                    cells += map(text_of, table.column(name).to_pylist())
                if is_struct:
                    structs = table.column(self._column).to_pylist()
                    paths += [text_of(each and each.get("path")) for each in structs]
        except self._errors as error:
            raise SampleError("damaged", f"pyarrow cannot read it ({one_line(error)})") from None
        return Listing(
            names=self._names(len(members)),
            members=members,
            columns=self._labelled(columns),
            paths=paths,
            noted=noted,
        )

    def _names(self, n: int) -> list[bytes]:
        """Return names for all rows: their numbers, with the ending that the first image has."""
        ending = "png"
        if n:
            try:
                data, _ = self.read(Member(0, 0, 0, 0, 0, 0), HEAD_BYTES)
                ending = {"JPEG": "jpg", None: "png"}.get(found := format_of(data), found or "")
            except SampleError:
                pass  # it will fail
        width = max(5, len(str(n - 1)))
        return [f"{k:0{width}d}.{ending.lower().replace(' ', '')}".encode() for k in range(n)]

    def _has_field(self, name: str) -> bool:
        import pyarrow.types as is_

        kind = self._schema.field(self._column).type
        return bool(is_.is_struct(kind) and kind.get_field_index(name) >= 0)

    def _scalars(self, noted: Noted) -> list[str]:
        """Return the names of the columns of plain values."""
        import pyarrow.types as is_

        found = []
        for field in self._schema:
            kind = field.type.value_type if is_.is_dictionary(field.type) else field.type
            if (
                is_.is_integer(kind) or is_.is_floating(kind) or is_.is_boolean(kind)
                or is_.is_string(kind) or is_.is_large_string(kind) or is_.is_temporal(kind)
                or is_.is_decimal(kind)
            ):  # fmt: skip
                found.append(field.name)
            elif field.name != self._column:
                note(noted, "column that is not of plain values", field.name.encode())
        return found

    def _labelled(self, columns: dict[str, list[bytes]]) -> dict[str, list[bytes]]:
        """Return the columns, that of labels as `label`, with names of classes where they are."""
        names = self._class_names()
        label = next((name for name in (*_LABELS, *names) if name in columns), None)
        named = {}
        for name, cells in columns.items():
            if (classes := names.get(name)) is not None:
                try:
                    cells = [
                        classes[int(cell)] if cell not in (b"", b"-1") else b"" for cell in cells
                    ]
                except (ValueError, IndexError):
                    raise SampleError(
                        "damaged", f"column {name!r} has numbers that its class names do not have"
                    ) from None
            named["label" if name == label else name] = cells
        return named

    def _class_names(self) -> dict[str, list[bytes]]:
        """Return the names of classes that Hugging Face's metadata have, by column."""
        try:
            about = json.loads((self._schema.metadata or {}).get(b"huggingface", b"{}"))
            features = about["info"]["features"]
            return {
                name: [text_of(each) for each in feature["names"]]
                for name, feature in features.items()
                if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}

    def read(self, member: Member, limit: int | None) -> tuple[bytes, int]:
        with self._lock:
            images = self._groups.get(member.stored)
            if images is None:
                images = self._read_group(member.stored)
                while len(self._groups) >= _KEPT:
                    del self._groups[next(iter(self._groups))]
                self._groups[member.stored] = images
        value = images[member.at].as_buffer() if member.at < len(images) else None
        if value is None:
            raise SampleError("missing", "no bytes in this row: it may name a file elsewhere")
        wanted = value.size if limit is None else min(limit, value.size)
        return value.slice(0, wanted).to_pybytes(), value.size

    def _read_group(self, number: int) -> Any:
        """Return the bytes of the images in a row group, as an array of pyarrow."""
        import pyarrow as pa

        about = self._file.metadata.row_group(number)
        columns = (about.column(k) for k in range(about.num_columns))
        n_bytes = sum(
            each.total_uncompressed_size
            for each in columns
            if each.path_in_schema.partition(".")[0] == self._column
        )
        if n_bytes > MOST_GROUP_BYTES:
            raise SampleError(
                "too large",
                f"its row group has {n_bytes:,} bytes of images, at most {MOST_GROUP_BYTES:,} are "
                f"held in memory: write the file anew with fewer rows in a group",
            )
        is_struct = self._has_field("bytes")
        name = f"{self._column}.bytes" if is_struct else self._column
        try:
            table = self._file.read_row_group(number, columns=[name], use_threads=False)
            column = table.column(self._column)
            if is_struct:  # a struct that is null has no bytes, either
                chunks = [chunk.field("bytes") for chunk in column.chunks]
                column = pa.chunked_array(chunks, column.type.field("bytes").type)
            return column
        except self._errors as error:
            raise SampleError("damaged", f"pyarrow cannot read it ({one_line(error)})") from None
