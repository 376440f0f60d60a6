"""`h5ingest codecs`: what each codec makes of the user's own images, and which one to choose.

Images sampled evenly from the manifest are compressed as an ingest would do it (same chunks, same
`compressor`), written to a temporary HDF5 file, and read back by plain h5py. The file is in the
system's page cache: the speeds are those of the codec and of HDF5, not of the disk.

May not: know ranks; it measures one process.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import (
    Failure,
    SampleError,
    SamplesFailedError,
    SetupError,
    describe_failures,
)
from h5ingest.core.layout import CODED_CHANNELS, DatasetSpec, Filter, ImageSpec, OutputSpec
from h5ingest.core.manifest import Manifest
from h5ingest.core.options import IngestOptions
from h5ingest.core.partition import batches, unit
from h5ingest.core.sampling import evenly, spread
from h5ingest.core.units import MIB
from h5ingest.images.archives import PathReader
from h5ingest.images.decode import decode_into, probe
from h5ingest.images.prefetch import Reader
from h5ingest.inspect.codec_table import CodecReport, Measured
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.auto_compression import choose_from_files, sample_rows
from h5ingest.pipeline.read_manifest import read_manifest
from h5ingest.storage.auto_codec import Part
from h5ingest.storage.compress import compressor
from h5ingest.storage.datasets import create, file_access, file_creation, output_errors
from h5ingest.storage.filters import filter_pipeline

CODECS: Final = (
    "none", "gzip:1", "gzip:4", "gzip:9", "lzf", "szip", "zstd:1", "zstd:3", "zstd:9", "zstd:19",
    "lz4", "bzip2:9", "blosc:lz4:5:bitshuffle", "blosc:zstd:5:bitshuffle",
    "blosc2:lz4:5:bitshuffle", "blosc2:zstd:5:bitshuffle", "bitshuffle:lz4", "bitshuffle:zstd:3",
    "blosc2:zstd:5:bytedelta", "htj2k",
)  # fmt: skip
SHUFFLED: Final = ("gzip:4", "lzf", "zstd:3", "zstd:19", "lz4", "bzip2:9")
"""Measured with `--shuffle` as well if there are 16-bit images; it changes nothing for bytes."""

MOST_BYTES: Final = 128 * MIB
"""Pixels measured: more images than that are left out, evenly."""
_RUNS: Final = 3
_MOST_RUNS: Final = 15
_SHORT_S: Final = 0.1
"""Seconds of reading up to which a codec is measured more often: three runs are too few."""
_LONG_S: Final = 5.0
"""Seconds of writing or reading after which a codec is not measured again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """Images, decoded."""

    stacks: dict[ImageSpec, NDArray[Any]]
    """(n, H, W[, C]) for each kind."""
    n_bytes: int
    """Total size of the image files."""
    failures: tuple[Failure, ...]


def measure(
    manifest_path: Path,
    options: IngestOptions,
    *,
    n_wanted: int,
    on_codec: Callable[[str], None] = lambda _: None,
) -> CodecReport:
    """Measure every codec on images of the manifest. Not collective: one process.

    Args:
        manifest_path: as for an ingest.
        options: for its `root`, `delimiter`, `group_by` and `max_pixels`.
        n_wanted: images to sample; fewer if the manifest or `MOST_BYTES` has fewer.
        on_codec: called with the name of each codec before it is measured.

    Raises:
        IngestError: see `ingest`; a codec that returns other pixels is a `SetupError`.
    """
    manifest, samples = read_manifest(manifest_path, options, SerialComm())
    root = os.path.abspath(options.root or manifest_path.parent)
    read = PathReader(os.fsencode(root)).read
    rows = evenly(manifest.n_rows, n_wanted)
    sample = _decode([(row, samples.paths[row]) for row in rows], read, options, manifest)
    bytes_raw = sum(pixels.nbytes for pixels in sample.stacks.values())
    image_bytes = bytes_raw // sum(map(len, sample.stacks.values()))
    auto = choose_from_files(
        [
            (row, int(samples.groups[row]), samples.paths[row])
            for row in sample_rows(manifest.n_rows, image_bytes, options)
        ],
        [OutputSpec(channels=None, dtype=None, size=None)] * len(manifest.group_names),
        read,
        options,
        names=manifest.group_names,
    )
    depth16 = any(spec.dtype == "uint16" for spec in sample.stacks)
    measured, missing = [], []
    for codec, shuffle in [(c, False) for c in CODECS] + [(c, True) for c in SHUFFLED if depth16]:
        try:
            filters = filter_pipeline(codec, shuffle=shuffle)
        except SetupError:
            missing.append(codec)
            continue
        if any(each.codes_images for each in filters) and not all(
            image.channels in CODED_CHANNELS for image in sample.stacks
        ):
            continue
        on_codec(codec)
        n_bytes, write_s, read_s = _measure(sample, filters, codec)
        measured.append(
            Measured(
                codec=codec,
                shuffle=shuffle,
                n_bytes=n_bytes,
                of_files=n_bytes / sample.n_bytes,
                of_raw=n_bytes / bytes_raw,
                write_mb_s=bytes_raw / 1e6 / statistics.median(write_s),
                read_mb_s=bytes_raw / 1e6 / statistics.median(read_s),
                n_runs=len(write_s),
            )
        )
    return CodecReport(
        manifest=str(manifest_path),
        n_images=manifest.n_rows,
        n_sampled=sum(map(len, sample.stacks.values())),
        images=tuple(map(str, sorted(sample.stacks))),
        bytes_files=sample.n_bytes,
        bytes_raw=bytes_raw,
        libraries={"h5py": h5py.version.version, "HDF5": h5py.version.hdf5_version},
        measured=tuple(measured),
        missing=tuple(missing),
        auto=auto,
        failures=sample.failures,
    )


