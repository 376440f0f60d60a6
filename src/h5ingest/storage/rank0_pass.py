"""The rank-0 pass: what is small, or of variable length, is written by rank 0 alone at the end.

It runs on the unpublished file, after all ranks have closed it, and streams what goes with the
samples (`core.sample_columns`): its memory does not grow with their number. Publishing gives the
file its name. A job that is killed in this pass has to repeat nothing but the pass.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.digest import ContentDigest, attributes_digest, content_text
from h5ingest.core.errors import OutputError
from h5ingest.core.layout import Layout
from h5ingest.core.moments import ByKind
from h5ingest.core.outfiles import give_name
from h5ingest.core.sample_columns import SampleColumns
from h5ingest.core.schema import STATUS_FAILED, STATUS_OK, Attribute
from h5ingest.storage.datasets import open_dataset, output_errors, rows_of, sync
from h5ingest.storage.existing_output import refuse_existing
from h5ingest.storage.group_statistics import ClassCounts, statistics, summary
from h5ingest.storage.raw_file import reopened
from h5ingest.storage.scales import write_scales
from h5ingest.storage.tables import TEXT, write_tables, write_texts

_BLOCK_ROWS: Final = 1024**2


def finalize(
    partial: Path,
    layout: Layout,
    columns: SampleColumns,
    attributes: dict[str, str | int],
    *,
    moments: Mapping[int, ByKind] | None = None,
    names: dict[int, list[tuple[str, str]]] | None = None,
    palettes: Sequence[bytes | None] = (None,),
    beat: Callable[[], None] = lambda: None,
) -> tuple[str, str]:
    """Write labels, names, paths, columns and attributes.

    Not collective: rank 0 only, while no rank has the file open.

    Args:
        partial: the file.
        layout: its datasets.
        columns: what goes with the samples.
        attributes: of the root group.
        moments: position of a group -> sums of its pixels, where they are known.
        names: group -> (HDF5 path, shape and type) of each row's dataset, in a tree.
        palettes: of each column of images, RGB entries that its samples are indices of.
        beat: called now and then.

    Returns:
        The content digest, and what the user should know of images that are there twice.

    Raises:
        OutputError: no space, or another error of the file system; or images are missing.
        IngestError: whatever `columns` raises.
        Exception: whatever `beat` raises; the file may be ended another time.
    """
    beat()
    _check_status(partial, layout, int(attributes[Attribute.N_FAILED]), beat)
    digest = ContentDigest(content_text(layout.kind, layout.n_samples))
    of_others: dict[str, Any] = {}
    with reopened(partial, "the final pass") as file:
        for number, group in enumerate(layout.groups):
            for spec in group.datasets:
                dataset = open_dataset(file.id, spec.name)
                for axis, label in enumerate(spec.dims):
                    h5py.h5ds.set_label(dataset, axis, label.encode())
                if spec is group.pixels:
                    digest.add_pixels(spec.name, [f"{spec.dtype}{spec.shape}"])
                elif spec is group.chunk_checksums:
                    how = repr(tuple(filter_.id for filter_ in group.pixels.filters))  # of a tree
                    if group.pixels.name:
                        pixels = open_dataset(file.id, group.pixels.name)
                        how = schema.chunking(pixels.get_create_plist())
                    file[spec.name].attrs[schema.CHUNKING] = how
                    of_others[f"{spec.name}@{schema.CHUNKING}"] = how
                else:
                    for values in _blocks(dataset, beat):
                        digest.add_numbers(spec.name, values)
            palette = palettes[number % len(palettes)]
            if palette is not None:  # of a tree, whose images have no dataset in common: the group
                colours = np.frombuffer(palette, np.uint8).reshape(-1, 3)
                where = group.pixels.name or group.prefix or "/"
                file[where].attrs[schema.PALETTE] = colours
                of_others[f"{where}@{schema.PALETTE}"] = colours
            if number % len(layout.images):  # of further images: what they have in common is once
                if names is not None:
                    _write_tree_names(file, group.prefix, names[number], digest)
                continue
            if layout.grouped:
                name = group.name.encode("utf-8", "surrogateescape")
                file[group.prefix].attrs.create(schema.GROUP_NAME, name, dtype=TEXT)
            if names is not None:
                _write_tree_names(file, group.prefix, names[number], digest)
            if columns.class_names is not None:
                write_texts(file, group.prefix, schema.LABEL_NAMES, columns.class_names, digest)
        classes = ClassCounts(file, layout, any_failed=bool(attributes[Attribute.N_FAILED]))
        write_tables(file, layout, columns, digest, classes, beat)
        found = statistics(file, layout, moments or {}, classes, names, beat)
        for group, of_group in zip(layout.groups, found, strict=True):
            where, text = group.prefix or "/", of_group.to_json()
            file[where].attrs.create(schema.STATISTICS, text, dtype=TEXT)
            of_others[f"{where}@{schema.STATISTICS}"] = text
        if layout.kind == "stack":
            for group in layout.groups:
                beat()
                write_scales(file, group.prefix)
        content_digest = digest.hexdigest()
        digests = {
            Attribute.CONTENT_DIGEST: content_digest,
            Attribute.ATTRIBUTES_DIGEST: attributes_digest(attributes | of_others),
        }
        for key, value in (attributes | digests).items():
            file.attrs[key] = value
    return content_digest, summary(found, layout)


def _write_tree_names(
    file: h5py.File, prefix: str, names: Sequence[tuple[str, str]], digest: ContentDigest
) -> None:
    """Write the HDF5 path of each row's dataset; to the digest goes also what is in these."""
    paths = [name.encode("utf-8", "surrogateescape") for name, _ in names]
    write_texts(file, prefix, schema.TREE_NAMES, paths, digest)
    digest.add_pixels(schema.TREE_NAMES.at(prefix), (kind for _, kind in names))


