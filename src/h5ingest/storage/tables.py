"""What goes with the samples, written by rank 0: paths, labels, columns. See `rank0_pass`.

h5py's own `create_dataset`, `file[name]` and `dataset[:]` take several times as long, which counts
where there are many groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.column_types import to_texts
from h5ingest.core.digest import ContentDigest
from h5ingest.core.layout import Layout
from h5ingest.core.lists import Lists, offsets_of, parse_kind, values_of
from h5ingest.core.sample_columns import INDEX, SampleColumns, target
from h5ingest.storage.datasets import create_group, open_dataset
from h5ingest.storage.group_statistics import ClassCounts

TEXT: Final = h5py.string_dtype("utf-8")


def write_texts(
    file: h5py.File,
    prefix: str,
    dataset: schema.StandardDataset,
    values: Sequence[bytes],
    digest: ContentDigest,
) -> None:
    """Write a standard dataset of strings, and add it to the digest."""
    name = dataset.at(prefix)
    _create(file, name, dataset.dtype, (len(values),), dataset.dims[0])
    _write(file, name, 0, to_texts(values), digest)


def write_tables(
    file: h5py.File,
    layout: Layout,
    columns: SampleColumns,
    digest: ContentDigest,
    classes: ClassCounts,
    beat: Callable[[], None],
) -> None:
    """Stream what goes with the samples into `paths`, `labels`, `columns`, `samples` of groups."""
    kinds = dict(columns.kinds)
    if not layout.grouped:
        del kinds[INDEX]
    n_each, (_, *others) = len(layout.images), layout.images
    lengths = _lengths(columns, len(layout.groups) // n_each, beat)
    for number, group in enumerate(layout.groups):
        beat()
        if number % n_each:
            _create(file, schema.PATHS.at(group.prefix), schema.PATHS.dtype, (group.n_rows,))
            continue
        names = {column: target(group.prefix, column) for column in kinds}
        if any(name.startswith(schema.column(group.prefix, "")) for name in names.values()):
            create_group(file.id, f"{group.prefix}/{schema.COLUMNS}")
        for column, name in names.items():
            if column in lengths:
                total = int(lengths[column][number // n_each])
                _create_lists(file, name, kinds[column], group.n_rows, total, digest)
            else:
                _create(file, name, kinds[column], (group.n_rows,))
    rows = [0] * len(layout.groups)
    ends = {column: [0] * len(layout.groups) for column in lengths}
    for codes, block in columns.blocks():
        order = np.argsort(codes, kind="stable")
        ordered = {column: block[column][order] for column in (*kinds, *others)}
        numbers, counts = np.unique(codes, return_counts=True)
        stops = np.cumsum(counts)
        for number, start, stop in zip(
            *(each.tolist() for each in (numbers, stops - counts, stops)), strict=True
        ):
            beat()
            of_group = layout.groups[number * n_each : (number + 1) * n_each]
            names = {column: target(of_group[0].prefix, column) for column in kinds}
            for column, group in zip(others, of_group[1:], strict=True):
                names[column] = schema.PATHS.at(group.prefix)
            for column, name in names.items():
                cells = ordered[column][start:stop]
                if isinstance(cells, Lists):
                    at = ends[column][number]
                    _write_lists(file, name, (rows[number], at), cells, digest)
                    ends[column][number] += len(cells.values)
                else:
                    _write(file, name, rows[number], cells, digest)
            if "label" in kinds:
                classes.add(number * n_each, rows[number], ordered["label"][start:stop])
            rows[number] += stop - start


def _lengths(
    columns: SampleColumns, n_groups: int, beat: Callable[[], None]
) -> dict[str, NDArray[np.int64]]:
    """Return how many values each column of lists has in each group, (n_groups,).

    They are read for that alone: a dataset whose size is not known at first would have to grow by
    chunks, and need an index.
    """
    lists = [column for column, kind in columns.kinds.items() if parse_kind(kind)]
    found = {column: np.zeros(n_groups, np.int64) for column in lists}
    for codes, block in columns.blocks() if lists else ():
        beat()
        for column in lists:
            cells = block[column]
            assert isinstance(cells, Lists), "by its kind"
            np.add.at(found[column], codes, cells.lengths)
    return found


def _create_lists(
    file: h5py.File, name: str, kind: str, n_rows: int, total: int, digest: ContentDigest
) -> None:
    """Create the two datasets of lists; the first offset is 0 in any case."""
    dtype, inner = parse_kind(kind) or (kind, ())
    create_group(file.id, name)
    _create(file, values_of(name), dtype, (total, *inner), "value")
    _create(file, offsets_of(name), schema.OFFSETS.dtype, (n_rows + 1,))
    _write(file, offsets_of(name), 0, np.zeros(1, np.int64), digest)


def _write_lists(
    file: h5py.File, name: str, at: tuple[int, int], cells: Lists, digest: ContentDigest
) -> None:
    """Write rows of lists, the first of which is `at` this row and value."""
    row, value = at
    _write(file, offsets_of(name), row + 1, cells.offsets[1:] + value, digest)
    if len(cells.values):
        _write(file, values_of(name), value, cells.values, digest)


def _create(
    file: h5py.File, name: str, kind: str, shape: tuple[int, ...], dim: str = "sample"
) -> None:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_obj_track_times(False)
    dtype = TEXT if kind == "text" else np.dtype(kind).newbyteorder("<")
    type_, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape)
    name_bytes = name.encode("utf-8", "surrogateescape")
    dataset = h5py.h5d.create(file.id, name_bytes, type_, space, creation)
    h5py.h5ds.set_label(dataset, 0, dim.encode())


def _write(file: h5py.File, name: str, start: int, values: Any, digest: ContentDigest) -> None:
    """Write rows of a dataset, numbers or bytes objects, and add them to the digest."""
    dataset, is_text = open_dataset(file.id, name), values.dtype == object
    rows = dataset.get_space()
    rows.select_hyperslab((start, *(0 for _ in values.shape[1:])), values.shape)
    type_ = h5py.h5t.py_create(TEXT) if is_text else None
    dataset.write(h5py.h5s.create_simple(values.shape), rows, values, type_)
    if is_text:
        digest.add_strings(name, values)
    else:
        digest.add_numbers(name, values)
