"""What there is to ingest: the manifest and the images' headers, read by all ranks, agreed by all.

Each rank parses the manifest lines of its own byte range and probes those images. Afterwards every
missing, unreadable or oddly shaped file is known, and nothing has been written yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate, islice, pairwise
from operator import or_
from pathlib import Path
from typing import Any, Final

from h5ingest import source
from h5ingest.cells import resolve
from h5ingest.comm import Comm, agreeing
from h5ingest.decode import HEAD_BYTES, probe
from h5ingest.errors import (
    Failure,
    ManifestError,
    SampleError,
    SamplesFailedError,
    agreed,
    describe_failures,
)
from h5ingest.layout import ImageSpec
from h5ingest.lines import Dialect, LineError, sniff
from h5ingest.manifest import (
    Manifest,
    ManifestPart,
    file_sha256,
    read_class_names,
    read_part,
    share,
)
from h5ingest.options import IngestOptions
from h5ingest.packed import PackedStrings

REMEDY: Final = (
    "Mend them or take them out of the manifest, or store zeros and status 2 in their place with "
    "--on-error blank."
)
"""What to do about images that cannot be read."""

_MOST_SPECS: Final = 1000
"""Different specs that one rank reports: a message names a few, a folder may hold a million."""

_OBJECT_BYTES: Final = 128
"""What a cached file takes beside its bytes: the bytes object, its index, its place in the dict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What one rank found in the headers of its images."""

    specs: dict[ImageSpec, tuple[int, int, str]]
    """spec -> (how many, index of the first, its path)."""
    failures: list[Failure]
    """Images that cannot be read."""
    n_bytes: int
    """Size of the files."""
    cache: dict[int, bytes]
    """index -> all bytes of the file, for as many as the memory budget holds."""


def read_manifest(
    path: Path, options: IngestOptions, comm: Comm
) -> tuple[Manifest, PackedStrings, list[range]]:
    """Return the manifest, this rank's paths, and the rows that each rank holds. Collective.

    Raises:
        ManifestError: with the file, the line, what was expected and what was found.
    """
    head: tuple[Dialect, str] | None = None
    with agreeing(comm):
        if comm.rank == 0:
            head = sniff(path, options.delimiter), file_sha256(path)
    dialect, sha256 = comm.bcast(head)
    part, problem = ManifestPart.nothing(), None
    with agreeing(comm):
        try:
            byte_range = share(path, dialect, comm.rank, comm.size)
            part = read_part(path, dialect, byte_range)
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read by rank {comm.rank}: {error}") from None
        except LineError as error:
            problem = error.line, error.problem
    told = comm.allgather((part.n_lines, len(part.paths), part.integer_labels, part.flags, problem))
    line = dialect.body_line
    for n_lines, *_, found in told:
        if found:
            raise agreed(ManifestError(f"{path}, line {line + found[0]}: {found[1]}"))
        line += n_lines
    bounds = [0, *accumulate(n_rows for _, n_rows, *_ in told)]
    if bounds[-1] == 0:
        raise agreed(ManifestError(f"{path}: expected at least one image, found only the header"))
    names = None
    if "label" in dialect.columns and not all(integer for _, _, integer, *_ in told):
        parts = comm.allgather(read_class_names(path, dialect, byte_range))
        names = tuple(sorted(frozenset().union(*parts)))
    flags = [reduce(or_, column) for column in zip(*(f for *_, f, _ in told), strict=True)]
    manifest = Manifest(
        path=path,
        dialect=dialect,
        sha256=sha256,
        n_rows=bounds[-1],
        class_names=names,
        column_kinds=dict(zip(dialect.extra_columns, map(resolve, flags), strict=True)),
    )
    return manifest, part.paths, [range(a, b) for a, b in pairwise(bounds)]


def probe_images(
    paths: PackedStrings,
    rows: range,
    root: bytes,
    options: IngestOptions,
    beat: Callable[[int], None],
) -> Probed:
    """Read the headers of this rank's images. Not collective.

    Args:
        paths: one per row.
        rows: their global indices.
        root: folder that relative paths are relative to.
        options: for its `max_pixels` and `cache_bytes`.
        beat: called now and then with the number of images probed so far.
    """
    specs: dict[ImageSpec, tuple[int, int, str]] = {}
    failures = []
    cache: dict[int, bytes] = {}
    n_bytes, budget = 0, options.cache_bytes
    for index, path in zip(rows, paths, strict=True):
        file = os.path.join(root, path)
        try:
            data, size = source.read(file, None if budget > 0 else HEAD_BYTES)
            whole = len(data) == size
            spec = probe(data, whole=whole, max_pixels=options.max_pixels)
            if spec is None:
                data, size = source.read(file)
                spec = probe(data, max_pixels=options.max_pixels)
                assert spec is not None, "the whole file tells"
        except SampleError as error:
            failures.append(error.at(index, path))
            continue
        n_bytes += size
        count, first, first_path = specs.get(spec) or (0, index, os.fsdecode(path))
        specs[spec] = count + 1, first, first_path
        if len(data) == size <= budget:
            cache[index] = data
            budget -= size + _OBJECT_BYTES
        if not index & 63:
            beat(index - rows.start)
    return Probed(specs=specs, failures=failures, n_bytes=n_bytes, cache=cache)


def agree_on_spec(
    probed: Probed, manifest: Manifest, root: bytes, options: IngestOptions, comm: Comm
) -> tuple[ImageSpec, int]:
    """Return the one spec of all images, and the bytes of all files. Collective.

    Raises:
        SamplesFailedError: images that cannot be read (unless they may be blank), or images of
            different shape or type.
    """
    told = comm.gather(
        (
            [(s, *seen) for s, seen in islice(probed.specs.items(), _MOST_SPECS)],
            [failure.to_plain() for failure in probed.failures],
            probed.n_bytes,
        )
    )
    found: tuple[ImageSpec, int] | None = None
    with agreeing(comm):
        if told is not None:
            found = _judge(told, manifest, root, options)
    return comm.bcast(found)


def _judge(
    told: list[Any], manifest: Manifest, root: bytes, options: IngestOptions
) -> tuple[ImageSpec, int]:
    """Return what `agree_on_spec` promises, from what all ranks told. Root only."""
    failures = [Failure.from_plain(plain) for _, plains, _ in told for plain in plains]
    if len(failures) == manifest.n_rows and all(f.kind == "missing" for f in failures):
        first = os.fsdecode(os.path.join(root, os.fsencode(failures[0].path)))
        raise SamplesFailedError(
            f"{manifest.path}: none of its {manifest.n_rows:,} files exists; the first was looked "
            f"for as {first}. Paths are relative to the manifest's folder unless --root DIR says "
            f"otherwise.",
            failures,
        )
    specs: dict[ImageSpec, tuple[int, int, str]] = {}
    for seen, _, _ in told:
        for spec, count, index, path in seen:
            known = specs.get(spec, (0, index, path))
            specs[spec] = known[0] + count, known[1], known[2]
    problems = []
    if failures and (options.on_error == "fail" or not specs):
        problems.append(
            f"{len(failures):,} of {manifest.n_rows:,} files cannot be read: "
            f"{describe_failures(failures)}\n{REMEDY}"
        )
    if len(specs) > 1:
        problems.append(_describe_mixture(specs))
    if problems:
        raise SamplesFailedError(f"{manifest.path}: " + "\n".join(problems), failures)
    return next(iter(specs)), sum(n_bytes for *_, n_bytes in told)


def _describe_mixture(specs: dict[ImageSpec, tuple[int, int, str]]) -> str:
    shown = sorted(specs.items(), key=lambda item: (-item[1][0], item[1][1]))[:10]
    lines = [f"expected images of one size and type, found {len(specs):,} kinds:"]
    lines += [
        f"  {count:,} x {spec} (first: sample {index}: {path})"
        for spec, (count, index, path) in shown
    ]
    if len(specs) > len(shown):
        lines.append(f"  … and {len(specs) - len(shown):,} kinds more")
    lines.append(
        "Give each kind a manifest of its own. (Planned, not in this version: --channels and "
        "--dtype to convert, --fit pad|crop|resize, --layout ragged.)"
    )
    return "\n".join(lines)
