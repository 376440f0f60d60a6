"""References in the form of kerchunk: where the chunks of a file lie, so that zarr reads them.

Version 1 of the form (https://fsspec.github.io/kerchunk/spec.html), arrays as zarr format 2 has
them. Texts are left out: no codec of zarr reads those of HDF5; names of classes are an attribute.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import h5py
import numpy as np

from h5ingest.core import schema
from h5ingest.core.dimensions import dimensions
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.lists import Lists, offsets_of, values_of
from h5ingest.exports.stored import Stored
from h5ingest.reading.stored_group import StoredGroup
from h5ingest.reading.text import Strings

Json = dict[str, Any]

_SHUFFLE: Final = 2
_COMPRESSORS: Final[dict[int, Json]] = {
    1: {"id": "zlib", "level": 1}, 307: {"id": "bz2", "level": 1}, 32001: {"id": "blosc"},
    32015: {"id": "zstd", "level": 1},
}  # fmt: skip
"""Number of a filter -> numcodecs' name of what undoes it. Levels matter to writers only."""
_NUMBERS: Final = (schema.STATUS, schema.CHECKSUMS, schema.LABELS, schema.SIZES, schema.SAMPLES)


def references(stored: Stored, url: str, group_name: str | None = None) -> bytes:
    """Return the references to all numbers of a file, or of a group, which readers name by the URL.

    Raises:
        UsageError: it is no stack, or zarr cannot undo what its chunks went through; or there is no
            such group.
        OutputError: it cannot be read.
    """
    header = stored.header
    if header.layout != "stack":
        raise UsageError(
            f"{stored.path}: expected a stack, which zarr can read as an array, found layout "
            f"{header.layout}"
        )
    found: Json = {".zgroup": json.dumps({"zarr_format": 2})}
    wanted = header.prefixes
    if group_name is not None:
        wanted = header.images_of(header.prefix(group_name))
    for number, prefix in enumerate(header.prefixes):
        if prefix not in wanted:
            continue
        group = stored.group(number)
        with stored.inside() as file:
            for dataset, more in _datasets(file, group, prefix):
                folder, below = dataset.name, dataset.name.removeprefix(f"{prefix}/")
                dims = dimensions(below, dataset.ndim)
                while folder := folder.rpartition("/")[0]:
                    found[f"{folder}/.zgroup".lstrip("/")] = found[".zgroup"]
                found |= _array(stored, dataset, dims, more)
    every = {"version": 1, "templates": {"u": url}, "refs": found}
    return json.dumps(every).encode()


def _datasets(
    file: h5py.File, group: StoredGroup, prefix: str
) -> Iterator[tuple[h5py.Dataset, Json]]:
    """Yield each dataset of numbers, and attributes of it."""
    yield file[schema.IMAGES.at(prefix)], {}
    labels, names = group.classes()
    raw = [] if names is None else names.raw(np.arange(len(names)))
    classes = {"label_names": [name.decode("utf-8", "backslashreplace") for name in raw]}
    for standard in _NUMBERS:
        if not isinstance(file.get(standard.at(prefix)), h5py.Dataset):  # of lists, a group
            continue
        more: Json = classes if standard is schema.LABELS and names is not None else {}
        yield file[standard.at(prefix)], more
    lists = [schema.LABELS.at(prefix)] if isinstance(labels, Lists) else []
    for name, column in group.columns().items():
        if isinstance(column, Lists):
            lists.append(schema.column(prefix, name))
        elif not isinstance(column, Strings):
            yield column, {}
    for name in lists:
        yield file[values_of(name)], classes if name == schema.LABELS.at(prefix) else {}
        yield file[offsets_of(name)], {}


def _array(stored: Stored, dataset: h5py.Dataset, dims: tuple[str, ...], more: Json) -> Json:
    """Return what describes an array, and where its chunks are."""
    name, creation = dataset.name[1:], dataset.id.get_create_plist()
    filters: list[Json] = []
    compressor: Json | None = None
    for number in range(creation.get_nfilters()):
        id_, _, _, said = creation.get_filter(number)
        if id_ == _SHUFFLE and compressor is None:
            filters.append({"id": "shuffle", "elementsize": dataset.dtype.itemsize})
        elif id_ in _COMPRESSORS and compressor is None:
            compressor = _COMPRESSORS[id_]
        else:
            raise UsageError(
                f"{stored.path}: {dataset.name}: zarr cannot undo filter {id_} "
                f"({said.decode('utf-8', 'replace') or 'without a name'}): `h5ingest recompress` "
                f"with zstd, gzip, bzip2, blosc or none makes a file that it can read"
            )
    chunks = dataset.chunks or dataset.shape
    about = {
        "zarr_format": 2, "shape": dataset.shape, "chunks": chunks, "fill_value": None,
        "dtype": dataset.dtype.newbyteorder("<").str, "order": "C",
        "filters": filters or None, "compressor": compressor,
    }  # fmt: skip
    found: Json = {
        f"{name}/.zarray": json.dumps(about),
        f"{name}/.zattrs": json.dumps({"_ARRAY_DIMENSIONS": dims, **more}),
    }
    key = ".".join("0" * (dataset.ndim - 1))
    for chunk, offset, n_bytes, mask in _chunks(dataset):
        if mask:
            raise UsageError(
                f"{stored.path}: {dataset.name}: chunk {chunk:,} is not compressed, as that would "
                f"not have made it smaller, which zarr cannot know: `h5ingest recompress "
                f"--compression none` makes a file that it can read"
            )
        found[f"{name}/{chunk}" + f".{key}" * bool(key)] = ["{{u}}", offset, n_bytes]
    return found


def _chunks(dataset: h5py.Dataset) -> Iterator[tuple[int, int, int, int]]:
    """Yield number along axis 0, place and bytes in the file, and filter mask of each chunk.

    Raises:
        OutputError: one is nowhere in the file.
    """
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        if dataset.size:
            if offset is None:
                raise OutputError(f"{dataset.file.filename}: {dataset.name}: has no place in it")
            yield 0, offset, dataset.nbytes, 0
        return
    each, beyond = dataset.chunks[0], (0,) * (dataset.ndim - 1)
    for chunk in range(-(-dataset.shape[0] // each)):
        found = dataset.id.get_chunk_info_by_coord((chunk * each, *beyond))
        if found.byte_offset is None:
            raise OutputError(
                f"{dataset.file.filename}: {dataset.name}: chunk {chunk:,} is nowhere"
            )
        yield chunk, found.byte_offset, found.size, found.filter_mask
