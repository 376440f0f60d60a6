"""The format of a file, schema version 2: the datasets and attributes that h5ingest names itself.

Every other name in a file is the user's:

- Groups: the attribute `groups` names them. A file with groups has no standard dataset outside.
- Columns of the manifest lie below `columns`, where nothing else is; one of lists is an HDF5 group.
- Further images of each sample: the attribute `images` names their HDF5 groups in that of the
  samples. Each has what a group of samples has, but for labels, columns and `samples`.
- Dimension scales (`core.dimensions`) lie beside the standard datasets of a stack, and in lists.
- Images and classes of a tree lie beside the standard datasets, and have no name of `IN_TREES`.

So whoever reads a file asks for these names only, and takes nothing else for a standard dataset
because of how it looks: not `sizes` in a tree, an image, nor a column `data`.

Version 2 has `chunk_checksums`; apart from that it is version 1, which is still read. What a file
holds has the same content digest in both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from h5ingest.core.attribute_values import SHOWN, AttributeValues
from h5ingest.core.errors import OutputError, UsageError, one_of

VERSION: Final = 2
"""The version of the format that is written, the same for all layouts."""
VERSIONS: Final = (1, VERSION)
"""Those that are read."""

STATUS_MISSING: Final = 0
STATUS_OK: Final = 1
STATUS_FAILED: Final = 2
STATUS_NAMES: Final = {"missing": STATUS_MISSING, "ok": STATUS_OK, "failed": STATUS_FAILED}
"""Members of the enum type of `status`."""


class Attribute(StrEnum):
    """Attributes of the HDF5 root group that are looked up by name."""

    SCHEMA = "schema"
    """`h5ingest`, the layout and the version."""
    STATUS = "status"
    GROUPS = "groups"
    """JSON: names of the HDF5 groups that hold samples; missing: the root group does."""
    N_SAMPLES = "n_samples"
    N_FAILED = "n_failed"
    IMAGES = "images"
    """JSON: names of the HDF5 groups, in that of the samples, of their further images, if any."""
    CONTENT_DIGEST = "content_digest"
    ATTRIBUTES_DIGEST = "attributes_digest"
    """Of all these but the two digests, and of palettes: see `core.digest.attributes_digest`."""
    OPTIONS = "options"
    """JSON: the options that decide the content."""
    LIBRARIES = "libraries"
    """JSON: versions."""
    JOB = "job"
    """JSON: ranks, hosts, and the job's number."""
    CREATED = "created"
    H5INGEST_VERSION = "h5ingest_version"
    MANIFEST_NAME = "manifest_name"
    MANIFEST_SHA256 = "manifest_sha256"
    SCAN = "scan"
    """JSON: how the images were found, where the manifest was a folder or an archive."""
    COMMAND = "command"


GROUP_NAME: Final = "name"
"""Attribute of an HDF5 group of samples: its name in the manifest."""
CHUNKING: Final = "chunking"
"""Attribute of `CHUNK_CHECKSUMS`: `chunking` of the images then; of a tree's, ids of filters."""
FEWEST_FILTERED: Final = 16
"""Values of the smallest image that a tree filters; of a smaller one its bytes are summed."""
STATISTICS: Final = "statistics"
"""JSON, attribute of an HDF5 group of samples: see `core.statistics`."""
PALETTE: Final = "palette"
"""Attribute of the pixels, or of a tree's group: (n, 3) RGB, where samples are its indices."""


@dataclass(frozen=True, slots=True)
class StandardDataset:
    """A dataset that the format names."""

    name: str
    """HDF5 path below its group's."""
    dtype: str
    """NumPy name; `text`: UTF-8 strings of variable length; empty: that of the images."""
    meaning: str = ""
    """A sentence for metadata."""
    row_shape: tuple[int, ...] = ()
    """Of one row; empty also where the images decide it."""
    extra_rows: int = 0
    """Rows beyond one for each sample."""
    dims: tuple[str, ...] = ("sample",)
    """Dimension labels."""

    def at(self, prefix: str) -> str:
        """Return its absolute HDF5 path in the group of this prefix: empty, or `/train`."""
        return f"{prefix}/{self.name}"


