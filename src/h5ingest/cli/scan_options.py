"""What is asked of what is found in folders and archives: from options to `ScanOptions`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from h5ingest.cli import option_types as opt
from h5ingest.cli.ingest_options import raising_bad_parameter

if TYPE_CHECKING:
    from h5ingest.images.scan import ScanOptions

_FOUND: Final = {
    name: declared.default for name, declared in inspect.signature(opt.found).parameters.items()
}
"""What is asked by default."""
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

    with raising_bad_parameter():
        if asked["split"] is not None:
            from h5ingest.images.arrangement import Split

            Split.parse(asked["split"])
        return ScanOptions(**asked, **more)


def flags_of(asked: Mapping[str, Any]) -> str:
    """Return the flags of what is asked for."""
    return ", ".join(_FLAGS[name] for name, value in asked.items() if value != _FOUND[name])
