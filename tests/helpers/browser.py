"""Chromium, without a window: what it makes of a page."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from helpers.support import explain, run


def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    if platform.freedesktop_os_release().get("ID") == "debian":
        pytest.fail("chromium is missing: run make test", pytrace=False)
    pytest.skip("no Chromium here (make test installs it on Debian)")


def browse(page: Path, profile: Path, *arguments: str) -> str:
    """Return what Chromium prints of a page.

    Args:
        page: the file.
        profile: folder for what it remembers.
        arguments: more, such as `--dump-dom`.
    """
    completed = run(
        [
            chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
            f"--user-data-dir={profile}", *arguments, page.as_uri(),
        ],
    )  # fmt: skip
    assert completed.returncode == 0, explain(completed)
    return completed.stdout