def _decode(
    rows: list[tuple[int, bytes]], read: Reader, options: IngestOptions, manifest: Manifest
) -> _Sample:
    """Read and decode images, evenly spread, until their pixels take `MOST_BYTES`."""
    failures: list[Failure] = []
    images: dict[ImageSpec, dict[int, NDArray[Any]]] = {}
    n_bytes = n_raw = 0
    for at in spread(len(rows)):
        index, path = rows[at]
        try:
            data, _ = read(path)
            spec = probe(data, max_pixels=options.max_pixels)
            assert spec is not None, "probe was given the whole file"
            if images and n_raw + spec.n_bytes > MOST_BYTES:
                break
            pixels = np.empty(spec.shape, spec.dtype)
            decode_into(data, pixels)
        except SampleError as error:
            failures.append(error.at(index, path))
            continue
        images.setdefault(spec, {})[at] = pixels
        n_bytes += len(data)
        n_raw += spec.n_bytes
    if not images:
        raise SamplesFailedError(
            f"none of the {len(failures):,} sampled images can be read: "
            f"{describe_failures(failures, manifest.lines_of)}"
        )
    stacks = {}
    for spec in list(images):  # in the order of the manifest: neighbours may be alike
        found = images.pop(spec)
        stacks[spec] = np.stack([found[at] for at in sorted(found)])
        found.clear()
    return _Sample(stacks=stacks, n_bytes=n_bytes, failures=tuple(failures))


def _measure(
    sample: _Sample, filters: tuple[Filter, ...], codec: str
) -> tuple[int, list[float], list[float]]:
    """Return the bytes in the file, and for each run the seconds of writing and of reading."""
    write_s: list[float] = []
    read_s: list[float] = []
    n_bytes = 0
    with tempfile.TemporaryDirectory(prefix="h5ingest-") as folder, output_errors(folder):
        while _go_on(len(write_s), sum(write_s), sum(read_s)):
            write_s.append(0.0)
            read_s.append(0.0)
            n_bytes = 0
            for pixels in sample.stacks.values():
                path = Path(folder, "codec.h5")
                spec = Part(pixels).spec(filters)
                n_stored, seconds = _write(path, spec, pixels)
                n_bytes += n_stored
                write_s[-1] += seconds
                read_s[-1] += _read(path, spec, pixels, codec)
    return n_bytes, write_s, read_s


def _go_on(n_runs: int, write_s: float, read_s: float) -> bool:
    """Return whether a codec is to be measured once more."""
    if n_runs < _RUNS:
        return max(write_s, read_s) < _LONG_S
    return read_s < _SHORT_S and n_runs < _MOST_RUNS


def _write(path: Path, spec: DatasetSpec, pixels: NDArray[Any]) -> tuple[int, float]:
    """Return the bytes of the chunks, and the seconds it took to compress and write them."""
    file = h5py.h5f.create(bytes(path), h5py.h5f.ACC_TRUNC, file_creation(), file_access())
    dataset = create(file, spec)
    started_s = time.perf_counter()
    if spec.filters:
        compress = compressor(spec)
        for rows in _chunks(spec):
            mask, data = compress(pixels[rows.start : rows.stop])
            dataset.write_direct_chunk((rows.start, *(0,) * (pixels.ndim - 1)), data, mask)
    else:
        everything = h5py.h5s.create_simple(pixels.shape)
        dataset.write(everything, everything, pixels)
    h5py.h5f.flush(file)
    seconds = time.perf_counter() - started_s
    n_bytes = dataset.get_storage_size()
    dataset._close()
    file.close()
    return n_bytes, seconds


def _read(path: Path, spec: DatasetSpec, pixels: NDArray[Any], codec: str) -> float:
    """Return the seconds that plain h5py takes to read all of it, a chunk at a time."""
    seconds = 0.0
    buffer = np.empty((spec.chunk_rows or 1, *spec.shape[1:]), spec.dtype)
    with h5py.File(path, "r") as file:
        dataset = file[spec.name]
        for rows in _chunks(spec):
            found = buffer[: len(rows)]
            found[...] = 0
            started_s = time.perf_counter()
            dataset.read_direct(found, np.s_[rows.start : rows.stop])
            seconds += time.perf_counter() - started_s
            if not np.array_equal(found, pixels[rows.start : rows.stop]):
                raise SetupError(
                    f"{codec}: this h5py {h5py.version.version} with HDF5 "
                    f"{h5py.version.hdf5_version} does not give the pixels back: please report it"
                )
    return seconds


def _chunks(spec: DatasetSpec) -> list[range]:
    return batches(range(spec.shape[0]), unit(spec), 1)
