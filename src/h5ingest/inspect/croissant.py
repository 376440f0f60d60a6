"""MLCommons Croissant 1.1 metadata of a finished file, for people and for search engines.

Only what the file holds is written. What it cannot know (license, creator, url, version, citeAs,
datePublished) can be added to the JSON by hand: it is kept when the JSON is written again.

May not: write HDF5; import mpi4py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import h5py
import numpy as np

from h5ingest.core import outfiles, schema
from h5ingest.core.errors import OutputError
from h5ingest.core.lists import values_of
from h5ingest.core.schema import Attribute, FileHeader
from h5ingest.reading.group_statistics import parsed, statistics_text
from h5ingest.reading.open_file import datasets, open_checked

_CROISSANT: Final = "http://mlcommons.org/croissant/1.1"
_MAX_NAMES: Final = 10_000
"""Classes beyond which their names stay in the HDF5 file alone."""

_BLOCK_BYTES: Final = 2**20
"""Of the HDF5 file, read at a time."""

_EDITABLE: Final = ("name", "description")
"""Keys that are written at first, and not again if they were changed by hand."""

_TERMS: Final = (
    "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field",
    "fileObject", "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset",
    "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex", "repeated",
    "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
_CONTEXT: Final[dict[str, object]] = dict(
    sorted(
        {
            "@language": "en",
            "@vocab": "https://schema.org/",
            **{term: f"cr:{term}" for term in _TERMS},
            "conformsTo": "dct:conformsTo",
            "cr": "http://mlcommons.org/croissant/",
            "data": {"@id": "cr:data", "@type": "@json"},
            "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
            "dct": "http://purl.org/dc/terms/",
            "description": {"@container": "@language"},
            "examples": {"@id": "cr:examples", "@type": "@json"},
            "name": {"@container": "@language"},
            "rai": "http://mlcommons.org/croissant/RAI/",
            "sc": "https://schema.org/",
        }.items()
    )
)
"""The standard's own; a validator warns of any other."""

_TYPES: Final = {
    "b": "sc:Boolean", "O": "sc:Text", "S": "sc:Text",
    "f2": "cr:Float16", "f4": "cr:Float32", "f8": "cr:Float64",
    "i1": "cr:Int8", "i2": "cr:Int16", "i4": "cr:Int32", "i8": "cr:Int64",
    "u1": "cr:UInt8", "u2": "cr:UInt16", "u4": "cr:UInt32", "u8": "cr:UInt64",
}  # fmt: skip

_NOT_PER_SAMPLE: Final = tuple(
    dataset.name
    for dataset in (schema.LABEL_NAMES, schema.OFFSETS, schema.SHAPES, schema.CHUNK_CHECKSUMS)
)
_MEANINGS: Final = {
    dataset.name: dataset.meaning
    for layout in schema.LAYOUTS
    for dataset in (schema.IMAGES, *schema.known_datasets(layout))
    if dataset.meaning
}


def write(
    json_file: Path,
    hdf5_file: Path,
    beat: Callable[[], None] = lambda: None,
    *,
    named: str = "--croissant ",
) -> None:
    """Write the metadata of a finished file, keeping what was added by hand.

    Reads all of the HDF5 file once, for its SHA-256, and calls `beat` now and then meanwhile.

    Args:
        json_file: where they go.
        hdf5_file: the file.
        beat: called now and then.
        named: what messages begin with: where the user named the JSON file.

    Raises:
        OutputError: the JSON cannot be written, or what is there is not JSON of this kind.
    """
    try:
        content = describe(hdf5_file, beat)
        if json_file.exists():
            content = _keep_by_hand(json.loads(json_file.read_text("utf-8")), content)
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        outfiles.write(json_file, text.encode("utf-8", "replace"), outfiles.CROISSANT)
    except OutputError as error:
        raise OutputError(f"{named}{error}") from None
    except ValueError as error:
        raise OutputError(
            f"{named}{json_file}: expected Croissant metadata to update, found other content "
            f"({error}); remove it or name another file"
        ) from None
    except OSError as error:
        raise OutputError(f"{named}{json_file}: {error.strerror}") from None


def _keep_by_hand(old: object, new: dict[str, Any]) -> dict[str, Any]:
    """Return the new metadata with what only a person can have put into the old."""
    if not isinstance(old, dict) or "conformsTo" not in old:
        raise ValueError("no conformsTo")
    by_hand = {key: value for key, value in old.items() if key in _EDITABLE or key not in new}
    (file,) = new["distribution"]
    for one in old.get("distribution", []):
        if isinstance(one, dict) and one.get("@id") == file["@id"]:
            file["contentUrl"] = one.get("contentUrl", file["contentUrl"])
    return {**new, **by_hand}


