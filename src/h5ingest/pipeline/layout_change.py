"""`LayoutChange`: what a file of h5ingest holds becomes a file of another layout.

Pixels stay what they are. So a stack needs images of one kind, `ragged` of one depth; padding is
left out; and where the new file keeps image files, each image is coded before the layout is known,
into the spool. The content digest becomes another one, so that of the old file is checked first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.census import numbers_of
from h5ingest.core.errors import SampleError, UsageError
from h5ingest.core.layout import OutputSpec
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.lists import Lists
from h5ingest.core.options import CHANNELS
from h5ingest.core.packed_strings import PackedStrings
from h5ingest.core.recoding import PNG, Recoding
from h5ingest.core.sample_table import NOWHERE, PLACE
from h5ingest.core.schema import FileHeader
from h5ingest.images.decode import Prober
from h5ingest.images.recode import check_available
from h5ingest.mpi.comm import agreeing
from h5ingest.pipeline.code_stored import Opened, code_images, for_each
from h5ingest.pipeline.job import Job
from h5ingest.pipeline.load_changed import ChangedLoader
from h5ingest.pipeline.load_stored import naming_row
from h5ingest.pipeline.rank_stats import RankStats
from h5ingest.pipeline.recoding import CodedImages
from h5ingest.pipeline.source import Source
from h5ingest.pipeline.stored_kinds import Kind, kinds_of, merged, refuse_kinds
from h5ingest.pipeline.stored_parts import Part
from h5ingest.reading.forksafe_file import ForkSafeFile
from h5ingest.reading.stored_group import StoredGroup

_NO_LIMIT: Final = 2**62
"""Pixels of a stored image: the limit was applied when it was stored."""
_OF_STACKS: Final = {"fit": "error", "size": None, "pad_value": 0}
"""Options of a stack, as they are where there is no padding."""


class LayoutChange:
    """From the layout of a file to that of the job."""

    def __init__(
        self, job: Job, source: Source, header: FileHeader, handle: ForkSafeFile, open_group: Opened
    ) -> None:
        """Check what can be checked before an image is looked at. Collective.

        Raises:
            SetupError: the codec for image files cannot be had here.
            UsageError: what is in the file has no such form.
        """
        self._job, self._source, self._header, self._handle = job, source, header, handle
        self._open = open_group
        self._old, self._new = KINDS[header.layout], KINDS[job.options.layout]
        recode = job.options.recode
        self._raw = header.options.get("samples") == "raw"
        self._to = None if recode is None else Recoding.parse(recode)
        self._coded: CodedImages | None = None
        self._told: dict[str, Any] = {}
        with agreeing(job.comm):
            if header.images:
                raise UsageError(
                    f"{source.path}: holds several images a row, whose layout cannot be changed: "
                    f"ingest the sources again"
                )
            if self._to is not None:
                check_available(self._to)
                if self._raw and self._to.codec != PNG:
                    raise UsageError(
                        f"--recode {self._to} codes colours, not palette indices, which "
                        f"{source.path} holds (--samples raw): --recode png takes them"
                    )

    def parts(self, parts: Sequence[Part], about: Mapping[str, object]) -> list[Part]:
        """Return the groups as they are going to be. Collective.

        Raises:
            SamplesFailedError: images are damaged, and may not be blank.
            UsageError: the images of a group do not fit together.
        """
        comm, shapes = self._job.comm, self._shapes(parts)
        mine = [kinds_of(*each, self._new) for each in zip(parts, shapes, strict=True)]
        every = [merged(of_ranks) for of_ranks in zip(*comm.allgather(mine), strict=True)]
        with agreeing(comm):
            for part, kinds in zip(parts, every, strict=True):
                refuse_kinds(str(self._source.path), part, kinds, self._new)
        self._tell(parts)
        sizes: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(parts)
        places = [each.samples.places for each in parts]
        if self._to is not None:
            if self._job.options.dry_run:  # nothing is coded: no file is larger, to speak of
                sizes = [each.prod(axis=1, dtype=np.int64) for each in shapes]
                places = [np.full(len(each), NOWHERE, PLACE) for each in shapes]
            else:
                how = self._job, self._source, self._to, parts, about, self._group
                self._coded, sizes, places = code_images(*how)
        return [
            self._changed(part, shapes[k], next(iter(every[k]), None), sizes[k], places[k])
            for k, part in enumerate(parts)
        ]

    def _changed(
        self,
        part: Part,
        shapes: NDArray[np.int32],
        kind: Kind | None,
        file_sizes: NDArray[np.int64],
        places: NDArray[np.void],
    ) -> Part:
        """Return a group as it is going to be.

        Args:
            part: as it is.
            shapes: (n, 4) of its images.
            kind: of all of them, as far as the layout tells them apart; None: all have failed.
            file_sizes: (n,) of coded images; else (0,).
            places: (n,) `PLACE` of coded images; else (0,).
        """
        new = self._new
        height, width, channels, n_bytes = kind or (1, 1, 1, 1)
        shapes = shapes[:0] if new.uniform else shapes
        lengths = new.lengths(shapes, file_sizes)
        output = OutputSpec(
            channels=channels if new.uniform else None,
            dtype=f"uint{8 * n_bytes}" if new.one_dtype else None,
            size=(height, width) if new.uniform else None,
        )
        group = replace(part.group, n_elements=int(lengths.sum()), output=output, padded=False)
        samples = replace(
            part.samples,
            shapes=shapes,
            starts=np.cumsum(lengths) - lengths,
            lengths=lengths,
            folders=self._folders(part),
            names=PackedStrings.pack([]),
            places=places,
        )
        return replace(part, group=group, samples=samples)

    def _folders(self, part: Part) -> PackedStrings:
        """Return the HDF5 groups of images that get a dataset each, as an ingest names them."""
        found: list[bytes] = []
        if self._new.dataset_per_image and not self._header.groups:
            rows, group = part.samples.rows, self._open(part.samples.group)
            with self._handle:
                labels, classes = group.classes()
            if labels is None or isinstance(labels, Lists):  # of several classes it is in no folder
                return PackedStrings.pack([])
            mine = labels[rows.start : rows.stop].tolist()
            found = [str(label).encode() for label in mine]
            if classes is not None:
                names = classes.raw(np.arange(len(classes)))
                found = [names[label] for label in mine]
        return PackedStrings.pack(found)

    def _shapes(self, parts: Sequence[Part]) -> list[NDArray[np.int32]]:
        """Return (n, 4) height, width, channels, bytes of a value of each group's images.

        Of failed ones they may be zeros. Collective.
        """
        found = [self._stored_shapes(each) for each in parts]
        if not self._old.keeps_files:
            return found
        probe = Prober(max_pixels=_NO_LIMIT, raw=self._raw)

        def look_at(part: Part, k: int, group: StoredGroup) -> None:
            row = part.samples.rows[k]
            with contextlib.suppress(SampleError):  # said when it is to be stored
                with naming_row(group, row):
                    data = group.one(row).tobytes()
                spec = probe(data)
                assert spec is not None, "the whole file tells"
                found[part.samples.group][k] = numbers_of(spec)

        for_each(self._job, "probe", parts, self._group, look_at)
        return found

    def _stored_shapes(self, part: Part) -> NDArray[np.int32]:
        """Return (n, 4) of the images of a group by what the file says of them, without padding."""
        if not self._old.uniform:
            return part.samples.shapes.copy()
        rows, output = part.samples.rows, part.group.output
        assert output.size is not None, "it is a stack"
        shapes = np.empty((len(rows), 4), np.int32)
        shapes[:] = *output.size, output.channels or 1, output.n_bytes
        if part.group.padded:
            sizes = self._open(part.samples.group).sizes
            assert sizes is not None, "it is padded"
            shapes[:, :2] = sizes[rows.start : rows.stop]
            shapes[shapes[:, 0] == 0] = 0  # failed
        return shapes

    def _tell(self, parts: Sequence[Part]) -> None:
        """Note what options of an ingest would make of the sources what is in the new file."""
        recode = None if self._to is None else str(self._to)
        told: dict[str, Any] = {"layout": self._new.name, "recode": recode}
        outputs = {part.group.output for part in parts}
        if len(outputs) == 1:
            (output,) = outputs
            if output.size is not None:
                told["size"] = list(output.size)
            names = {number: name for name, number in CHANNELS.items()}
            if output.channels in names and not self._raw and recode is None:
                told["channels"] = names[output.channels]
            if output.dtype is not None and recode is None:
                told["dtype"] = output.dtype
        self._told = told

    def told(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that the new file is to name, of those of the old one."""
        found = dict(options)
        for name, value in self._told.items():
            if name in ("layout", "recode") or found.get(name) in ("auto", None):
                found[name] = value
        if self._old.uniform and found.get("fit") in ("error", "pad"):
            found |= _OF_STACKS
        return found

    def _group(self, number: int) -> StoredGroup:
        group = self._open(number)
        if self._raw:
            group.keep_indices()
        return group

    @contextlib.contextmanager
    def loading(
        self, check: Callable[[], None], stats: RankStats, beat: Callable[[], None]
    ) -> Iterator[ChangedLoader]:
        """Give the block a loader; see `StoredLoader`. Not collective."""
        if self._coded is not None:
            for note in self._coded.notes.to_plain():
                stats.notes.add(*note)
        yield ChangedLoader(self._group, check, stats, beat, self._coded)
        if self._coded is not None:
            self._coded.close()
