"""Checking a finished file: its structure, every image against its checksum, its content digest.

With the sources at hand every image is decoded again, where that is exact by another decoder than
the one that wrote it, and compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.core import schema
from h5ingest.core.errors import OutputError, SampleError, one_line
from h5ingest.core.layout import KINDS, SCHEMA_VERSION, STATUS_FAILED, STATUS_MISSING, ImageSpec
from h5ingest.images import source_files
from h5ingest.images.conversion import Fit, Losses, convert_into
from h5ingest.images.decode import check_intact, decode_into, decode_otherwise, probe
from h5ingest.inspect.expected_specs import Expected
from h5ingest.inspect.inventory import digest_problems, group_problems
from h5ingest.mpi.async_sum import AsyncSum
from h5ingest.mpi.comm import Comm, abort_on_crash, agreeing
from h5ingest.pipeline.job import NullProgress, ProgressListener

_BLOCK_BYTES: Final = 16 * 1024**2
_BLOCK_ROWS: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """One row that is not as it should be."""

    dataset: str
    """HDF5 path of the group's images."""
    row: int
    """Row within the group."""
    path: str
    """Of the source, as the manifest had it."""
    reason: str
    """What was expected and found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a verification found."""

    path: str
    """The file."""
    n_samples: int
    """Rows compared."""
    n_failed: int
    """Rows that the file itself calls failed."""
    bad: tuple[BadRow, ...]
    """Rows that differ; all of them, on root."""
    problems: tuple[str, ...]
    """What is wrong with the file as a whole."""
    n_sources: int = 0
    """Sources that were decoded again and compared."""
    n_other: int = 0
    """Of these, by another decoder than the one that wrote them."""

    @property
    def ok(self) -> bool:
        """Whether the file is what it should be."""
        return not self.bad and not self.problems


def verify(
    path: Path,
    comm: Comm,
    *,
    sources: bool = False,
    root: Path | None = None,
    watch: ProgressListener | None = None,
) -> VerifyReport:
    """Check a finished file. Collective.

    Args:
        path: the file.
        comm: the ranks: each checks a share of the rows.
        sources: whether to decode the sources again.
        root: folder that relative paths are relative to; None: the file's own.
        watch: sees the progress.

    Raises:
        OutputError: it cannot be opened, or is not a file of h5ingest.
    """
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401 - registers its filters with HDF5
    with abort_on_crash(comm), agreeing(comm):
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise OutputError(f"{path}: cannot be opened: {error}") from None
        prefixes, problems = _structure(path, file)
    with abort_on_crash(comm), file:
        if problems:  # every rank has found the same
            return VerifyReport(
                path=str(path), n_samples=0, n_failed=0, bad=(), problems=tuple(problems)
            )
        work = _Work(file, comm, watch or NullProgress(), root or path.parent if sources else None)
        work.run(prefixes)
        told = comm.gather((work.bad, work.checksums, work.expected.seen))
        counts = np.sum(comm.allgather(work.counts()), axis=0).tolist()
        if told is not None:
            found = np.zeros(counts[0], np.uint64)
            for first, values in chain.from_iterable(checksums for _, checksums, _ in told):
                found[first : first + len(values)] = values
            problems += digest_problems(file, prefixes, found)
            problems += group_problems(file, prefixes, work.options["group_by"])
            problems += work.expected.stack_problems(
                (seen for *_, seen in told), lambda prefix: file[f"{prefix}/images"].shape
            )
            if counts[1] != file.attrs["n_failed"]:
                problems.append(f"n_failed: expected {counts[1]}, found {file.attrs['n_failed']}")
        return VerifyReport(
            path=str(path),
            n_samples=counts[0],
            n_failed=counts[1],
            bad=tuple(one for part, *_ in told or [] for one in part),
            problems=tuple(comm.bcast(problems)),
            n_sources=counts[2],
            n_other=counts[3],
        )


