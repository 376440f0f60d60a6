"""The filters of a dataset, as `--compression` names them."""

from __future__ import annotations

from typing import Final

import h5py

from h5ingest.core.layout import HTJ2K

_FILTERS: Final = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 307: "bzip2", 32000: "lzf",
                   32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32015: "zstd",
                   32026: "blosc2", HTJ2K: "htj2k"}  # fmt: skip
_WITH_LEVEL: Final = (1, 307, 32015)
"""Filters whose first option is the level."""
_BLOSC: Final = (32001, 32026)
"""Filters whose options end with level, shuffle and codec, by number."""
_BLOSC_CODECS: Final = {0: "blosclz", 1: "lz4", 2: "lz4hc", 3: "snappy", 4: "zlib", 5: "zstd"}
_BLOSC_SHUFFLES: Final = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle", 35: "bytedelta"}


def filter_names(dataset: h5py.Dataset) -> list[str]:
    """Return the filters of a dataset in order, as `--compression` names them."""
    creation = dataset.id.get_create_plist()
    names = []
    for number in range(creation.get_nfilters()):
        id_, _flags, options, description = creation.get_filter(number)
        name = _FILTERS.get(id_) or f"{description.decode('utf-8', 'replace')} (filter {id_})"
        if id_ in _WITH_LEVEL and options:
            name = f"{name}:{options[0]}"
        elif id_ in _BLOSC and len(options) >= 7:
            level, shuffle, codec = options[4:7]
            codec_name = _BLOSC_CODECS.get(codec, f"codec {codec}")
            name = f"{name}:{codec_name}:{level}:{_BLOSC_SHUFFLES.get(shuffle, shuffle)}"
        names.append(name)
    return names
