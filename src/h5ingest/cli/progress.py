"""What rank 0 shows while the ranks work: a bar on a terminal, else a line every 10 s."""

from __future__ import annotations

import time
from typing import Any, Final, TextIO

from h5ingest.core.units import size
from h5ingest.pipeline.job import ProgressListener

LINE_EVERY_S: Final = 10.0
_SAID: Final = {
    "look": "sampling headers", "probe": "reading headers", "store": "storing",
    "verify": "checking", "recode": "recoding", "export": "exporting",
}  # fmt: skip
"""Phase -> what is done in it, in words."""


class LineProgress(ProgressListener):
    """One line a phase, and one every 10 s: for log files."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self._stream = stream
        self._phase, self._n_images = "", 0
        self._started_s = self._next_s = 0.0
        self._finished = False
        """Whether the last line of the phase is printed; the same sums may still come again."""

    def phase(self, name: str, n_images: int) -> None:
        self._phase, self._n_images = _SAID.get(name, name), n_images
        self._started_s = time.monotonic()
        self._next_s = self._started_s + LINE_EVERY_S
        self._finished = False

    def advance(self, n_images: int, n_bytes: int, n_failed: int) -> None:
        now_s = time.monotonic()
        finished = n_images == self._n_images
        if self._finished or (now_s < self._next_s and not finished):
            return
        self._finished, self._next_s = finished, now_s + LINE_EVERY_S
        seconds = max(now_s - self._started_s, 1e-6)
        rate = n_images / seconds
        left = (
            f", {(self._n_images - n_images) / rate:,.0f} s left" if rate and not finished else ""
        )
        volume = f", {size(n_bytes / seconds)}/s" if n_bytes else ""
        failed = f", {n_failed:,} failed" if n_failed else ""
        share = f" ({n_images / self._n_images:.0%})" if self._n_images else ""
        print(
            f"{self._phase}: {n_images:,} of {self._n_images:,} images{share}, "
            f"{rate:,.0f} images/s{volume}{left}{failed}",
            file=self._stream,
            flush=True,
        )

    def notice(self, text: str) -> None:
        print(f"h5ingest: {text}", file=self._stream, flush=True)

    def close(self) -> None:
        """Do nothing: each line is complete."""


class BarProgress(ProgressListener):
    """A live bar, one for all phases: for terminals."""

    def __init__(self, stream: TextIO) -> None:
        """Draw on `stream`."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=Console(file=stream),
        )
        self._bar.start()
        self._task: Any = None
        self._started_s = 0.0

    def phase(self, name: str, n_images: int) -> None:
        what = _SAID.get(name, name)
        if self._task is None:
            self._task = self._bar.add_task(what, total=n_images, rate="")
        else:
            self._bar.reset(self._task, total=n_images, description=what, rate="")
        self._started_s = time.monotonic()

    def advance(self, n_images: int, n_bytes: int, n_failed: int) -> None:
        seconds = max(time.monotonic() - self._started_s, 1e-6)
        rate = f"{n_images / seconds:,.0f} images/s"
        if n_bytes:
            rate += f", {size(n_bytes / seconds)}/s"
        if n_failed:
            rate += f", [red]{n_failed:,} failed[/red]"
        self._bar.update(self._task, completed=n_images, rate=rate)

    def notice(self, text: str) -> None:
        self._bar.console.print(f"h5ingest: {text}", markup=False, highlight=False)

    def close(self) -> None:
        """Stop drawing; the last state of the bar stays on the terminal, as one line."""
        self._bar.stop()


def start(mode: str, stream: TextIO) -> LineProgress | BarProgress | None:
    """Return what shows the progress on `stream`; `mode` is auto, bar, line or off."""
    if mode == "auto":
        mode = "bar" if stream.isatty() else "line"
    if mode == "off":
        return None
    return BarProgress(stream) if mode == "bar" else LineProgress(stream)