class _Work:
    """The rows of one rank."""

    def __init__(
        self, file: h5py.File, comm: Comm, watch: ProgressListener, root: Path | None
    ) -> None:
        self._file = file
        self._comm = comm
        self._watch = watch
        self.options: dict[str, Any] = json.loads(file.attrs["options"])
        self.expected = Expected(self.options)
        self._sources = _Sources(self.options, self.expected, root) if root else None
        self.bad: list[BadRow] = []
        self.checksums: list[tuple[int, NDArray[np.uint64]]] = []
        """(row, counted over all groups; of the images from it on, as their pixels say)."""
        self._first = 0
        """Rows of the groups before this one."""
        self._n_done = self._n_failed = self._n_bytes = 0

    def counts(self) -> tuple[int, int, int, int]:
        """Return rows, failed rows, sources compared, and those by another decoder."""
        again = (self._sources.n_done, self._sources.n_other) if self._sources else (0, 0)
        return self._n_done, self._n_failed, *again

    def run(self, prefixes: list[str]) -> None:
        """Check this rank's share of all groups. Collective."""
        self._watch.phase("verify", sum(len(self._file[f"{p}/status"]) for p in prefixes))
        pulse = AsyncSum(self._comm, 3, on_sum=lambda total: self._watch.advance(*total.tolist()))
        for prefix in prefixes:
            for rows, images in _blocks(self._file, prefix, self._comm):
                self._check(prefix, rows, images, pulse)
            self._first += len(self._file[f"{prefix}/status"])
        pulse.finish(lambda: (self._n_done, self._n_bytes, len(self.bad)))

    def _check(
        self, prefix: str, rows: range, images: Iterator[NDArray[Any] | str], pulse: AsyncSum
    ) -> None:
        cut = slice(rows.start, rows.stop)
        status = self._file[f"{prefix}/status"][cut].tolist()
        checksums = self._file[f"{prefix}/checksums"][cut].tolist()
        paths = self._file[f"{prefix}/paths"]
        paths = paths[cut] if self._sources else _Lazy(paths, rows.start)
        sums = np.zeros(len(rows), np.uint64)
        self.checksums.append((self._first + rows.start, sums))
        known = _beside(self._file, prefix, cut)
        for k, (image, beside) in enumerate(zip(images, known, strict=False)):
            reason = None
            found = 0
            if not isinstance(image, str):
                sums[k] = found = xxh3_64_intdigest(np.ascontiguousarray(image).data)
                self._n_bytes += image.nbytes
            if status[k] == STATUS_MISSING:
                reason = "it was never stored (status 0)"
            elif isinstance(image, str):
                reason = f"cannot be read: {image}"
            elif found != checksums[k]:
                reason = f"expected checksum {checksums[k]:016x}, found {found:016x}"
            elif image.ndim == 1 and self.options["layout"] != "encoded":
                reason = f"expected pixels of the shape {beside}, found {image.size}"
            elif status[k] == STATUS_FAILED:
                self._n_failed += 1
            elif self._sources is not None:
                reason = self._sources.compare(prefix, paths[k], image, beside)
            if reason is not None:
                path = os.fsdecode(paths[k])
                name = f"{prefix}/images"
                self.bad.append(BadRow(dataset=name, row=rows[k], path=path, reason=reason))
            self._n_done += 1
            if not self._n_done & 63:
                pulse.beat(self._n_done, self._n_bytes, len(self.bad))


class _Lazy:
    """Rows of a dataset, read one at a time when they are wanted."""

    def __init__(self, dataset: h5py.Dataset, start: int) -> None:
        self._dataset = dataset
        self._start = start

    def __getitem__(self, k: int) -> bytes:
        value: bytes = self._dataset[self._start + k]
        return value


