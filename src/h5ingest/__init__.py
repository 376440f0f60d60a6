"""h5ingest: millions of small image files into one HDF5 file, in parallel, exactly."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from h5ingest.reading.store import ImageStore

__all__ = ["ImageStore", "__version__"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command must not wait for what it does not need."""
    if name == "ImageStore":
        from h5ingest.reading.store import ImageStore

        return ImageStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
