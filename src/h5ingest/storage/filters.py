"""`--compression` to HDF5 filter pipelines: every filter that gives the pixels back bit for bit.

hdf5plugin is imported only where one of its filters is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any, Final, NamedTuple

import h5py

from h5ingest.core.errors import SetupError, UsageError
from h5ingest.core.layout import HTJ2K, Filter
from h5ingest.core.options import AUTO
from h5ingest.images import htj2k

SHUFFLE: Final = Filter(id=h5py.h5z.FILTER_SHUFFLE, options=())

_REFUSED: Final = {
    "sz": "it is lossy",
    "sz3": "it is lossy",
    "zfp": "it is lossy for 8- and 16-bit images",
    "sperr": "it is lossy",
    "fcidecomp": "it was seen to return wrong pixels for stacks of images",
}
_SHUFFLES: Final = {
    "blosc": {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2},
    "blosc2": {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2, "bytedelta": 35},
}
"""Codec -> what it can do before it compresses -> its number there: C-Blosc2's blosc2.h and
filters-registry.h. `bytedelta` stores the differences of neighbours."""
_BLOSC2_SHUFFLE: Final = 5
"""Where it is in the options of the filter."""
_CODECS: Final = {
    "blosc": ("blosclz", "lz4", "lz4hc", "zlib", "zstd"),
    "blosc2": ("blosclz", "lz4", "lz4hc", "zlib", "zstd"),
    "bitshuffle": ("lz4", "zstd", "none"),
}
"""The codecs within a codec."""

_LEVELS: Final[dict[str, tuple[int, int, int] | None]] = {
    "gzip": (0, 4, 9),
    "lzf": None,
    "szip": None,
    "zstd": (1, 3, 22),
    "lz4": None,
    "bzip2": (1, 9, 9),
    "blosc": (0, 5, 9),
    "blosc2": (0, 5, 9),
    "bitshuffle": (1, 3, 22),
    "htj2k": None,
}
"""Codec -> lowest level that it takes, default (that of h5py or hdf5plugin), highest."""


class _Choice(NamedTuple):
    """What `--compression` asks for, with all that it leaves open."""

    name: str
    codec: str | None = None
    """Within `blosc`, `blosc2` and `bitshuffle`."""
    level: int | None = None
    shuffle: str | None = None


def filter_pipeline(compression: str | None, *, shuffle: bool) -> tuple[Filter, ...]:
    """Return the filters that `--compression` and `--shuffle` ask for, in order.

    Forms: `gzip[:LEVEL]`, `lzf`, `szip`, `zstd[:LEVEL]`, `lz4`, `bzip2[:LEVEL]`,
    `blosc[:CODEC][:LEVEL][:SHUFFLE]`, `blosc2[…]` likewise, `bitshuffle[:lz4|zstd[:LEVEL]|none]`;
    `none` for no compression.

    Raises:
        UsageError: no such codec, level or variant, or one that does not give the pixels back.
        SetupError: the codec is not in this HDF5.
    """
    first = (SHUFFLE,) if shuffle else ()
    choice = _parse(compression)
    if choice is None:
        return first
    try:
        chosen = _make(choice)
    except ImportError as error:
        raise SetupError(
            f"--compression {choice.name} is not available here: {error}; available are "
            f"{', '.join(available())}"
        ) from None
    if not _is_available(chosen):
        raise SetupError(
            f"--compression {choice.name}: this HDF5 {h5py.version.hdf5_version} cannot write it; "
            f"available are {', '.join(available())}"
        )
    return (*first, chosen)


def canonical(compression: str | None) -> str | None:
    """Return the one form of all that ask for the same codec, every default written out.

    >>> canonical("ZSTD"), canonical("blosc:5:lz4"), canonical("none"), canonical("Auto")
    ('zstd:3', 'blosc:lz4:5:shuffle', None, 'auto')

    Raises:
        UsageError: see `filter_pipeline`.
    """
    if (compression or "").lower() == AUTO:
        return AUTO
    choice = _parse(compression)
    return choice and ":".join(str(word) for word in choice if word is not None)


def available() -> list[str]:
    """Return the names of the codecs that this HDF5 can write."""
    names = []
    for name in _LEVELS:
        with contextlib.suppress(ImportError):
            if _is_available(_make(_default(name))):
                names.append(name)
    return names


def _default(name: str, codec: str | None = None) -> _Choice:
    levels = _LEVELS[name]
    level = levels[1] if levels else None
    if name in ("blosc", "blosc2"):
        # Shuffling single bytes does nothing; bits are what neighbouring pixels share.
        return _Choice(name, codec or ("zstd" if name == "blosc2" else "lz4"), level, "shuffle")
    if name == "bitshuffle":
        codec = codec or "lz4"
    return _Choice(name, codec, level if codec in (None, "zstd") else None)


def _parse(compression: str | None) -> _Choice | None:
    """Return what is asked for, defaults for the rest; None for no compression."""
    if compression is None or compression.lower() == "none":
        return None
    name, *words = compression.lower().split(":")
    if name in _REFUSED:
        raise UsageError(
            f"--compression {compression}: not offered, because {_REFUSED[name]}; "
            f"lossless codecs are {', '.join(_LEVELS)}"
        )
    if name not in _LEVELS:
        raise UsageError(
            f"--compression {compression}: no such codec; available are "
            f"{', '.join(available())}, and auto"
        )
    given: dict[str, Any] = {}
    codecs = _CODECS.get(name, ())
    for word in words:
        if word in codecs and "codec" not in given:
            given["codec"] = word
        elif word in _SHUFFLES.get(name, ()) and "shuffle" not in given:
            given["shuffle"] = word
        elif word.isdigit() and "level" not in given and _LEVELS[name] is not None:
            given["level"] = _check_level(name, int(word), compression)
        else:
            raise UsageError(
                f"--compression {compression}: cannot take {word!r}; {_form(name, codecs)}"
            )
    if name == "bitshuffle" and "level" in given and given.get("codec") != "zstd":
        raise UsageError(f"--compression {compression}: only bitshuffle:zstd takes a level")
    return _default(name, given.get("codec"))._replace(**given)


def _make(choice: _Choice) -> Filter:
    """Return the filter.

    Raises:
        ImportError: hdf5plugin is needed and missing.
    """
    name, codec, level, shuffle = choice
    if name == "gzip":
        return Filter(id=h5py.h5z.FILTER_DEFLATE, options=(level or 0,))
    if name == "lzf":
        return Filter(id=h5py.h5z.FILTER_LZF, options=())
    if name == "szip":  # nearest-neighbour coding, 16 pixels a block: h5py's choice
        return Filter(id=h5py.h5z.FILTER_SZIP, options=(h5py.h5z.SZIP_NN_OPTION_MASK, 16))
    import hdf5plugin

    if name == "htj2k":
        if not hasattr(hdf5plugin, "Htj2k"):
            raise ImportError("this hdf5plugin has no Htj2k, 7.1 and later have it")
        if why := htj2k.missing():
            raise ImportError(why)
        _prefer_hdf5plugin(name)
        return Filter(id=HTJ2K, options=())
    given: dict[str, Any] = {}
    if level is not None:
        given["blocksize" if name == "bzip2" else "clevel"] = level
    if codec is not None:
        given["cname"] = codec
    if shuffle is not None and shuffle != "bytedelta":
        given["filters" if name == "blosc2" else "shuffle"] = _SHUFFLES[name][shuffle]
    made = {
        "zstd": hdf5plugin.Zstd,
        "lz4": hdf5plugin.LZ4,
        "bzip2": hdf5plugin.BZip2,
        "blosc": hdf5plugin.Blosc,
        "blosc2": hdf5plugin.Blosc2,
        "bitshuffle": hdf5plugin.Bitshuffle,
    }[name](**given)
    _prefer_hdf5plugin("bshuf" if name == "bitshuffle" else name)
    options = list(made.filter_options)
    if shuffle == "bytedelta":  # which hdf5plugin does not take
        options[_BLOSC2_SHUFFLE] = _SHUFFLES[name][shuffle]
    return Filter(id=made.filter_id, options=tuple(options))


@functools.cache
def _prefer_hdf5plugin(filter_name: str) -> None:
    """Have HDF5 use hdf5plugin's filter, not one that it has found in HDF5_PLUGIN_PATH itself.

    Those in hdf5plugin's own folder cannot write if HDF5 loads them (hdf5plugin issue 204).
    """
    if "HDF5_PLUGIN_PATH" in os.environ:
        import hdf5plugin

        if hasattr(hdf5plugin, "register"):  # old ones have not
            hdf5plugin.register(filter_name, force=True)


def _check_level(name: str, level: int, text: str) -> int:
    low, _, high = _LEVELS[name] or (0, 0, 0)
    if not low <= level <= high:
        raise UsageError(f"--compression {text}: expected a level from {low} to {high}")
    return level


def _form(name: str, codecs: tuple[str, ...]) -> str:
    parts = [name]
    if codecs:
        parts.append(f"[:{'|'.join(codecs)}]")
    if _LEVELS[name] is not None:
        parts.append("[:LEVEL]")
    if name in _SHUFFLES:
        parts.append(f"[:{'|'.join(_SHUFFLES[name])}]")
    return f"expected {''.join(parts)}"


def _is_available(chosen: Filter) -> bool:
    """Return whether this HDF5 can write it."""
    if not h5py.h5z.filter_avail(chosen.id):
        return False
    return bool(h5py.h5z.get_filter_info(chosen.id) & h5py.h5z.FILTER_CONFIG_ENCODE_ENABLED)
