"""What is in a pickle of NumPy arrays and plain values, without running anything of it.

No name in a pickle is imported: NumPy's own stand for what is made here of their arguments, every
other class for `Thing`, which only remembers. What a pickle cannot do without more is an error.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MOST_BYTES: Final = 2**31
"""Of a pickle."""
_KINDS: Final = "iubfSU"


class Thing:
    """An object of a class that is not looked for; its attributes are in `__dict__`."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


class _Dtype(Thing):
    """Stands for `numpy.dtype`."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.text = name.decode("ascii") if isinstance(name, bytes) else str(name)

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        self.text = (order.decode("ascii") if isinstance(order, bytes) else order) + self.text

    def found(self) -> np.dtype[Any]:
        """Return the dtype, if it is one of plain numbers or texts."""
        dtype = np.dtype(self.text.lstrip("|"))
        if dtype.kind not in _KINDS:
            raise pickle.UnpicklingError(f"an array of {dtype}")
        return dtype


class _Array(Thing):
    """Stands for an array until its state comes."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.values = _as_array(data, dtype, shape, "F" if fortran else "C")


def _as_array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
    return np.frombuffer(data, dtype.found()).reshape(shape, order=order)


def _number(dtype: Any, data: Any = b"") -> Any:
    return np.frombuffer(data, dtype.found())[0].item()


def _encode(text: str, coding: str) -> bytes:
    if coding != "latin1":
        raise pickle.UnpicklingError(f"a text in {coding}")
    return text.encode("latin1")


_NUMPY: Final[dict[str, Any]] = {
    "_reconstruct": lambda *_: _Array(),
    "_frombuffer": _as_array,
    "scalar": _number,
    "ndarray": Thing,
    "dtype": _Dtype,
}
"""What stands for the names of NumPy."""


class _Unpickler(pickle._Unpickler):  # in Python: a number in it cannot make it take memory
    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy":
            if name not in _NUMPY:
                raise pickle.UnpicklingError(f"{module}.{name}")
            return _NUMPY[name]
        if (module, name) == ("_codecs", "encode"):
            return _encode
        return Thing

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("an object that lies elsewhere")

    def get_extension(self, code: int) -> Any:
        raise pickle.UnpicklingError("an extension")


def load(data: bytes) -> Any:
    """Return what is in a pickle: plain values, containers of them, arrays, and `Thing`.

    Raises:
        ValueError: it is damaged, or of something else.
    """
    try:
        return _plain(_Unpickler(io.BytesIO(data), encoding="bytes").load(), 0)
    except (
        pickle.UnpicklingError, EOFError, KeyError, IndexError, TypeError, AttributeError,
        ValueError, OverflowError, MemoryError, RecursionError, ImportError, StopIteration,
    ) as error:  # fmt: skip
        raise ValueError(f"expected a pickle of arrays and numbers ({error})") from None


def _plain(value: Any, depth: int) -> Any:
    """Return a value with arrays in place of what stood for them."""
    if depth > 4:
        return value
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, dict):
        return {_text(key): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple) and any(isinstance(each, Thing) for each in value[:8]):
        return [_plain(each, depth + 1) for each in value]
    if type(value) is Thing:
        return {_text(key): _plain(each, depth + 1) for key, each in vars(value).items()}
    return value


def _text(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)
