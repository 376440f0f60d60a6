"""`ContentDigest`: one number for what a file holds, however it was written.

It is the SHA-256 of a line per dataset: name, kind, and the SHA-256 of its values. Images enter by
their checksums. Chunks, their checksums, filters, HDF5 versions, the number of ranks and the moment
do not enter; nor does the version of the format: what it begins with is `content_text`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h5ingest.core import schema
from h5ingest.core.lists import values_of

Parts = dict[str, tuple[str, str]]
"""Name of a dataset -> its kind, and the SHA-256 of its values."""


def content_text(layout: str, n_samples: int | None) -> str:
    r"""Return what a content digest begins with: the same in all versions of the format so far.

    `schema.CHUNK_CHECKSUMS` does not enter the digest, as filters and chunks do not.

    >>> content_text("stack", 3)
    'h5ingest stack 1\t3'
    """
    return f"h5ingest {layout} 1\t{n_samples}"


class ContentDigest:
    """Feed it datasets, each in any number of consecutive pieces.

    >>> one, two = ContentDigest("demo"), ContentDigest("demo")
    >>> one.add_numbers("/labels", np.arange(4))
    >>> two.add_numbers("/labels", np.arange(2)); two.add_numbers("/labels", np.arange(2, 4))
    >>> one.hexdigest() == two.hexdigest()
    True
    """

    def __init__(self, description: str) -> None:
        """Begin with a text that says what kind of file it is (schema, image spec)."""
        self._description = description
        self._kinds: dict[str, str] = {}
        self._hashes: dict[str, Any] = {}

    def add_numbers(self, name: str, values: NDArray[Any]) -> None:
        """Add the next values of a dataset of numbers, as little-endian bytes in row order.

        Of lists of arrays, whose shape nothing else says, that is part of the kind.
        """
        little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        inner = str(values.shape[1:]) if name.endswith(values_of("")) and values.ndim > 1 else ""
        self._hash(name, little.dtype.str + inner).update(little.data)

    def add_strings(self, name: str, values: Iterable[bytes]) -> None:
        """Add the next values of a dataset of strings, each ended by a NUL (none holds one)."""
        self._hash(name, "text").update(b"\0".join((*values, b"")))

    def add_pixels(self, name: str, kinds: Iterable[str]) -> None:
        """Add type and shape (`uint8(3, 4)`) of datasets whose values enter by their checksums."""
        self.add_strings(f"{name}:pixels", (kind.encode() for kind in kinds))

    def _hash(self, name: str, kind: str) -> Any:
        if self._kinds.setdefault(name, kind) != kind:
            raise ValueError(f"{name}: expected {self._kinds[name]}, got {kind}")
        return self._hashes.setdefault(name, hashlib.sha256())

    def parts(self) -> Parts:
        """Return what the digest is made of, whatever the order of the datasets."""
        return {name: (kind, self._hashes[name].hexdigest()) for name, kind in self._kinds.items()}

    def hexdigest(self) -> str:
        """Return the digest of all that was added."""
        return combined(self._description, self.parts())


def digested(layout: str, prefix: str, version: int = schema.VERSION) -> dict[str, tuple[str, str]]:
    """Return what the digest of attributes has of a group, beside those of the HDF5 root group.

    Returns:
        Its name there -> (HDF5 path of the object, name of the attribute).

    >>> digested("tree", "/train", 1)
    {'/train@palette': ('/train', 'palette')}
    """
    pixels = schema.PIXELS.get(layout)
    every = [(pixels.at(prefix) if pixels else prefix or "/", schema.PALETTE)]
    if version > 1:
        every += [
            (schema.CHUNK_CHECKSUMS.at(prefix), schema.CHUNKING),
            (prefix or "/", schema.STATISTICS),
        ]
    return {f"{path}@{name}": (path, name) for path, name in every}


def attributes_digest(attributes: Mapping[str, Any]) -> str:
    """Return one number for attributes: the digest of them as of datasets of one value or more.

    Args:
        attributes: name -> text, or a number or array. Of the HDF5 root group, the name alone;
            of another object, `path@name`.

    >>> attributes_digest({"a": 1, "b": "x"}) == attributes_digest({"b": b"x", "a": np.int64(1)})
    True
    """
    digest = ContentDigest("attributes")
    for name, value in attributes.items():
        if isinstance(value, str):
            value = value.encode("utf-8", "surrogateescape")
        if isinstance(value, bytes):
            digest.add_strings(name, [value])
        else:
            digest.add_numbers(name, np.atleast_1d(value))
    return digest.hexdigest()


def combined(description: str, parts: Parts) -> str:
    """Return the digest whose parts were worked out apart from each other."""
    lines = [
        description,
        *(f"{name}\t{kind}\t{sha}" for name, (kind, sha) in sorted(parts.items())),
    ]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