def describe(hdf5_file: Path, beat: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Return the metadata of a finished file; see `write`.

    Raises:
        OutputError: it cannot be opened, or is not one of h5ingest.
    """
    file, header = open_checked(hdf5_file)
    with file, hdf5_file.open("rb") as stream:
        sha256 = hashlib.sha256()
        while block := stream.read(_BLOCK_BYTES):
            sha256.update(block)
            beat()
        sets, measured = list[dict[str, object]](), list[dict[str, object]]()
        for prefix in sorted(header.prefixes):
            sets += _record_sets(file, prefix, header, hdf5_file.name)
            measured += _measured(file, prefix)
        return {
            "@context": _CONTEXT,
            "@type": "sc:Dataset",
            "conformsTo": _CROISSANT,
            "name": hdf5_file.stem,
            "description": f"{header.n_samples} images in one HDF5 file, made by h5ingest "
            f"{file.attrs[Attribute.H5INGEST_VERSION]} ({header.schema}).",
            "dateCreated": file.attrs[Attribute.CREATED],
            # What the data are: the same for any number of ranks, unlike the file's own digest.
            "identifier": f"sha256:{header.content_digest}",
            "distribution": [
                {
                    "@type": "cr:FileObject",
                    "@id": hdf5_file.name,
                    "name": hdf5_file.name,
                    "contentUrl": hdf5_file.name,
                    "contentSize": f"{hdf5_file.stat().st_size} B",
                    "encodingFormat": "application/x-hdf5",
                    "sha256": sha256.hexdigest(),
                }
            ],
            **({"variableMeasured": measured} if measured else {}),
            "recordSet": sets,
        }


def _measured(file: h5py.File, prefix: str) -> Iterator[dict[str, object]]:
    """Yield mean and deviation of the pixels of a group, and how many images are copies."""
    text = statistics_text(file, prefix)
    if text is None:
        return
    found, of = parsed(text, str(file.filename)), f" of {prefix[1:]}" if prefix else ""
    values: dict[str, object] = {f"good images{of}": found.n_images}
    for kind, moments in sorted((found.pixels or {}).items()):
        which = f"pixels{of}, {kind.channels} channel{'s' * (kind.channels > 1)} of {kind.dtype}"
        values |= {
            f"{what} of {which}{f', channel {channel}' * (kind.channels > 1)}": value
            for what, each in (("mean", moments.mean), ("standard deviation", moments.std))
            for channel, value in enumerate(each)
        }
    values[f"images{of} that are exact copies of others"] = found.n_copies
    if prefix:
        values[f"images{of} that are in other groups, too"] = found.n_elsewhere
    for name, value in values.items():
        yield {"@type": "sc:PropertyValue", "name": name, "value": value}


def _record_sets(
    file: h5py.File, prefix: str, header: FileHeader, file_name: str
) -> Iterator[dict[str, object]]:
    """Yield the samples of a group, and its classes where they have names."""
    group, prefix = file[prefix or "/"], prefix[1:]
    id_ = f"{_word(prefix)}_samples" if prefix else "samples"
    names = f"{_word(prefix)}_label_names" if prefix else "label_names"
    classes = group.get(schema.LABEL_NAMES.name)
    named = isinstance(classes, h5py.Dataset) and len(classes) <= _MAX_NAMES
    n = len(group[schema.STATUS.name])
    fields = []
    for path, shape, dtype in _columns(group, header.layout):
        column = path.rpartition("/")[2]
        meaning = _MEANINGS.get(path, f"Column {column} of the manifest.")
        type_ = _TYPES.get(dtype.kind) or _TYPES[f"{dtype.kind}{dtype.itemsize}"]
        field = _node("Field", f"{id_}/{_word(path)}", meaning, dataType=type_)
        if shape:
            field |= {"isArray": True, "arrayShape": ",".join(map(str, shape))}
        field["source"] = {
            "fileObject": {"@id": file_name},
            "extract": {"column": f"/{prefix}/{path}" if prefix else f"/{path}"},
        }
        if path == schema.LABELS.name and named:
            field["references"] = {"field": {"@id": f"{names}/label"}}
        fields.append(field)
    about = f"One record per image: row i of each dataset ({n} rows)."
    yield _node("RecordSet", id_, about, field=fields)
    if named:
        text = statistics_text(file, f"/{prefix}" if prefix else "")
        counts = None if text is None else parsed(text, file_name).classes
        yield _classes(names, [name.decode("utf-8", "replace") for name in classes[:]], counts)


def _columns(
    group: h5py.Group, layout: str
) -> Iterator[tuple[str, tuple[int, ...], np.dtype[Any]]]:
    """Yield path, shape of one value (-1: it varies) and type of all that has a row per sample."""
    images = schema.IMAGES.name
    for name, dataset in sorted(datasets(group, layout)):
        column = name.rpartition("/")[0]
        if name == schema.RAGGED_PIXELS.name:  # height, width, channels
            yield images, (-1, -1, -1), dataset.dtype
        elif name == schema.ENCODED_DATA.name:  # the bytes of an image file
            yield images, (-1,), dataset.dtype
        elif column == schema.LABELS.name or column.startswith(f"{schema.COLUMNS}/"):  # of lists
            if name == values_of(column):
                yield column, (-1, *dataset.shape[1:]), dataset.dtype
        elif name not in _NOT_PER_SAMPLE:
            yield name, dataset.shape[1:], dataset.dtype


def _classes(id_: str, names: list[str], counts: Mapping[int, int] | None) -> dict[str, object]:
    label, name, images = (f"{id_}/{field}" for field in ("label", "name", "n_images"))
    data: list[dict[str, object]]
    data = [{label: number, name: class_} for number, class_ in enumerate(names)]
    fields = [
        _node("Field", label, "As in labels.", dataType="cr:Int64"),
        _node("Field", name, "As in the manifest.", dataType="sc:Text"),
    ]
    if counts is not None:
        fields.append(_node("Field", images, "Good images of it.", dataType="cr:Int64"))
        for number, record in enumerate(data):
            record[images] = counts.get(number, 0)
    return _node(
        "RecordSet", id_, "The name of each class.",
        dataType="sc:Enumeration",
        key={"@id": label},
        field=fields,
        data=data,
    )  # fmt: skip


def _node(kind: str, id_: str, description: str, **more: object) -> dict[str, object]:
    """Return an object of Croissant's vocabulary, which has its id as its name."""
    about = {"@type": f"cr:{kind}", "@id": id_, "name": id_, "description": description}
    return {**about, **more}


def _word(text: str) -> str:
    """Return the text with only what identifiers may hold; different texts stay different."""
    return quote(text, safe="/", errors="replace")
