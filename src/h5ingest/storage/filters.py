"""`--compression` to HDF5 filter pipelines: every filter that gives the pixels back bit for bit.

hdf5plugin is imported only where one of its filters is asked for.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import h5py

from h5ingest.errors import SetupError, UsageError
from h5ingest.layout import Filter

SHUFFLE: Final = Filter(id=h5py.h5z.FILTER_SHUFFLE, options=())

_REFUSED: Final = {
    "sz": "it is lossy",
    "sz3": "it is lossy",
    "zfp": "it is lossy for 8- and 16-bit images",
    "sperr": "it is lossy",
    "fcidecomp": "it was seen to return wrong pixels for stacks of images",
    "htj2k": "it takes single gray or RGB images only, no stacks",
}
_SHUFFLES: Final = ("noshuffle", "shuffle", "bitshuffle")
_CODECS: Final = {
    "blosc": ("blosclz", "lz4", "lz4hc", "zlib", "zstd"),
    "blosc2": ("blosclz", "lz4", "lz4hc", "zlib", "zstd"),
    "bitshuffle": ("lz4", "zstd", "none"),
}
"""The codecs within a codec."""

# codec -> (lowest, highest level); what the codecs themselves accept
_LEVELS: Final[dict[str, tuple[int, int] | None]] = {
    "gzip": (0, 9),
    "lzf": None,
    "szip": None,
    "zstd": (1, 22),
    "lz4": None,
    "bzip2": (1, 9),
    "blosc": (0, 9),
    "blosc2": (0, 9),
    "bitshuffle": (1, 22),
}


def pipeline(compression: str | None, *, shuffle: bool) -> tuple[Filter, ...]:
    """Return the filters that `--compression` and `--shuffle` ask for, in order.

    Forms: `gzip[:LEVEL]`, `lzf`, `szip`, `zstd[:LEVEL]`, `lz4`, `bzip2[:LEVEL]`,
    `blosc[:CODEC][:LEVEL][:SHUFFLE]`, `blosc2[…]` likewise, `bitshuffle[:lz4|zstd[:LEVEL]|none]`;
    `none` for no compression.

    Raises:
        UsageError: no such codec, level or variant, or one that does not give the pixels back.
        SetupError: the codec is not in this HDF5.
    """
    first = (SHUFFLE,) if shuffle else ()
    if compression is None or compression == "none":
        return first
    name, *words = compression.lower().split(":")
    if name in _REFUSED:
        raise UsageError(
            f"--compression {compression}: not offered, because {_REFUSED[name]}; "
            f"lossless codecs are {', '.join(_LEVELS)}"
        )
    if name not in _LEVELS:
        raise UsageError(
            f"--compression {compression}: no such codec; available are {', '.join(available())}"
        )
    chosen = _build(name, words, compression)
    if not _is_available(chosen):
        raise SetupError(
            f"--compression {name}: this HDF5 {h5py.version.hdf5_version} cannot write it; "
            f"available are {', '.join(available())}"
        )
    return (*first, chosen)


def available() -> list[str]:
    """Return the names of the codecs that this HDF5 can write."""
    names = []
    for name in _LEVELS:
        with contextlib.suppress(ImportError):
            if _is_available(_make(name, None, None, None)):
                names.append(name)
    return names


def _build(name: str, words: list[str], text: str) -> Filter:
    """Return the filter with the options that the words ask for, defaults for the rest."""
    codec, level, shuffle = None, None, None
    codecs = _CODECS.get(name, ())
    for word in words:
        if word in codecs and codec is None:
            codec = word
        elif word in _SHUFFLES and shuffle is None and name in ("blosc", "blosc2"):
            shuffle = word
        elif word.isdigit() and level is None and _LEVELS[name] is not None:
            level = _check_level(name, int(word), text)
        else:
            raise UsageError(f"--compression {text}: cannot take {word!r}; {_form(name, codecs)}")
    if name == "bitshuffle" and level is not None and codec != "zstd":
        raise UsageError(f"--compression {text}: only bitshuffle:zstd takes a level")
    try:
        return _make(name, codec, level, shuffle)
    except ImportError as error:
        raise SetupError(
            f"--compression {name} needs the package hdf5plugin, which cannot be imported: "
            f"{error}; available are {', '.join(available())}"
        ) from None


def _make(name: str, codec: str | None, level: int | None, shuffle: str | None) -> Filter:
    """Return the filter; None is a default.

    Raises:
        ImportError: hdf5plugin is needed and missing.
    """
    if name == "gzip":
        return Filter(id=h5py.h5z.FILTER_DEFLATE, options=(4 if level is None else level,))
    if name == "lzf":
        return Filter(id=h5py.h5z.FILTER_LZF, options=())
    if name == "szip":  # nearest-neighbour coding, 16 pixels a block: h5py's choice
        return Filter(id=h5py.h5z.FILTER_SZIP, options=(h5py.h5z.SZIP_NN_OPTION_MASK, 16))
    import hdf5plugin

    given: dict[str, Any] = {}
    if level is not None:
        given["blocksize" if name == "bzip2" else "clevel"] = level
    if name in ("blosc", "blosc2"):
        given["cname"] = codec or ("zstd" if name == "blosc2" else "lz4")
        # Shuffling single bytes does nothing; bits are what neighbouring pixels share.
        given["filters" if name == "blosc2" else "shuffle"] = _SHUFFLES.index(shuffle or "shuffle")
    if name == "bitshuffle":
        given["cname"] = codec or "lz4"
    made = {
        "zstd": hdf5plugin.Zstd,
        "lz4": hdf5plugin.LZ4,
        "bzip2": hdf5plugin.BZip2,
        "blosc": hdf5plugin.Blosc,
        "blosc2": hdf5plugin.Blosc2,
        "bitshuffle": hdf5plugin.Bitshuffle,
    }[name](**given)
    return Filter(id=made.filter_id, options=tuple(made.filter_options))


def _check_level(name: str, level: int, text: str) -> int:
    low, high = _LEVELS[name] or (0, 0)
    if not low <= level <= high:
        raise UsageError(f"--compression {text}: expected a level from {low} to {high}")
    return level


def _form(name: str, codecs: tuple[str, ...]) -> str:
    parts = [name]
    if codecs:
        parts.append(f"[:{'|'.join(codecs)}]")
    if _LEVELS[name] is not None:
        parts.append("[:LEVEL]")
    if name in ("blosc", "blosc2"):
        parts.append(f"[:{'|'.join(_SHUFFLES)}]")
    return f"expected {''.join(parts)}"


def _is_available(chosen: Filter) -> bool:
    """Return whether this HDF5 can write it."""
    if not h5py.h5z.filter_avail(chosen.id):
        return False
    return bool(h5py.h5z.get_filter_info(chosen.id) & h5py.h5z.FILTER_CONFIG_ENCODE_ENABLED)