IMAGES: Final = StandardDataset(
    "images", "", "Pixels, exactly as the source files have them.",
    dims=("sample", "y", "x", "channel"),
)  # fmt: skip
RAGGED_PIXELS: Final = StandardDataset("images/pixels", "", dims=("pixel sample",))
ENCODED_DATA: Final = StandardDataset("images/data", "uint8", dims=("byte",))
OFFSETS: Final = StandardDataset("images/offsets", "int64", extra_rows=1)
SHAPES: Final = StandardDataset(
    "images/shapes", "int32", row_shape=(3,), dims=("sample", "y, x, channel")
)
TREE_NAMES: Final = StandardDataset("datasets", "text", "HDF5 path of the image's dataset.")
PATHS: Final = StandardDataset("paths", "text", "Path of the source file, as in the manifest.")
STATUS: Final = StandardDataset(
    "status", "uint8", "0 missing, 1 ok, 2 failed: the image is then all zeros."
)
CHECKSUMS: Final = StandardDataset(
    "checksums", "uint64", "xxh3-64 of the image's bytes, row-major, little-endian."
)
CHUNK_CHECKSUMS: Final = StandardDataset(
    "chunk_checksums", "uint64", "xxh3-64 of each compressed chunk of the images, as stored.",
    dims=("chunk",),
)  # fmt: skip
"""From version 2 on, where there are filters: before any is undone. In a tree of each image."""
LABELS: Final = StandardDataset("labels", "int64", "Class of the image.")
LABEL_VALUES: Final = StandardDataset("labels/values", "int64", dims=("value",))
LABEL_OFFSETS: Final = StandardDataset("labels/offsets", "int64", extra_rows=1)
"""In place of `LABELS` where an image has any number of classes: as columns of lists are."""
LABEL_NAMES: Final = StandardDataset("label_names", "text", dims=("class",))
SAMPLES: Final = StandardDataset("samples", "int64", "Index of the sample in the manifest, from 0.")
SIZES: Final = StandardDataset(
    "sizes", "uint32", "Height and width of the image without its padding.",
    row_shape=(2,), dims=("sample", "y, x"),
)  # fmt: skip

COLUMNS: Final = "columns"
"""The HDF5 group of the manifest's further columns."""

PIXELS: Final = {"stack": IMAGES, "ragged": RAGGED_PIXELS, "encoded": ENCODED_DATA}
"""Layout -> the dataset of all pixels; a tree has none."""

_IMAGES_OF: Final = {
    "stack": (IMAGES,),
    "ragged": (RAGGED_PIXELS, OFFSETS, SHAPES),
    "tree": (TREE_NAMES,),
    "encoded": (ENCODED_DATA, OFFSETS, SHAPES),
}
_ALWAYS: Final = (PATHS, STATUS, CHECKSUMS)
_OPTIONAL: Final = (LABELS, LABEL_VALUES, LABEL_OFFSETS, LABEL_NAMES, SAMPLES, CHUNK_CHECKSUMS)

LAYOUTS: Final = tuple(_IMAGES_OF)


def required_datasets(layout: str) -> tuple[StandardDataset, ...]:
    """Return the datasets that a group of a file of this layout has."""
    return *_IMAGES_OF[layout], *_ALWAYS


def known_datasets(layout: str) -> tuple[StandardDataset, ...]:
    """Return those that it may have, `columns` apart."""
    return *required_datasets(layout), *_OPTIONAL, *((SIZES,) if layout == "stack" else ())


def known(layout: str) -> tuple[str, ...]:
    """Return the names of the datasets that a group may have, `columns` apart."""
    return tuple(dataset.name for dataset in known_datasets(layout))


IN_TREES: Final = frozenset({*known("tree"), COLUMNS})
"""Names that neither an image nor a class of a tree is given."""


def column(prefix: str, name: str) -> str:
    """Return the absolute HDF5 path of a column of the manifest.

    >>> column("/train", "age")
    '/train/columns/age'
    """
    return f"{prefix}/{COLUMNS}/{name}"


