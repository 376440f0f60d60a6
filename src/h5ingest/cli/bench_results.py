"""What `h5ingest bench` needs before it measures, and the files that it leaves."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Final

from h5ingest.cli.messages import write_json
from h5ingest.core.errors import OutputError, SetupError
from h5ingest.core.outfiles import PAGE, PICTURE, RESULTS, check, write

_KINDS: Final = {".json": RESULTS, ".html": PAGE, ".png": PICTURE}


def require_packages(*names: str) -> None:
    """Raise `SetupError` if what only benchmarks need is missing, before any work is done."""
    missing = []
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise SetupError(
            f"h5ingest bench needs the package{'s' * (len(missing) > 1)} {', '.join(missing)}: "
            f"pip install 'h5ingest[bench]'"
        )


def make_folder(folder: Path, *names: str) -> None:
    """Make the folder of the results, and check that files of these names may be written there.

    Raises:
        OutputError: they may not, or there is no folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("results.json", *names):
            check(folder / name, _KINDS[Path(name).suffix])
    except OSError as error:
        raise OutputError(f"--out {folder}: {error.strerror or error}") from None


def publish(folder: Path, results: dict[str, object], files: dict[str, bytes]) -> None:
    """Write results.json and the other files, each completely or not at all, and print where.

    Raises:
        OutputError: one cannot be written.
    """
    write_json("--out", folder / "results.json", results)
    for name, content in files.items():
        write(folder / name, content, _KINDS[Path(name).suffix])
    print()
    for name in ("results.json", *files):
        print(folder / name)
