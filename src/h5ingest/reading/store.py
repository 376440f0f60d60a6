"""`ImageStore`: the images and labels of finished files, for training and analysis.

May not: write, import mpi4py.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any, Final, Self, overload

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.units import MIB
from h5ingest.reading.batches import Batches
from h5ingest.reading.checks import Verify, check_how
from h5ingest.reading.contents import Contents
from h5ingest.reading.images import Batch
from h5ingest.reading.open_files import OpenFiles, Paths, files_of
from h5ingest.reading.selection import Failed, Labels, Selection, is_integer
from h5ingest.reading.text import Column, LazyStrings

CACHE_BYTES: Final = 64 * MIB
_NOTHING: Final = Selection.every(0)
"""The selection of a store whose group is not open."""


class ImageStore(Batches):
    """A sequence of (image, label), read from a file that h5ingest made, or from several.

        with ImageStore("out.h5") as store:
            image, label = store[42]            # (H, W) or (H, W, C), int
            images, labels = store[[3, 1, 4]]   # (3, H, W) or (3, H, W, C), (3,) in this order

    Slices, integer arrays and boolean masks give batches, always copies. Images of files with
    images of many sizes (`ragged`, `encoded`, `tree`) come as a list of arrays. Without labels in
    the file, labels are None. Where images have any number of classes each, a label is (k,) of
    them, and those of a batch are `Lists`; `multi_hot` makes a matrix of these.

    Several files, `ImageStore(["a.h5", "b.h5"])` or `ImageStore("shards/*.h5")`, are read as one:
    their rows one after the other, labels with one name as one label, whatever its number is in
    each file. They must have one layout, one shape and type of images where a file has one, and the
    same columns.

    Where a row has several images (`ingest --image mask`), they come as a dict, those of a batch as
    a dict of batches: {"images": (H, W, C), "mask": (H, W)}; unless `image="mask"` chooses one.

    Failed rows (status is not `ok`; their pixels are zeros) are, by `failed`:
    - `include`: samples like any other: sample i is row i of the group;
    - `skip`: left out: `store[i]` is the i-th image that is good, and `rows[i]` its row, counted
      over all files;
    - `mask`: included, with the label `masked_label`.

    What is read is compared with the checksums of the file, and refused if it differs, by `verify`:
    - `auto`: whatever has to be decoded is compared before, as that costs next to nothing:
      compressed chunks, the files of `encoded`; the images of `tree`, too. Chunks whose codec only
      HDF5 knows are the first time, as for that they are read twice. Other pixels, which are copied
      in less time than a checksum takes, are not, nor are chunks of files of version 1;
    - `never`: nothing is;
    - `first`: each image or chunk is when this process reads it for the first time;
    - `always`: every time that it is read, or decoded.

    Any thread may read. Any process may: a store can be pickled, and be used on both sides of a
    fork; each process opens the file for itself, and a file that was replaced meanwhile is refused.
    """

    def __init__(
        self,
        path: Paths,
        *,
        group: str | None = None,
        image: str | None = None,
        failed: Failed = "include",
        masked_label: int = -1,
        cache_bytes: int = CACHE_BYTES,
        threads: int | None = None,
        verify: Verify = "auto",
    ) -> None:
        """Open the file.

        Args:
            path: of the file; or of several, or a pattern of their names, which are then sorted.
            group: name of the group to read, for a file that has groups (see `groups`).
            image: name of the only image of each row to read, of several.
            failed: what becomes of failed rows.
            masked_label: their label under `mask`.
            cache_bytes: memory for decoded chunks of compressed files, in each process; each of
                several files has an equal part of it, and a chunk at least.
            threads: that decode the chunks or files of one batch; None: one per processor in a main
                process, one in a process that another one started (a DataLoader's, for example).
            verify: when what is read is compared with its checksum, see above.

        Raises:
            OutputError: a file cannot be read, is not one of h5ingest, or does not fit the first.
            UsageError: there is no such group or image; or `mask` without labels.
            SetupError: a filter of the file is not available here.
        """
        check_how(failed, verify, threads)
        self.files: Final = files_of(path)
        """Absolute paths."""
        self.path: Final = self.files[0]
        """Absolute; of several files the first."""
        self.group: Final = group
        """Name of the group, or None."""
        self._image, self._failed, self._masked_label = image, failed, masked_label
        self._cache_bytes, self._threads, self._verify = cache_bytes, threads, verify
        self._digests: tuple[str, ...] | None = None
        self._open: OpenFiles | None = None
        try:
            self._start()
            if group is not None or not self.groups:
                self._contents  # noqa: B018  # errors now, not at the first image
                labels = self._contents.labels
                if failed == "mask" and not isinstance(labels, np.ndarray):
                    found = "there are none" if labels is None else "here each is a list"
                    raise UsageError(f"{self.path}: failed='mask' needs labels, and {found}")
        except BaseException:
            self.close()
            raise

    def _start(self) -> OpenFiles:
        """Read the headers; in each process that did not inherit a store that has done so."""
        self._open = found = OpenFiles(self.files)
        for file, was, now in zip(
            self.files, self._digests or found.digests, found.digests, strict=True
        ):
            if was != now:
                raise OutputError(f"{file}: not the file that the store was made for")
        self._digests = found.digests
        self._layout, self._groups = found.layout, found.groups
        self._found: Contents | None = None
        self._label_names: tuple[str, ...] | None = None
        self._selection: Selection = _NOTHING
        return found

    @property
    def _contents(self) -> Contents:
        """What the group holds; opened on first use."""
        if self._found is None:
            if self._digests is None:
                raise ValueError(f"{self.path}: the store is closed")
            how = self._image, self._cache_bytes, self._threads, self._verify
            found = (self._open or self._start()).contents(self.group, *how)
            policy = self._failed, self._masked_label
            self._selection = Selection.of(found.status, found.labels, *policy)
            self._found = found
        return self._found

    # --- samples -------------------------------------------------------------------------------

    def __len__(self) -> int:
        self._contents  # noqa: B018  # opens
        return self._selection.n_samples

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> tuple[NDArray[Any], Any]: ...
    @overload
    def __getitem__(
        self, index: slice | list[int] | list[bool] | NDArray[Any]
    ) -> tuple[Batch, Labels | None]: ...
    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        """Return (image, label) for an integer, else (images, labels) in the order asked.

        Raises:
            IndexError: there is no such sample.
            TypeError: this is no index.
            OutputError: the file is damaged, or was replaced.
        """
        found = self._found or self._contents
        if type(index) is not int:
            if isinstance(index, slice) or not is_integer(index):
                return self._batch(found, index)
            index = operator.index(index)
        rows, labels = self._selection.rows, self._selection.each_label
        read = found.images.one  # as a call of a method it would be looked up for longer
        try:
            image = read(index if rows is None else int(rows[index]))
            return image, None if labels is None else labels[index]
        except OutputError:
            found.check()  # it may be due to that
            raise
        except (IndexError, OverflowError):
            raise IndexError(f"index {index} is out of range for {len(self):,} samples") from None

    def _batch(self, found: Contents, index: Any) -> tuple[Batch, Labels | None]:
        chosen = index if isinstance(index, slice) else self._selection.chosen(index)
        labels, rows = self._selection.labels, self._selection.rows
        try:
            images = found.images.many(chosen if rows is None else rows[chosen])
        except OutputError:
            found.check()
            raise
        except IndexError:
            raise IndexError(f"an index is out of range for {len(self):,} samples") from None
        if labels is not None:
            labels = labels[chosen]
            if isinstance(chosen, slice) and isinstance(labels, np.ndarray):
                labels = labels.copy()  # else a view
        return images, labels

    def __iter__(self) -> Iterator[tuple[NDArray[Any], Any]]:
        return (self[sample] for sample in range(len(self)))

    # --- what the file has besides images ------------------------------------------------------

    @property
    def layout(self) -> str:
        """`stack`, `ragged`, `tree` or `encoded`."""
        return self._layout

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups in the file, or in all files; empty if there are none."""
        return self._groups

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W) or (n, H, W, C); (n,) where images differ, or are several."""
        return len(self), *(self._contents.row_shape or ())

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Of the pixels; None where images may differ (`encoded`, `tree`)."""
        return self._contents.dtype

    @property
    def labels(self) -> Labels | None:
        """(n,) read-only; beyond 64 MiB the file itself in memory, where it is stored plainly.

        `Lists` of classes, where images have any number of them each.
        """
        self._contents  # noqa: B018  # opens
        return self._selection.labels

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Name of each label; None if labels are numbers only."""
        names = self._contents.label_names
        if names is not None and self._label_names is None:
            self._label_names = tuple(names)
        return self._label_names

    @property
    def paths(self) -> LazyStrings:
        """As in the manifest; a lazy sequence of strings."""
        texts = self._contents.texts  # opens
        return texts.paths(self._selection)

    @property
    def status(self) -> NDArray[np.uint8]:
        """(n,) read-only: 0 missing, 1 ok, 2 failed."""
        status = self._contents.status  # opens
        return self._selection.per_sample(status)

    @property
    def sizes(self) -> NDArray[Any] | None:
        """(n, 2) true height and width, where images were padded or differ; else None."""
        sizes = self._contents.sizes
        return None if sizes is None else self._selection.per_sample(sizes)

    @property
    def columns(self) -> Mapping[str, Column]:
        """The further columns of the manifest: arrays (n,), lazy sequences of strings, or `Lists`.

        A column of lists has an array (k, ...) for each sample: `store.columns["bbox"][7]`.
        """
        texts = self._contents.texts
        return texts.columns(self._selection)

    def close(self) -> None:
        """Let go of the files. Arrays that were returned stay good."""
        if self._open is not None:
            self._open.close()
        self._open = self._found = self._digests = None
        self._selection = _NOTHING

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to open the file for itself."""
        nothing = {"_open": None, "_found": None, "_selection": _NOTHING, "_label_names": None}
        return self.__dict__ | nothing

    def __repr__(self) -> str:
        path = repr(self.path) + (f" and {n} more" if (n := len(self.files) - 1) else "")
        if self._open is None and self._digests is None:
            return f"<ImageStore {path}, closed>"
        group = f", group={self.group!r}" if self.group else ""
        if self.groups and self.group is None:
            return f"<ImageStore {path}: groups {', '.join(self.groups)}>"
        return f"<ImageStore {path}{group}: {len(self):,} samples, {self.layout}>"
