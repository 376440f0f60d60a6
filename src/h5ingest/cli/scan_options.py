"""What is asked of what is found in folders and archives: from options to `ScanOptions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import typer

from h5ingest.core.errors import UsageError

if TYPE_CHECKING:
    from h5ingest.images.scan import ScanOptions

_FOUND: Final[Mapping[str, Any]] = {
    "label": "parent", "label_from": None, "group_level": None, "sniff": True, "hidden": False,
    "sort": "name", "split": None, "seed": 0, "stratify": None, "keep_together": None,
}  # fmt: skip
"""Options of `ScanOptions` that have to do with what is found, by default."""
_FLAGS: Final = {
    **{name: f"--{name.replace('_', '-')}" for name in _FOUND},
    "group_level": "--group-by-folder",
    "sniff": "--no-sniff",
}


def scan_options(asked: Mapping[str, Any], **more: Any) -> ScanOptions | None:
    """Return what is asked for; None: nothing.

    Raises:
        typer.BadParameter: it cannot be.
    """
    if asked == _FOUND and not any(more.values()):
        return None
    from h5ingest.images.scan import ScanOptions  # few jobs scan a folder

    try:
        if asked["split"] is not None:
            from h5ingest.images.arrangement import Split

            Split.parse(asked["split"])
        return ScanOptions(**asked, **more)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None


def flags_of(asked: Mapping[str, Any]) -> str:
    """Return the flags of what is asked for."""
    return ", ".join(_FLAGS[name] for name, value in asked.items() if value != _FOUND[name])
