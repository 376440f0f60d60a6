"""Whether what is read is what was stored: checksums, compared while images are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, get_args

import h5py
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from h5ingest.core import schema
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.schema import StandardDataset
from h5ingest.reading.attributes import Attributes
from h5ingest.reading.dataset_rule import StoredDataset, refuse
from h5ingest.reading.forksafe_file import FileBytes, ForkSafeFile
from h5ingest.reading.open_file import open_dataset
from h5ingest.reading.rows import whole

Verify = Literal["auto", "never", "first", "always"]
"""When checksums are compared: see `ImageStore`."""
VERIFY: Final[tuple[Verify, ...]] = get_args(Verify)

ADVICE: Final = (
    ". `h5ingest verify` finds all damage; ImageStore(verify='never') reads it as it is."
)
"""What the error about a damaged part ends with."""


def check_how(failed: str, verify: str, threads: int | None) -> None:
    """Check arguments of `ImageStore`, which explains them.

    Raises:
        UsageError: a value that cannot be.
    """
    if failed not in ("include", "skip", "mask"):
        raise UsageError(f"failed: expected include, skip or mask, got {failed!r}")
    if verify not in VERIFY:
        raise UsageError(f"verify: expected {', '.join(VERIFY)}; got {verify!r}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads: expected at least 1, got {threads}")


class Checks:
    """The checksums of some parts of a file, images or chunks, counted from 0.

    They are read when the first part is compared. Threads may share them: at worst two of them read
    them, or compare the same part.
    """

    def __init__(
        self,
        path: str,
        read: Callable[[], NDArray[np.uint64]],
        name: Callable[[int], str],
        *,
        once: bool,
    ) -> None:
        """Prepare.

        Args:
            path: of the file, for messages.
            read: returns (n,), xxh3-64 of the bytes of each part.
            name: how messages name a part.
            once: whether a part that was right is not compared again.
        """
        self._path, self._read, self._name, self._once = path, read, name, once
        self._sums: Any = None
        """(n,); None: they have not been read."""
        self._right: NDArray[np.bool_] | None = None
        """(n,) which parts were right; None: each is compared every time."""

    def load(self) -> None:
        """Read the checksums; with no lock but the file's, which whoever asks may hold."""
        sums = self._read()
        self._right = np.zeros(len(sums), np.bool_) if self._once else None
        self._sums = sums

    def one(self, number: int, data: Any) -> None:
        """Compare a part; its number may count from the end.

        Args:
            number: of the part.
            data: its bytes: any contiguous buffer.

        Raises:
            OutputError: it is not what was stored.
        """
        if self._sums is None:
            self.load()
        if self._right is None:
            self._compare(number, xxh3_64_intdigest(data))
        elif not self._right[number]:
            self._compare(number, xxh3_64_intdigest(data))
            self._right[number] = True

    def many(self, numbers: NDArray[np.intp], values: NDArray[Any]) -> None:
        """Compare parts of one shape.

        Args:
            numbers: (n,) of the parts; they may count from the end.
            values: (n, …) the parts, C-contiguous.

        Raises:
            OutputError: one is not what was stored.
        """
        if self._sums is None:
            self.load()
        if self._right is not None:
            left = np.flatnonzero(~self._right[numbers])
            if not len(left):
                return
            places = left.tolist()
        else:
            places = list(range(len(numbers)))
        if not values.size:
            return
        flat = values.reshape(-1).view(np.uint8).data  # its slices are cheaper than an array's
        size = len(flat) // len(values)
        found = [xxh3_64_intdigest(flat[k * size : (k + 1) * size]) for k in places]
        compared = numbers[places]
        wrong = np.flatnonzero(self._sums[compared] != np.array(found, np.uint64))
        if len(wrong):
            self._compare(int(compared[wrong[0]]), found[wrong[0]])
        if self._right is not None:
            self._right[compared] = True

    def _compare(self, number: int, found: int) -> None:
        expected = int(self._sums[number])
        if found != expected:
            which = number + len(self._sums) if number < 0 else number
            raise OutputError(
                f"{self._path}: {self._name(which)} is damaged: expected checksum "
                f"{expected:016x}, found {found:016x}{ADVICE}"
            )


class StoredChunk(NamedTuple):
    """A chunk as it is in the file, compared with its checksum."""

    form: str
    """How its dataset is cut and filtered: see `schema.chunking`."""
    mask: int
    """Of filters that were not applied."""
    data: bytes

    @classmethod
    def read(
        cls, dataset: h5py.Dataset, first: tuple[int, ...], number: int, checks: Checks
    ) -> StoredChunk | None:
        """Return a chunk; None if it cannot be read, or is not what was stored.

        Args:
            dataset: it is in.
            first: position of its first element.
            number: among those that are compared.
            checks: compares it.
        """
        try:
            mask, data = dataset.id.read_direct_chunk(first)
            checks.one(number, data)
        except (OSError, RuntimeError):  # an OutputError is one, too
            return None
        return cls(schema.chunking(dataset.id.get_create_plist()), mask, data)


def chunking_of(sums: h5py.Dataset) -> str | None:
    """Return what was summed, in the words of `schema.CHUNKING`; None: it does not say."""
    found = Attributes(sums).get(schema.CHUNKING)
    return found if isinstance(found, str) else None


def fit_chunks(sums: h5py.Dataset, images: StoredDataset) -> bool:
    """Return whether the chunks of a dataset have checksums.

    If another program has made the chunks since (`h5repack`), they are not those of the checksums.

    Args:
        sums: the dataset `chunk_checksums` of the group.
        images: the pixels of a stack, or of images of any size.

    Raises:
        OutputError: there are more or fewer checksums than chunks.
    """
    wanted = schema.chunking(images.creation)
    if chunking_of(sums) != wanted:
        return False
    n_chunks = -(-images.shape[0] // images.chunks[0])
    if sums.shape != (n_chunks,) or sums.dtype != np.uint64:
        raise OutputError(
            f"{sums.file.filename}: {sums.name}: expected {n_chunks:,} checksums of chunks, found "
            f"{sums.shape} {sums.dtype}"
        )
    return True


def fit_image(filters: str, image: StoredDataset) -> bool:
    """Return whether a tree's `chunk_checksums` have one of this image's only chunk.

    Args:
        filters: their attribute `CHUNKING`.
        image: a dataset.
    """
    return image.chunks == image.shape and repr(image.filters) == filters


def row_sums(
    handle: ForkSafeFile, file_bytes: FileBytes, prefix: str, wanted: StandardDataset, n_rows: int
) -> NDArray[np.uint64]:
    """Return the checksums of the rows of a group, or of the only chunks of the images of a tree.

    Raises:
        OutputError: there are none, or not one for each row.
    """
    with handle as file:
        sums = open_dataset(file, wanted, prefix, n_rows)
        if sums is None:
            raise OutputError(f"{handle.path}: {wanted.at(prefix)} is missing")
        if sums.shape != (n_rows,):
            refuse(file, wanted.at(prefix), f"{n_rows:,} checksums", f"{sums.shape}")
        return whole(file, file_bytes, sums)


def chunk_sums(
    handle: ForkSafeFile, file_bytes: FileBytes, prefix: str, pixels: str
) -> NDArray[np.uint64] | None:
    """Return the checksums of the chunks of a dataset, by its HDF5 path; None: they have none.

    Raises:
        OutputError: see `fit_chunks`.
    """
    with handle as file:
        sums = open_dataset(file, schema.CHUNK_CHECKSUMS, prefix)
        if sums is None or not fit_chunks(sums, handle.dataset(pixels)):
            return None
        return whole(file, file_bytes, sums)
