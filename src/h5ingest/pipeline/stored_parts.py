"""What a rank has to know of each group of a stored file before it is stored again.

May not: know a communicator.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.attribute_values import AttributeValues
from h5ingest.core.digest import attributes_digest, digested
from h5ingest.core.errors import OutputError
from h5ingest.core.hdf5_names import group_prefix
from h5ingest.core.image_columns import columns_in
from h5ingest.core.layout import Filter, Layout, OutputSpec
from h5ingest.core.layout_kinds import KINDS, GroupPlan
from h5ingest.core.packed_strings import PackedStrings
from h5ingest.core.sample_table import Samples
from h5ingest.core.schema import Attribute, FileHeader
from h5ingest.pipeline.build_layout import refuse_not_coded
from h5ingest.reading.forksafe_file import ForkSafeFile
from h5ingest.reading.stored_group import StoredGroup

_MOST_NAMED: Final = 10
"""Objects that a warning names."""
_COUNTS: Final = (Attribute.N_SAMPLES, Attribute.N_FAILED)
"""Attributes that are numbers; all others are texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A group of images, with the samples of one rank."""

    group: GroupPlan
    """`n_elements` are those of the samples."""
    samples: Samples
    """The first of them begins at element 0."""
    has_failed: NDArray[np.bool_]
    """(n,) of each sample."""
    palette: NDArray[np.uint8] | None
    """(k, 3), of the group."""
    chunking: str | None
    """How chunks were cut when their checksums were written, if they have some."""
    statistics: str | None
    """The attribute, if the file has it."""
    strangers: tuple[str, ...]
    """Names of objects and attributes that the format does not know; of trees, which hold any name,
    none."""


def look(
    handle: ForkSafeFile,
    header: FileHeader,
    group: StoredGroup,
    number: int,
    first: StoredGroup,
    share: tuple[int, int],
) -> Part:
    """Return what there is of a group of images.

    Args:
        handle: of the file.
        header: of the file.
        group: of the file.
        number: its position.
        first: the group of the first images of its rows, which says what goes with them.
        share: k and n: the rows are the k-th of n equal parts.

    Raises:
        OutputError: something in it is not as the format has it.
    """
    (part, n_parts), n_each = share, 1 + len(header.images)
    if group.n_rows != first.n_rows:
        raise OutputError(
            f"{handle.path}: {group.prefix}: expected {first.n_rows:,} rows, as in "
            f"{first.prefix or '/'}, found {group.n_rows:,}"
        )
    if (group.status != first.status).any():
        raise OutputError(
            f"{handle.path}: {group.prefix}: expected the status of {first.prefix or '/'} in each "
            f"row, found another"
        )
    rows = range(group.n_rows * part // n_parts, group.n_rows * (part + 1) // n_parts)
    names = group.names(rows)
    paths = PackedStrings.pack(group.paths(rows))
    with handle:
        shapes = group.kinds(rows, names)
        plan = GroupPlan(
            name=first.name(),
            prefix=group.prefix,
            n_rows=group.n_rows,
            n_elements=0,
            output=_output(group),
            padded=group.sizes is not None,
        )
        indices = first.samples(rows) * n_each + number % n_each
        palette, chunking = group.palette(), group.chunking()
        statistics = group.statistics_text()
        strangers = group.strangers(header.images if group is first else ())
    if first.prefix and group_prefix(plan.name) != first.prefix:
        raise OutputError(
            f"{handle.path}: {first.prefix}: expected the name of that group, found {plan.name!r}"
        )
    lengths = KINDS[group.layout].lengths(shapes, group.file_sizes(rows))
    samples = Samples(
        group=number,
        rows=rows,
        indices=indices,
        paths=paths,
        shapes=shapes,
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        folders=PackedStrings.pack([]),
        names=PackedStrings.pack(names),
        n_each=n_each,
    )
    return Part(
        group=replace(plan, n_elements=int(lengths.sum())),
        samples=samples,
        has_failed=group.status[rows.start : rows.stop] == schema.STATUS_FAILED,
        palette=palette,
        chunking=chunking,
        statistics=statistics,
        strangers=strangers,
    )


def _output(group: StoredGroup) -> OutputSpec:
    """Return what all images of the group have in common."""
    height, width, channels = (*(group.row_shape or (0, 0)), 1)[:3]
    return OutputSpec(
        channels=channels if group.row_shape else None,
        dtype=None if group.dtype is None else group.dtype.name,
        size=(height, width) if group.row_shape else None,
    )


def check_parts(header: FileHeader, attributes: Mapping[str, Any], parts: Sequence[Part]) -> None:
    """Refuse groups that do not fit together, and attributes that are not what they were.

    These are the ones of the HDF5 root group that the format names.

    Raises:
        OutputError: says which.
    """
    n_each = 1 + len(header.images)
    n_rows = sum(each.group.n_rows for each in parts[::n_each])
    if header.n_samples not in (None, n_rows):
        raise OutputError(
            f"{header.path}: n_samples: expected {n_rows:,}, found {header.n_samples:,}"
        )
    for number in range(n_each):
        every = parts[number::n_each]
        if len({None if each.palette is None else each.palette.tobytes() for each in every}) > 1:
            raise OutputError(f"{header.path}: expected one palette, found several")
    values = AttributeValues(attributes, header.path)
    found: dict[str, Any] = {
        name: values.count(name) if name in _COUNTS else values.text(name) for name in attributes
    }
    expected = found.pop(Attribute.ATTRIBUTES_DIGEST, None)
    if expected is None:
        return  # a file of old
    del found[Attribute.CONTENT_DIGEST]
    for each in parts:
        values_of = {
            schema.PALETTE: each.palette,
            schema.CHUNKING: each.chunking,
            schema.STATISTICS: each.statistics,
        }
        of_group = digested(header.layout, each.group.prefix, header.version)
        for name, (_, attribute) in of_group.items():
            value = values_of[attribute]
            if value is not None:
                found[name] = value
    digest = attributes_digest(found)
    if digest != expected:
        raise OutputError(
            f"{header.path}: its attributes were changed since it was made: expected "
            f"attributes_digest {expected}, found {digest}"
        )


def warnings_of(header: FileHeader, parts: Sequence[Part], n_failed: int) -> tuple[str, ...]:
    """Return what the user should know of what is in a file."""
    strangers = [name for each in parts for name in each.strangers]
    found = []
    if n_failed:
        found.append(
            f"{n_failed:,} {'rows' if header.images else 'images'} had failed when {header.path} "
            f"was made: they stay zeros with status {schema.STATUS_FAILED}"
        )
    if strangers:
        more = f" and {len(strangers) - _MOST_NAMED:,} more" * (len(strangers) > _MOST_NAMED)
        found.append(
            f"left out, as they are not of h5ingest: {', '.join(strangers[:_MOST_NAMED])}{more}"
        )
    return tuple(found)


def palettes_of(parts: Sequence[Part]) -> tuple[bytes | None, ...]:
    """Return the RGB entries of the palette of each column of images, of a part of each."""
    palettes = (each.palette for each in parts)
    return tuple(None if palette is None else palette.tobytes() for palette in palettes)


def layout_of(
    header: FileHeader,
    new: str,
    parts: Sequence[Part],
    n_elements: Sequence[int],
    filters: tuple[Filter, ...],
    *,
    chunk_rows: int | None,
    alignment: int,
) -> Layout:
    """Return the layout of the new file.

    `parts` are as they are to be; `n_elements` are those of each group, of all ranks.

    Raises:
        UsageError: a chunk would be larger than HDF5 allows, or a filter does not take the images.
        OutputError: an image of a tree has a name that the format has taken since.
    """
    kind = KINDS[new]
    for each in parts:
        above = len(each.group.prefix.encode("utf-8", "surrogateescape")) + 1
        for name in each.samples.names:
            if os.fsdecode(name[above:]).partition("/")[0] in schema.IN_TREES:
                raise OutputError(
                    f"{header.path}: the image {os.fsdecode(name)} has a name that the format has "
                    f"taken since this file was made: ingest its sources anew"
                )
        if any(filter_.codes_images for filter_ in filters):
            refuse_not_coded(each.samples.shapes, each.samples.paths)
    plans = (
        replace(each.group, n_elements=n, filters=filters, chunk_rows=chunk_rows)
        for each, n in zip(parts, n_elements, strict=True)
    )
    return Layout(
        kind=kind.name,
        groups=tuple(map(kind.group, plans)),
        grouped=bool(header.groups),
        alignment=alignment,
        images=columns_in(header),
    )