def _blocks(dataset: Any, beat: Callable[[], None]) -> Iterator[NDArray[Any]]:
    """Yield the rows of a dataset of numbers, many at a time."""
    n_rows = dataset.shape[0]
    for start in range(0, n_rows, _BLOCK_ROWS):
        beat()
        yield rows_of(dataset, range(start, min(start + _BLOCK_ROWS, n_rows)))


def _check_status(partial: Path, layout: Layout, n_failed: int, beat: Callable[[], None]) -> None:
    """Raise if a row was not stored: nothing incomplete is published, whatever went wrong.

    Not collective: rank 0 only.
    """
    found = np.zeros(256, np.int64)
    with output_errors(f"{partial}: cannot be read"), h5py.File(partial, "r") as file:
        for group in layout.groups:
            for status in _blocks(open_dataset(file.id, group.status.name), beat):
                found += np.bincount(status, minlength=256)
    n_failed *= len(layout.images)
    if (found[STATUS_OK], found[STATUS_FAILED]) != (layout.n_images - n_failed, n_failed):
        raise OutputError(
            f"{partial}: expected {layout.n_images - n_failed:,} images stored and {n_failed:,} "
            f"failed, found {found[STATUS_OK]:,} and {found[STATUS_FAILED]:,}: nothing is "
            f"published.\n"
            f"Start the same command again: it keeps what is stored, and reads the file anew. If "
            f"it finds the same, another program has changed the file: --restart begins again."
        )


def publish(partial: Path, out: Path, *, overwrite: bool, foreign: bool) -> str:
    """Give the finished file its name, durably. Not collective: rank 0 only.

    Args:
        partial: the file.
        out: its name from now on.
        overwrite: whether it may replace a file of h5ingest.
        foreign: whether it may, with `overwrite`, replace any HDF5 file.

    Returns:
        What the user should know of the published file; mostly empty.

    Raises:
        OutputError: it is not published: the file system refuses, or something has the name.
    """
    sync(partial)
    try:
        refuse_existing(out, overwrite=overwrite, foreign=foreign)
        with output_errors(f"{out}: cannot be given its name"):
            give_name(partial, out, replace=overwrite and os.path.lexists(out))
    except OutputError as error:
        if not os.path.lexists(out):
            raise
        raise OutputError(
            f"{error}\nAll images are stored in {partial.name}: once the name is free, the same "
            f"command publishes them."
        ) from None
    try:
        sync(out.parent)
    except OutputError as error:
        return f"{out} is complete, but a crash of the machine might undo its name now: {error}"
    return ""
