"""The rank-0 pass: what is small, or of variable length, is written by root alone at the end.

It runs on the unpublished file, after all ranks have closed it, and streams the manifest once
more: its memory does not grow with the number of samples. Publishing is a rename.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest import cells
from h5ingest.digest import ContentDigest
from h5ingest.errors import ManifestError
from h5ingest.layout import SCHEMA, Layout
from h5ingest.lines import LineError
from h5ingest.manifest import Manifest, stream
from h5ingest.storage.datasets import output_errors

_BLOCK_ROWS: Final = 1024**2
_TEXT: Final = h5py.string_dtype("utf-8")


def finalize(
    partial: Path, layout: Layout, manifest: Manifest, attributes: dict[str, str | int]
) -> str:
    """Write labels, names, paths, columns and attributes; return the content digest.

    Not collective: root only, while no rank has the file open.

    Raises:
        OutputError: no space, or another error of the file system.
        ManifestError: the manifest is not what it was when the run began.
    """
    digest = ContentDigest(f"{SCHEMA}\t{layout.n_samples}\t{layout.image}")
    with (
        output_errors(f"{partial}: the final pass"),
        h5py.File(partial, "r+", libver=("v110", "v110")) as file,
    ):
        for spec in layout.datasets:
            _label_dims(file[spec.name], spec.dims)
        for name in (layout.status.name, layout.checksums.name):
            _digest_numbers(digest, name, file[name])
        _write_tables(file, layout.n_samples, manifest, digest)
        content_digest = digest.hexdigest()
        for key, value in (attributes | {"content_digest": content_digest}).items():
            file.attrs[key] = value
    return content_digest


def _write_tables(file: h5py.File, n_rows: int, manifest: Manifest, digest: ContentDigest) -> None:
    """Stream the manifest into `/paths`, `/labels` and `/columns`."""
    kinds = {"path": "text", **manifest.column_kinds}
    if "label" in manifest.dialect.columns:
        kinds["label"] = "int64"
    if manifest.column_kinds:
        _create_group(file, "columns")
    targets = {
        column: _create(file, _target(column), kind, n_rows) for column, kind in kinds.items()
    }
    for row, block in _converted_blocks(manifest, kinds, n_rows):
        for column, values in block.items():
            dataset = targets[column]
            dataset[row : row + len(values)] = values
            if kinds[column] == "text":
                digest.add_strings(dataset.name, values)
            else:
                digest.add_numbers(dataset.name, values)
    if manifest.class_names is not None:
        names = _create(file, "/label_names", "text", len(manifest.class_names))
        names[:] = cells.convert(manifest.class_names, "text")
        digest.add_strings(names.name, manifest.class_names)


def _converted_blocks(
    manifest: Manifest, kinds: Mapping[str, str], n_rows: int
) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """Yield (first row, column -> values) and check that the manifest is still the same."""
    codes = {name: code for code, name in enumerate(manifest.class_names or ())}
    sha256 = hashlib.sha256()
    row = 0
    try:
        for columns in stream(manifest.path, manifest.dialect, sha256):
            block = {
                column: np.fromiter(map(codes.__getitem__, columns[column]), np.int64)
                if column == "label" and codes
                else cells.convert(columns[column], kind)
                for column, kind in kinds.items()
            }
            if row + len(block["path"]) > n_rows:
                break
            yield row, block
            row += len(block["path"])
    except (LineError, OSError, KeyError, ValueError):
        row = -1  # what could be read when the run began cannot be read now
    if row != n_rows or sha256.hexdigest() != manifest.sha256:
        raise ManifestError(
            f"{manifest.path}: the manifest was changed while the job ran; nothing is published. "
            f"Run again."
        )


def _target(column: str) -> str:
    return {"path": "/paths", "label": "/labels"}.get(column, f"/columns/{column}")


def _create_group(file: h5py.File, name: str) -> None:
    creation = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    creation.set_obj_track_times(False)
    h5py.h5g.create(file.id, name.encode(), gcpl=creation)


def _create(file: h5py.File, name: str, kind: str, n_rows: int) -> h5py.Dataset:
    dtype = _TEXT if kind == "text" else np.dtype(kind).newbyteorder("<")
    dataset = file.create_dataset(name, shape=(n_rows,), dtype=dtype)
    dataset.dims[0].label = "class" if name == "/label_names" else "sample"
    return dataset


def _label_dims(dataset: h5py.Dataset, labels: tuple[str, ...]) -> None:
    for dim, label in zip(dataset.dims, labels, strict=True):
        dim.label = label


def _digest_numbers(digest: ContentDigest, name: str, dataset: h5py.Dataset) -> None:
    for start in range(0, len(dataset), _BLOCK_ROWS):
        digest.add_numbers(name, dataset[start : start + _BLOCK_ROWS])


def reserve(path: Path) -> None:
    """Create the file, empty, so that errors say what is wrong. Not collective: root only.

    HDF5's own error for any of them, on every rank, would be "unable to create file".

    Raises:
        OutputError: it cannot be created, or is a symbolic link.
    """
    with output_errors(f"{path}: cannot be created"):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666))


def sync(path: Path) -> None:
    """Bring what this host has written to the file, or to the folder, to the disk.

    Not collective. HDF5's close does not do it, and each host can only speak for itself.

    Raises:
        OutputError: the system says that data did not reach the disk.
    """
    with output_errors(f"{path}: cannot be brought to the disk"):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def publish(partial: Path, out: Path) -> None:
    """Give the finished file its name, durably. Not collective: root only.

    Raises:
        OutputError: the file system refuses.
    """
    sync(partial)
    with output_errors(f"{out}: cannot be given its name"):
        partial.replace(out)
    sync(out.parent)