class _Sources:
    """The images' files, decoded again as the file's options say."""

    def __init__(self, options: dict[str, Any], expected: Expected, root: Path) -> None:
        self._expected = expected
        self._root = os.fsencode(root.absolute())
        self._raw = options["samples"] == "raw"
        resample = options["resample"] or ("nearest" if self._raw else "bicubic")
        self._fit = Fit(
            how=options["fit"], pad_value=options["pad_value"], resample=resample, raw=self._raw
        )
        self._encoded = options["layout"] == "encoded"
        self.n_done = self.n_other = 0

    def compare(
        self, prefix: str, path: bytes, stored: NDArray[Any], beside: tuple[int, ...] | None
    ) -> str | None:
        """Return what differs between a stored image and its source, if anything.

        Args:
            prefix: of its group.
            path: of the source.
            stored: its pixels, or its file's bytes.
            beside: its shape or size, where that is stored.
        """
        shape = stored.shape
        if self._encoded and beside is not None:
            shape = beside if beside[2] > 1 else beside[:2]
        try:
            data, _ = source_files.read(os.path.join(self._root, path))
            spec = probe(data, max_pixels=sys.maxsize, raw=self._raw)
            assert spec is not None, "the whole file tells"
            size = beside if beside is not None and len(beside) == 2 else None
            problem = self._expected.problem(prefix, spec, shape, stored.dtype.name, size)
            if problem is not None:
                self.n_done += 1
                return problem
            if self._encoded:
                check_intact(data)
                expected = np.frombuffer(data, np.uint8)
            else:
                expected = self._decode(data, spec, stored)
        except SampleError as error:
            return f"its source cannot be read now: {error.reason}"
        self.n_done += 1
        if np.array_equal(expected, stored):
            return None
        return "its pixels differ from those of its source"

    def _decode(self, data: bytes, spec: ImageSpec, stored: NDArray[Any]) -> NDArray[Any]:
        pixels = None if self._raw else decode_otherwise(data)
        self.n_other += pixels is not None
        if pixels is None:
            pixels = np.empty(spec.shape, spec.dtype)
            decode_into(data, pixels, raw=self._raw)
        expected = np.empty(stored.shape, stored.dtype)
        convert_into(pixels, expected, self._fit, Losses())
        return expected


def _structure(path: Path, file: h5py.File) -> tuple[list[str], list[str]]:
    """Return the prefix of each group of samples, and what is wrong with the structure."""
    words = str(file.attrs.get("schema", "")).split()
    if len(words) != 3 or words[0] != "h5ingest" or words[1] not in KINDS:
        raise OutputError(f"{path}: expected a file made by h5ingest, found no schema of it")
    if words[2] != str(SCHEMA_VERSION):
        raise OutputError(
            f"{path}: expected schema version {SCHEMA_VERSION}, found {words[2]}: a newer h5ingest "
            f"is needed"
        )
    if file.attrs.get("status") != "complete":
        return [], ["its status is not 'complete'"]
    groups = json.loads(file.attrs["groups"]) if "groups" in file.attrs else [""]
    prefixes = [f"/{name}" if name else "" for name in groups]
    problems = [
        problem for prefix in prefixes for problem in _group_problems(file, prefix, words[1])
    ]
    n_rows = 0 if problems else sum(len(file[f"{prefix}/status"]) for prefix in prefixes)
    if not problems and n_rows != file.attrs["n_samples"]:
        problems.append(f"n_samples: expected {n_rows}, found {file.attrs['n_samples']}")
    return prefixes, problems


def _group_problems(file: h5py.File, prefix: str, layout: str) -> list[str]:
    wanted = schema.required(layout)
    missing = [name for name in wanted if not _has(file, f"{prefix}/{name}")]
    if missing:
        return [f"expected a dataset {prefix}/{name}, found none" for name in missing]
    n_rows = len(file[f"{prefix}/status"])
    expected = {name: n_rows for name in schema.known(layout) if _has(file, f"{prefix}/{name}")}
    expected |= dict.fromkeys(_columns(file, prefix), n_rows)
    expected.pop("label_names", None)  # a row for each class
    if "images/offsets" in expected:
        expected["images/offsets"] = n_rows + 1
        expected[schema.PIXELS[layout]] = int(file[f"{prefix}/images/offsets"][-1])
    problems = []
    for name, n in expected.items():
        found = len(file[f"{prefix}/{name}"])
        if found != n:
            problems.append(f"{prefix}/{name}: expected {n} rows, found {found}")
    return problems


