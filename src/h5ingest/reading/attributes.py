"""Attributes of an object of a file that is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from h5ingest.core.errors import one_line
from h5ingest.reading.dataset_rule import HDF5_ERRORS, naming


@dataclass(frozen=True, slots=True)
class NoValue:
    """Stands for the value of an attribute that is not one number or text."""

    what: str
    """What it is."""

    def __str__(self) -> str:
        return self.what


class Attributes(Mapping[str, Any]):
    """The attributes of an object, where each is one number or text, or else a `NoValue`."""

    def __init__(self, holder: h5py.HLObject) -> None:
        """Read them from `holder` when they are asked for."""
        self._holder = holder

    def __getitem__(self, name: str) -> Any:
        raw = name.encode("utf-8", "surrogateescape")
        try:
            if h5py.h5a.exists(self._holder.id, raw):
                return _value(h5py.h5a.open(self._holder.id, raw))
        except HDF5_ERRORS as error:
            return NoValue(f"what cannot be read: {one_line(error)}")
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        raw = str(name).encode("utf-8", "surrogateescape")
        with naming(self._holder, raw):
            return bool(h5py.h5a.exists(self._holder.id, raw))

    def __iter__(self) -> Iterator[str]:
        with naming(self._holder, "attributes"):
            names = list(self._holder.attrs)
        return iter(names)

    def __len__(self) -> int:
        return len(self._holder.attrs)


def _value(attribute: h5py.h5a.AttrID) -> Any:
    """Return what h5py makes of an attribute, in a third of its time."""
    shape, dtype = attribute.shape, attribute.dtype
    if shape != () or dtype.shape:
        return NoValue(f"an array of the shape {shape}")
    values = np.zeros((), dtype)
    attribute.read(values)
    value: Any = values[()]
    text = h5py.check_string_dtype(dtype)
    is_text = text is not None and text.length is None
    return value.decode("utf-8", "surrogateescape") if is_text else value
