"""The rank-0 pass: what is small, or of variable length, is written by root alone at the end.

It runs on the unpublished file, after all ranks have closed it, and streams the manifest once
more: its memory does not grow with the number of samples. Publishing gives the file its name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest import cells
from h5ingest.digest import ContentDigest
from h5ingest.errors import ManifestError, OutputError
from h5ingest.layout import STATUS_FAILED, STATUS_OK, Layout
from h5ingest.lines import LineError
from h5ingest.manifest import Manifest, stream
from h5ingest.outfiles import give_name
from h5ingest.storage.datasets import create_group, output_errors, sync
from h5ingest.storage.existing import refuse_existing
from h5ingest.storage.rawfile import reopened

_BLOCK_ROWS: Final = 1024**2
_INDEX: Final = "\0index"
"""Stands for the row in the manifest among its columns, none of which can have this name."""
_TEXT: Final = h5py.string_dtype("utf-8")


def finalize(
    partial: Path,
    layout: Layout,
    manifest: Manifest,
    attributes: dict[str, str | int],
    *,
    names: dict[int, list[tuple[str, str]]] | None = None,
    palette: bytes | None = None,
    beat: Callable[[], None] = lambda: None,
) -> str:
    """Write labels, names, paths, columns and attributes; return the content digest.

    Not collective: root only, while no rank has the file open.

    Args:
        partial: the file.
        layout: its datasets.
        manifest: read once more.
        attributes: of the root group.
        names: group -> (HDF5 path, shape and type) of each row's dataset, in a tree.
        palette: RGB entries that the samples are indices of.
        beat: called now and then.

    Raises:
        OutputError: no space, or another error of the file system; or images are missing.
        ManifestError: the manifest is not what it was when the run began.
        Exception: whatever `beat` raises; the file may be ended another time.
    """
    beat()
    _check_status(partial, layout, int(attributes["n_failed"]))
    digest = ContentDigest(f"{layout.schema}\t{layout.n_samples}")
    with reopened(partial, "the final pass") as file:
        for number, group in enumerate(layout.groups):
            for spec in group.datasets:
                _label_dims(file[spec.name], spec.dims)
                if spec is group.pixels:
                    digest.add_pixels(spec.name, [f"{spec.dtype}{spec.shape}"])
                else:
                    _digest_numbers(digest, spec.name, file[spec.name], beat)
            if palette is not None:  # of a tree, whose images have no dataset in common: the group
                colours = np.frombuffer(palette, np.uint8).reshape(-1, 3)
                file[group.pixels.name or group.prefix or "/"].attrs["palette"] = colours
            if layout.grouped:
                name = group.name.encode("utf-8", "surrogateescape")
                file[group.prefix].attrs.create("name", name, dtype=_TEXT)
            if names is not None:
                paths = [name.encode("utf-8", "surrogateescape") for name, _ in names[number]]
                _write_all(file, f"{group.prefix}/datasets", paths, digest)
                digest.add_pixels(f"{group.prefix}/datasets", (kind for _, kind in names[number]))
            if manifest.class_names is not None:
                _write_all(file, f"{group.prefix}/label_names", manifest.class_names, digest)
        _write_tables(file, layout, manifest, digest, beat)
        content_digest = digest.hexdigest()
        for key, value in (attributes | {"content_digest": content_digest}).items():
            file.attrs[key] = value
    return content_digest


def _write_all(file: h5py.File, name: str, values: Sequence[bytes], digest: ContentDigest) -> None:
    dataset = _create(file, name, "text", len(values))
    dataset[:] = cells.convert(values, "text")
    digest.add_strings(name, values)


def _write_tables(
    file: h5py.File,
    layout: Layout,
    manifest: Manifest,
    digest: ContentDigest,
    beat: Callable[[], None],
) -> None:
    """Stream the manifest into `paths`, `labels`, `columns` and `samples` of each group."""
    kinds = {"path": "text", **manifest.column_kinds}
    if "label" in manifest.dialect.columns:
        kinds["label"] = "int64"
    if layout.grouped:
        kinds[_INDEX] = "int64"
    targets: list[dict[str, h5py.Dataset]] = []
    for group in layout.groups:
        if manifest.column_kinds:
            create_group(file.id, f"{group.prefix}/columns")
        targets.append(
            {
                column: _create(file, group.prefix + _target(column), kind, group.n_rows)
                for column, kind in kinds.items()
            }
        )
    rows = [0] * len(layout.groups)
    for codes, block in _converted_blocks(manifest, kinds, layout.n_samples):
        beat()
        for number in np.flatnonzero(np.bincount(codes)).tolist():
            mine = slice(None) if len(rows) == 1 else codes == number
            n_block = len(codes[mine])
            for column, values in block.items():
                dataset, part = targets[number][column], values[mine]
                dataset[rows[number] : rows[number] + n_block] = part
                if kinds[column] == "text":
                    digest.add_strings(dataset.name, part)
                else:
                    digest.add_numbers(dataset.name, part)
            rows[number] += n_block


def _converted_blocks(
    manifest: Manifest, kinds: Mapping[str, str], n_rows: int
) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]]:
    """Yield (group of each row, column -> values); check that the manifest is still the same."""
    labels = {name: code for code, name in enumerate(manifest.class_names or ())}
    groups = {name: code for code, name in enumerate(manifest.group_names)}
    sha256 = hashlib.sha256()
    row = 0
    try:
        for columns in stream(manifest.path, manifest.dialect, sha256):
            n_block = len(columns["path"])
            if row + n_block > n_rows:
                break
            block = {}
            for column, kind in kinds.items():
                if column == _INDEX:
                    block[column] = np.arange(row, row + n_block)
                elif column == "label" and labels:
                    block[column] = np.fromiter(map(labels.__getitem__, columns[column]), np.int64)
                else:
                    block[column] = cells.convert(columns[column], kind)
            codes = np.zeros(n_block, np.int64)
            if manifest.group_by is not None:
                wanted = columns[manifest.group_by]
                codes[:] = np.fromiter(map(groups.__getitem__, wanted), np.int64)
            yield codes, block
            row += n_block
    except (LineError, OSError, KeyError, ValueError):
        row = -1  # what could be read when the run began cannot be read now
    if row != n_rows or sha256.hexdigest() != manifest.sha256:
        raise ManifestError(
            f"{manifest.path}: the manifest was changed while the job ran; nothing is published. "
            f"Run again."
        )


def _target(column: str) -> str:
    names = {"path": "/paths", "label": "/labels", _INDEX: "/samples"}
    return names.get(column, f"/columns/{column}")


def _create(file: h5py.File, name: str, kind: str, n_rows: int) -> h5py.Dataset:
    dtype = _TEXT if kind == "text" else np.dtype(kind).newbyteorder("<")
    dataset = file.create_dataset(name, shape=(n_rows,), dtype=dtype)
    dataset.dims[0].label = "class" if name.endswith("/label_names") else "sample"
    return dataset


def _label_dims(dataset: h5py.Dataset, labels: tuple[str, ...]) -> None:
    for dim, label in zip(dataset.dims, labels, strict=True):
        dim.label = label


def _digest_numbers(
    digest: ContentDigest, name: str, dataset: h5py.Dataset, beat: Callable[[], None]
) -> None:
    for start in range(0, len(dataset), _BLOCK_ROWS):
        beat()
        digest.add_numbers(name, dataset[start : start + _BLOCK_ROWS])


def _check_status(partial: Path, layout: Layout, n_failed: int) -> None:
    """Raise if a row was not stored: nothing incomplete is published, whatever went wrong.

    Not collective: root only.
    """
    found = np.zeros(256, np.int64)
    with output_errors(f"{partial}: cannot be read"), h5py.File(partial, "r") as file:
        for group in layout.groups:
            for start in range(0, group.n_rows, _BLOCK_ROWS):
                status = file[group.status.name][start : start + _BLOCK_ROWS]
                found += np.bincount(status, minlength=256)
    if (found[STATUS_OK], found[STATUS_FAILED]) != (layout.n_samples - n_failed, n_failed):
        raise OutputError(
            f"{partial}: expected {layout.n_samples - n_failed:,} images stored and {n_failed:,} "
            f"failed, found {found[STATUS_OK]:,} and {found[STATUS_FAILED]:,}: the file or its "
            f"journal was changed by others. --restart begins again."
        )


def publish(partial: Path, out: Path, *, overwrite: bool, foreign: bool) -> str:
    """Give the finished file its name, durably. Not collective: root only.

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