def schema_text(layout: str) -> str:
    """Return the attribute `schema` of a file of this layout.

    >>> schema_text("stack")
    'h5ingest stack 2'
    """
    return f"h5ingest {layout} {VERSION}"


def chunking(creation: Any) -> str:
    """Return how a dataset is cut and filtered, of its creation property list.

    Whoever writes the chunks in another way (`h5repack`) leaves `CHUNK_CHECKSUMS` as it is: what
    is in its attribute `CHUNKING` then differs from this.
    """
    filters = [creation.get_filter(k) for k in range(creation.get_nfilters())]
    return repr((creation.get_chunk(), [(id_, tuple(how)) for id_, _, how, _ in filters]))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHeader:
    """What the attributes of a file say of it as a whole."""

    path: str
    """Path of the file, for messages."""
    schema: str
    """The attribute."""
    layout: str
    """One of LAYOUTS."""
    groups: tuple[str, ...]
    """Names of the HDF5 groups that hold samples; empty: the HDF5 root group does."""
    images: tuple[str, ...]
    """Names of the HDF5 groups, in each group of samples, of their further images."""
    complete: bool
    """Whether it says that it is; `verify` insists on it."""
    n_samples: int | None
    n_failed: int | None
    content_digest: str
    """Content digest, as the file has it."""
    options: dict[str, Any]
    """That decided the content."""

    @property
    def version(self) -> int:
        """Of the format: one of VERSIONS."""
        return int(self.schema.rpartition(" ")[2])

    @property
    def group_prefixes(self) -> tuple[str, ...]:
        """HDF5 path of each group of samples: one that is empty, or `/train`, `/test` ..."""
        return tuple(f"/{name}" for name in self.groups) or ("",)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """HDF5 path of each group of images: those of samples, each followed by further ones."""
        return tuple(path for prefix in self.group_prefixes for path in self.images_of(prefix))

    def images_of(self, prefix: str) -> tuple[str, ...]:
        """Return the HDF5 paths of all images of the samples in a group: that path is the first."""
        return (prefix, *(f"{prefix}/{name}" for name in self.images))

    def prefix(self, group: str | None) -> str:
        """Return the HDF5 path that the datasets of a group begin with.

        Raises:
            UsageError: there is no such group, or one must be chosen.
        """
        if group is None and not self.groups:
            return ""
        if group in self.groups:
            return f"/{group}"
        if not self.groups:
            raise UsageError(f"{self.path}: expected no group, as the file has none, got {group!r}")
        got = "none" if group is None else repr(group)
        raise UsageError(
            f"{self.path}: expected a group, {one_of(self.groups)}; got {got}: say --group NAME, "
            f"in Python group={self.groups[0]!r}"
        )


def read_header(attributes: Mapping[str, Any], path: str | os.PathLike[str]) -> FileHeader:
    """Return what the attributes of a file's HDF5 root group say.

    Raises:
        OutputError: h5ingest did not write the file, or a version that is not known here did; or an
            attribute is not what the format has there.
    """
    values = AttributeValues(attributes, path)
    schema = values.text(Attribute.SCHEMA)
    if schema.split(" ", 1)[0] != "h5ingest":
        said = f"{path}: an HDF5 file, but not one of h5ingest: it names no schema"
        if os.fspath(path).endswith(".partial"):
            said += " yet; start the command of the unfinished job again to complete it"
        raise OutputError(said)
    _, layout, version = (*schema.split(" ", 2), "", "")[:3]
    if layout not in LAYOUTS or version not in map(str, VERSIONS):
        raise OutputError(
            f"{path}: schema {schema[:SHOWN]!r} is not known to this version of h5ingest: a newer "
            f"one is needed"
        )
    return FileHeader(
        path=os.fspath(path),
        schema=schema,
        layout=layout,
        groups=values.names(Attribute.GROUPS),
        images=values.names(Attribute.IMAGES),
        complete=values.text(Attribute.STATUS) == "complete",
        n_samples=values.count(Attribute.N_SAMPLES),
        n_failed=values.count(Attribute.N_FAILED),
        content_digest=values.text(Attribute.CONTENT_DIGEST),
        options=values.json(Attribute.OPTIONS, dict),
    )