def _layout(file: h5py.File) -> str:
    return str(file.attrs["schema"]).split()[1]


def _has(file: h5py.File, name: str) -> bool:
    return isinstance(file.get(name), h5py.Dataset)


def _columns(file: h5py.File, prefix: str) -> list[str]:
    """Return the datasets of the columns, below the prefix."""
    return [f"{schema.COLUMNS}/{name}" for name in file.get(f"{prefix}/{schema.COLUMNS}", ())]


def _blocks(
    file: h5py.File, prefix: str, comm: Comm
) -> Iterator[tuple[range, Iterator[NDArray[Any] | str]]]:
    """Yield (rows, their images or why they cannot be read) of this rank's share of a group."""
    n_rows, layout = len(file[f"{prefix}/status"]), _layout(file)
    if layout == "tree":
        images = file[f"{prefix}/datasets"]
        for rows in _share(n_rows, 1, _BLOCK_ROWS, comm):
            names = images[rows.start : rows.stop]
            yield rows, (_read(file, name, ()) for name in names)
    elif layout == "stack":
        target = file[f"{prefix}/images"]
        step = target.chunks[0] if target.chunks else 1
        row_bytes = target.dtype.itemsize * int(np.prod(target.shape[1:]))
        block = max(1, _BLOCK_BYTES // (row_bytes * step)) * step
        for rows in _share(n_rows, step, block, comm):
            yield rows, _chunks(target, rows, step)
    else:
        for rows in _share(n_rows, 1, _BLOCK_ROWS, comm):
            yield rows, _extents(file[f"{prefix}/images"], layout, rows)


def _beside(file: h5py.File, prefix: str, cut: slice) -> Iterator[tuple[int, ...] | None]:
    """Yield what is stored beside each image: (H, W, C) where all differ, (H, W) with padding."""
    for name in {"images/shapes", "sizes"}.intersection(schema.known(_layout(file))):
        if _has(file, f"{prefix}/{name}"):
            return map(tuple, file[f"{prefix}/{name}"][cut].tolist())
    return repeat(None)


def _read(found: Any, *keys: Any) -> NDArray[Any] | str:
    """Return what keys lead to, or why it cannot be read: a damaged chunk, a name of nothing."""
    try:
        for key in keys:
            found = found[key]
    except (OSError, KeyError, RuntimeError) as error:  # all that h5py makes of HDF5's errors
        return one_line(error)
    values: NDArray[Any] = found
    return values


def _chunks(target: h5py.Dataset, rows: range, step: int) -> Iterator[NDArray[Any] | str]:
    """Yield rows; if they cannot be read together, those of each chunk by themselves."""
    images = _read(target, slice(rows.start, rows.stop))
    if not isinstance(images, str) or len(rows) <= step:
        yield from repeat(images, len(rows)) if isinstance(images, str) else images
        return
    for start in range(rows.start, rows.stop, step):
        yield from _chunks(target, range(start, min(start + step, rows.stop)), step)


def _extents(target: h5py.Group, layout: str, rows: range) -> Iterator[NDArray[Any] | str]:
    """Yield images of any size, or files as (n,) bytes."""
    pixels = target["data" if layout == "encoded" else "pixels"]
    offsets = target["offsets"][rows.start : rows.stop + 1].tolist()
    shapes = target["shapes"][rows.start : rows.stop].tolist()
    for start, stop, shape in zip(offsets, offsets[1:], shapes, strict=False):
        image = _read(pixels, slice(start, stop))
        if layout == "ragged" and not isinstance(image, str) and image.size == int(np.prod(shape)):
            image = image.reshape(shape if shape[2] > 1 else shape[:2])
        yield image


def _share(n_rows: int, step: int, block: int, comm: Comm) -> Iterator[range]:
    """Yield this rank's rows in blocks: whole chunks of `step` rows."""
    n_chunks = -(-n_rows // step)
    ends = (n_chunks * rank // comm.size * step for rank in (comm.rank, comm.rank + 1))
    start, stop = (min(n_rows, end) for end in ends)
    for first in range(start, stop, block):
        yield range(first, min(first + block, stop))
