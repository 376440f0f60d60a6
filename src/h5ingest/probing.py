"""The images' headers, read by all ranks, and what all of them agree on.

Afterwards every missing, unreadable or oddly shaped file is known, and nothing has been written
yet.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest import source
from h5ingest.ahead import Files
from h5ingest.comm import Comm, agreeing
from h5ingest.decode import HEAD_BYTES, Prober
from h5ingest.errors import Failure, SampleError, SamplesFailedError, describe_failures
from h5ingest.layout import ImageSpec
from h5ingest.manifest import Manifest
from h5ingest.options import IngestOptions
from h5ingest.png import END, palette
from h5ingest.survey import Held
from h5ingest.target import Target, decide

REMEDY: Final = (
    "Mend them or take them out of the manifest, or store zeros and status 2 in their place with "
    "--on-error blank."
)
"""What to do about images that cannot be read."""

_MOST_SPECS: Final = 1000
"""Different specs that one rank reports: a message names a few, a folder may hold a million."""
_BEAT_S: Final = 0.02
"""Seconds between two beats, at most, if the files allow it."""
_OBJECT_BYTES: Final = 128
"""What a cached file takes beside its bytes: the bytes object, its index, its place in the dict."""

Seen = dict[tuple[int, ImageSpec], tuple[int, int, str]]
"""(group, spec) -> (how many, index of the first, its path)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What one rank found in the headers of its images."""

    seen: Seen
    """Kinds of images."""
    shapes: NDArray[np.int32]
    """(n, 4) height, width, channels, bytes a value; zeros for what cannot be read. (0, 4) for the
    layout `stack`, which has one shape."""
    sizes: NDArray[np.int64]
    """(n,) bytes of each file; (0,) for the layout `stack`."""
    failures: list[Failure]
    """Images that cannot be read."""
    n_bytes: int
    """Size of the files."""
    palettes: frozenset[bytes]
    """Different palettes seen, two at most: RGB entries."""
    cache: dict[int, bytes]
    """index -> all bytes of the file, for as many as the memory budget holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What all ranks know of the images."""

    targets: tuple[Target, ...]
    """What the images of each group become."""
    conversions: tuple[str, ...]
    """What that changes without loss, for the summary."""
    n_bytes: int
    """Size of all files."""
    palette: bytes | None
    """The one palette of all palette images, RGB entries; None if there are none or several."""


def probe_images(
    held: Held, root: bytes, options: IngestOptions, beat: Callable[[int], None]
) -> Probed:
    """Read the headers of this rank's images. Not collective.

    Args:
        held: the samples.
        root: folder that relative paths are relative to.
        options: for its `max_pixels`, `cache_bytes`, `samples` and `layout`.
        beat: called now and then with the number of images probed so far.
    """
    seen: dict[tuple[int, ImageSpec], _Kind] = {}
    failures = []
    cache: dict[int, bytes] = {}
    palettes: set[bytes] = set()
    n_bytes, budget = 0, options.cache_bytes
    raw = options.samples == "raw"
    probe = Prober(options.max_pixels, raw=raw, any_palette=options.any_palette)
    n_kept = 0 if options.layout == "stack" else len(held.paths)
    shapes, sizes = np.zeros((n_kept, 4), np.int32), np.zeros(n_kept, np.int64)
    first, i, next_beat_s = held.indices.start, 0, 0.0
    kind = _Kind(-1, None, 0, b"")
    files = Files(
        root,
        options.readers,
        end=END,
        limit=None if budget > 0 else HEAD_BYTES,
        waiting=lambda: beat(i),
    )
    with files:
        groups = held.groups if held.groups.any() else repeat(0)
        found = zip(files.read(held.paths), groups, strict=False)
        for i, (file, group) in enumerate(found):
            if time.monotonic() >= next_beat_s:
                beat(i)
                next_beat_s = time.monotonic() + _BEAT_S
            try:
                if isinstance(file, SampleError):
                    raise file
                data, size = file
                spec = probe(data, whole=len(data) == size)
                if spec is None:
                    data, size = source.read(os.path.join(root, held.paths[i]))
                    spec = probe(data)
                    assert spec is not None, "the whole file tells"
            except SampleError as error:
                failures.append(error.at(held.indices[i], held.paths[i]))
                continue
            n_bytes += size
            if spec is not kind.spec or group != kind.group:
                new = _Kind(group, spec, held.indices[i], held.paths[i])
                kind = seen.setdefault((int(group), spec), new)
            kind.count += 1
            if n_kept:
                shapes[i], sizes[i] = kind.shape, size
            if raw and len(palettes) < 2 and (colours := palette(data)) is not None:
                palettes.add(colours)
            if len(data) == size <= budget:
                cache[first + i] = data
                budget -= size + _OBJECT_BYTES
                if budget <= 0:
                    files.limit = HEAD_BYTES
    return Probed(
        seen={of: (kind.count, kind.index, os.fsdecode(kind.path)) for of, kind in seen.items()},
        shapes=shapes,
        sizes=sizes,
        failures=failures,
        n_bytes=n_bytes,
        palettes=frozenset(palettes),
        cache=cache,
    )


class _Kind:
    """Images of one group and kind."""

    __slots__ = ("count", "group", "index", "path", "shape", "spec")

    def __init__(self, group: int, spec: ImageSpec | None, index: int, path: bytes) -> None:
        self.group, self.spec, self.index, self.path = group, spec, index, path
        self.count = 0
        self.shape = np.zeros(4, np.int32)
        if spec is not None:
            wide = 2 if spec.dtype == "uint16" else 1
            self.shape[:] = spec.height, spec.width, spec.channels, wide


def agree_on_images(
    probed: Probed, manifest: Manifest, root: bytes, options: IngestOptions, comm: Comm
) -> Findings:
    """Return what the images become. Collective.

    Raises:
        SamplesFailedError: images that cannot be read (unless they may be blank), or that do not
            fit together as the options have it.
    """
    told = comm.gather(
        (
            [(*kind, *seen) for kind, seen in islice(probed.seen.items(), _MOST_SPECS)],
            [failure.to_plain() for failure in probed.failures],
            probed.n_bytes,
            probed.palettes,
        )
    )
    found: Findings | None = None
    with agreeing(comm):
        if told is not None:
            found = _judge(told, manifest, root, options)
    return comm.bcast(found)


def _judge(told: list[Any], manifest: Manifest, root: bytes, options: IngestOptions) -> Findings:
    """Return what `agree_on_images` promises, from what all ranks told. Root only."""
    failures = [Failure.from_plain(plain) for _, plains, *_ in told for plain in plains]
    if len(failures) == manifest.n_rows and all(f.kind == "missing" for f in failures):
        first = os.fsdecode(os.path.join(root, os.fsencode(failures[0].path)))
        raise SamplesFailedError(
            f"{manifest.path}: none of its {manifest.n_rows:,} files exists; the first was looked "
            f"for as {first}. Paths are relative to the manifest's folder unless --root DIR says "
            f"otherwise.",
            failures,
        )
    seen: list[dict[ImageSpec, tuple[int, int, str]]] = [{} for _ in manifest.group_names]
    for kinds, *_ in told:
        for group, spec, n, index, path in kinds:
            known = seen[group].get(spec, (0, index, path))
            seen[group][spec] = known[0] + n, known[1], known[2]
    problems, targets = [], []
    if failures and (options.on_error == "fail" or not any(seen)):
        problems.append(
            f"{len(failures):,} of {manifest.n_rows:,} files cannot be read: "
            f"{describe_failures(failures, manifest.lines_of)}\n{REMEDY}"
        )
    for name, kinds in zip(manifest.group_names, seen, strict=True):
        try:
            targets.append(decide(os.fsdecode(name), kinds, options))
        except SamplesFailedError as error:
            problems.append(str(error))
    if problems:
        raise SamplesFailedError(f"{manifest.path}: " + "\n".join(problems), failures)
    palettes = frozenset[bytes]().union(*(palettes for *_, palettes in told))
    return Findings(
        targets=tuple(targets),
        conversions=tuple(_conversions(seen, targets)),
        n_bytes=sum(n_bytes for _, _, n_bytes, _ in told),
        palette=next(iter(palettes)) if len(palettes) == 1 else None,
    )


def _conversions(
    seen: list[dict[ImageSpec, tuple[int, int, str]]], targets: list[Target]
) -> list[str]:
    """Return what the targets change, a line for each kind of change."""
    changed: dict[str, int] = {}
    for kinds, target in zip(seen, targets, strict=True):
        for spec, (n, *_) in kinds.items():
            new = target.apply(spec)
            if new != spec:
                text = f"{spec} to {new}"
                changed[text] = changed.get(text, 0) + n
    return [f"{n:,} images from {text}" for text, n in list(changed.items())[:10]]
