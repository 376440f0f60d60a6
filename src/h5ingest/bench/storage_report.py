"""What `bench storage` found, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from h5ingest.bench.measure import Spread, plain, seconds
from h5ingest.bench.report import Description, turns

SCHEMA: Final = "h5ingest bench storage 1"

STORING: Final = (
    "Storing starts from the image files, which are in the system's cache, and ends when the call "
    "returns; LMDB and h5ingest have made it safe on the disk by then. 'Safe' is the time until "
    "everything is, for all of them (syncfs)."
)
CACHE: Final = (
    "Cold: after syncfs, posix_fadvise(DONTNEED) has made the system forget the contents of the "
    "stored files. It still knows their names and inodes, and the disk has a cache of its own: "
    "after a reboot, or on a shared file system, many files would do worse. "
    "Warm: read just before."
)
READING: Final = (
    "Reading opens, reads into arrays in memory, and closes. One image: a random one of so many."
)
CHECKED: Final = "Every pixel and label of every reading was compared with the image files."


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One backend, at one number of images. All times in seconds."""

    backend: str
    """Its key."""
    n: int
    """Images."""
    store: Spread
    """Until the call returns."""
    store_durable: Spread
    """Until it is safe on the disk."""
    read_cold: Spread
    """All images, from the disk."""
    read_warm: Spread
    """All images, from the system's cache."""
    one_cold: Spread
    """One image among all, from the disk."""
    one_warm: Spread
    """One image among all, from the system's cache."""
    n_bytes: int
    """On the disk, in whole blocks."""
    n_inodes: int
    """Files and folders."""
    resident_when_cold: float
    """Share of the pages that stayed in memory although evicted; the highest of all runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The image files themselves, at one number of images."""

    n: int
    """Images."""
    pixel_bytes: int
    """Total size of the pixels."""
    file_bytes: int
    """Total size of the files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageReport:
    """Everything that was found."""

    manifest: str
    """Name of the file."""
    n_images: int
    """In the manifest."""
    images: str
    """Their sizes and types, in words."""
    counts: tuple[int, ...]
    """Numbers of images measured."""
    dropped: tuple[int, ...]
    """Cutoffs beyond the manifest: all images were taken instead."""
    n_runs: int
    """How often each was measured."""
    machine: dict[str, str]
    """Processor, memory, versions."""
    load: tuple[float, float]
    """Processes that wanted to run, before and after."""
    backends: tuple[Description, ...]
    """In the order measured."""
    left_out: tuple[str, ...]
    """Backends that cannot store these images, and why."""
    results: tuple[Result, ...]
    """By number of images, then by backend."""
    references: tuple[Reference, ...]
    """By number of images."""
    decode_imageio: Spread
    """Seconds only to read and decode the largest number of files by imageio."""
    decode_fast: Spread
    """The same by h5ingest's decoder."""
    n_compared: int
    """Images of which every pixel was compared."""

    @property
    def largest(self) -> int:
        """The largest number of images."""
        return self.counts[-1]

    def of(self, backend: str, n: int) -> Result:
        """Return the result of a backend, named by its key, with n images."""
        return next(r for r in self.results if (r.backend, r.n) == (backend, n))

    def reference(self, n: int) -> Reference:
        """Return what n image files take themselves."""
        return next(r for r in self.references if r.n == n)

    def to_json(self) -> dict[str, object]:
        """Return all fields as plain values, under the names of schema 1."""
        return {
            "schema": SCHEMA,
            **plain(self, backends="ways", backend="way"),
            "all_pixels_compared": True,
            "notes": self.notes(),
        }

    def notes(self) -> list[str]:
        """Return what a reader of the numbers must know."""
        dropped = ", ".join(f"{cutoff:,}" for cutoff in self.dropped)
        too_many = f"Cutoffs {dropped} are more than there are: all images were taken."
        return [
            STORING,
            READING,
            CACHE,
            *([too_many] * bool(dropped)),
            *(f"Left out: {text}." for text in self.left_out),
            f"Merely reading and decoding the {self.largest:,} image files takes "
            f"{seconds(self.decode_imageio.median)} by imageio and "
            f"{seconds(self.decode_fast.median)} by the decoder of h5ingest: the rest of the time "
            f"to store is the storage's.",
            f"{CHECKED} ({self.n_compared:,} images.)",
            turns(self.n_runs, self.load),
        ]
