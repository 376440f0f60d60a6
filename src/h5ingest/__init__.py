"""h5ingest: millions of small image files into one HDF5 file, in parallel, exactly."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from h5ingest.core.options import IngestOptions
    from h5ingest.exports.options import ExportOptions
    from h5ingest.exports.run import export
    from h5ingest.inspect.verify import verify
    from h5ingest.pipeline.extend import extend
    from h5ingest.pipeline.run import ingest, recompress
    from h5ingest.reading.store import ImageStore

__all__ = [
    "ExportOptions", "ImageStore", "IngestOptions", "__version__", "export", "extend", "ingest",
    "recompress", "verify",
]  # fmt: skip

_MODULES = {
    "ExportOptions": "h5ingest.exports.options",
    "ImageStore": "h5ingest.reading.store",
    "IngestOptions": "h5ingest.core.options",
    "export": "h5ingest.exports.run",
    "extend": "h5ingest.pipeline.extend",
    "ingest": "h5ingest.pipeline.run",
    "recompress": "h5ingest.pipeline.run",
    "verify": "h5ingest.inspect.verify",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command must not wait for what it does not need."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return also what is not imported yet."""
    return sorted({*globals(), *__all__})
