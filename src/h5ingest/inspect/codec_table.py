"""What `h5ingest codecs` found, as a value; which codec to choose; a table and a picture of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from h5ingest.core.errors import Failure, OutputError, SetupError
from h5ingest.core.outfiles import PICTURE, PNG_TEXT, write
from h5ingest.core.units import size
from h5ingest.storage.auto_codec import AutoCodec

DISK_MB_S: Final = 100.0
"""What `balanced` takes a shared disk to deliver to one of many processes."""
READS_PER_WRITE: Final = 10
"""How often `balanced` assumes that a file is read."""
WORTHWHILE: Final = 0.95
"""Of raw: what `fastest_to_read` may take at most."""

NO_MATPLOTLIB: Final = "--plot needs the package matplotlib: pip install 'h5ingest[plot]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one codec made of the sample; every pixel was compared."""

    codec: str
    """As `--compression` takes it; `none` for raw pixels."""
    shuffle: bool
    """Whether with `--shuffle`."""
    n_bytes: int
    """Bytes of all chunks in the file."""
    of_files: float
    """Bytes relative to the image files."""
    of_raw: float
    """Bytes relative to the pixels."""
    write_mb_s: float
    """10^6 bytes of pixels compressed and written in a second; median."""
    read_mb_s: float
    """10^6 bytes of pixels read and decompressed in a second; median."""
    n_runs: int
    """Runs that the medians are of: 3; more of a quick codec, fewer of a slow one."""

    @property
    def label(self) -> str:
        """The options to type."""
        return self.codec + " --shuffle" * self.shuffle

    @property
    def balance_s(self) -> float:
        """Seconds for 10^6 bytes of pixels to be written once and read ten times.

        Through a disk that moves `DISK_MB_S`: what is small, and what is quick, both count.
        """
        disk_s = self.of_raw / DISK_MB_S
        return 1 / self.write_mb_s + disk_s + READS_PER_WRITE * (1 / self.read_mb_s + disk_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecReport:
    """All codecs on one sample."""

    manifest: str
    """Its path."""
    n_images: int
    """In the manifest."""
    n_sampled: int
    """Measured."""
    images: tuple[str, ...]
    """Their sizes and types, in words."""
    bytes_files: int
    """Bytes of the sampled image files."""
    bytes_raw: int
    """Bytes of their pixels."""
    libraries: dict[str, str]
    """Versions."""
    measured: tuple[Measured, ...]
    """In the order of `CODECS`."""
    missing: tuple[str, ...] = ()
    """Codecs that this HDF5 cannot write."""
    auto: AutoCodec | None = None
    """What `--compression auto` chooses for the manifest."""
    failures: tuple[Failure, ...] = ()
    """Sampled images that could not be read."""

    def images_per_s(self, mb_s: float) -> float:
        """Return how many of these images so many 10^6 bytes of pixels a second are."""
        return mb_s * 1e6 * self.n_sampled / self.bytes_raw

    @property
    def smallest(self) -> Measured:
        """Fewest bytes."""
        return min(self.measured, key=lambda m: m.n_bytes)

    @property
    def fastest_to_read(self) -> Measured:
        """Most pixels a second, of those that save at least a twentieth; raw if none does."""
        worthwhile = [m for m in self.measured if m.of_raw <= WORTHWHILE]
        return max(worthwhile or self.measured, key=lambda m: m.read_mb_s)

    @property
    def balanced(self) -> Measured:
        """Least `balance_s`."""
        return min(self.measured, key=lambda m: m.balance_s)

    def to_json(self) -> dict[str, object]:
        """Return all fields, and the recommendations, as plain values."""
        return {
            **asdict(self),
            **{name.replace(" ", "_"): m.label for name, m in recommendations(self).items()},
            "balanced_is": {"disk_mb_s": DISK_MB_S, "reads_per_write": READS_PER_WRITE},
        }


def print_table(report: CodecReport) -> None:
    """Print all codecs, the smallest first, and what to choose."""
    marks = _marks(report)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("--compression")
    for column in ("of files", "of raw", "write MB/s", "images/s", "read MB/s", "images/s"):
        table.add_column(column, justify="right")
    table.add_column("")
    for m in sorted(report.measured, key=lambda m: m.n_bytes):
        table.add_row(
            m.label,
            f"{m.of_files:.2f}",
            f"{m.of_raw:.2f}",
            *(
                text
                for mb_s in (m.write_mb_s, m.read_mb_s)
                for text in (
                    f"{mb_s:,.0f}" if mb_s >= 10 else f"{mb_s:.1f}",
                    f"{report.images_per_s(mb_s):,.0f}",
                )
            ),
            marks.get(m.label, ""),
            style="bold" if m.label in marks else None,
        )
    # Not the terminal's width, as in the report of an ingest: nothing may be cut in a log.
    console = Console(width=200, highlight=False, markup=False)
    console.print(
        f"{report.n_sampled:,} of {report.n_images:,} images ({', '.join(report.images[:3])}"
        f"{', ...' if len(report.images) > 3 else ''}): {size(report.bytes_raw)} of "
        f"pixels from {size(report.bytes_files)} of files"
    )
    if report.failures:
        console.print(f"{len(report.failures):,} could not be read and are left out")
    console.print()
    console.print(table)
    console.print()
    console.print(
        f"Every pixel was compared. Speeds are of one process, in pixels, from the system's "
        f"cache.\n"
        f"fastest to read: of those that save a twentieth of raw. balanced: least time to write "
        f"once and\nread {READS_PER_WRITE} times through a disk that moves {DISK_MB_S:.0f} MB/s."
    )
    if report.auto is not None:
        console.print(
            f"--compression auto takes {report.auto}:\nthe smallest of some that decode as fast "
            f"as PNG (docs/codecs.md); images of one size and kind are taken to be a dataset."
        )
    if report.missing:
        console.print(f"not in this HDF5: {', '.join(dict.fromkeys(report.missing))}")


def recommendations(report: CodecReport) -> dict[str, Measured]:
    """Return which codec to choose, by what one wants."""
    return {
        "smallest": report.smallest,
        "fastest to read": report.fastest_to_read,
        "balanced": report.balanced,
    }


def _marks(report: CodecReport) -> dict[str, str]:
    """Return label -> what it is the choice for."""
    marks: dict[str, str] = {}
    for mark, m in recommendations(report).items():
        marks[m.label] = f"{marks[m.label]}, {mark}" if m.label in marks else mark
    return marks


def require_matplotlib() -> None:
    """Raise `SetupError` if what `draw` needs is not installed."""
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ImportError:
        raise SetupError(NO_MATPLOTLIB) from None


def draw(report: CodecReport, path: Path) -> None:
    """Draw size against read speed: down is small, right is fast.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    families = list(dict.fromkeys(m.codec.partition(":")[0] for m in report.measured))
    chosen = _marks(report)
    for m in report.measured:
        colour = f"C{families.index(m.codec.partition(':')[0]) % 10}"
        axes.plot(m.read_mb_s, m.of_files, "o", color=colour, markersize=8, markeredgecolor="white")
        if m.label in chosen:
            axes.plot(m.read_mb_s, m.of_files, "o", color="black", markersize=15, fillstyle="none")
    axes.axhline(1, color="0.5", linewidth=1, linestyle="--", zorder=0)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.1)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.grid(color="0.92", which="both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("read speed, MB of pixels a second (one process, from cache)")
    axes.set_ylabel("size relative to the image files")
    axes.set_title(
        f"{report.n_sampled:,} images of {Path(report.manifest).name}: {report.images[0]}"
        f"{' and others' if len(report.images) > 1 else ''}",
        loc="left",
    )
    axes.annotate(
        "the image files themselves", (0.995, 1), xycoords=("axes fraction", "data"),
        xytext=(0, 3), textcoords="offset points", ha="right", color="0.4", fontsize=8,
    )  # fmt: skip
    texts = {
        m: m.label if m.label not in chosen else f"{m.label} ({chosen[m.label]})"
        for m in report.measured
    }
    _label(figure, axes, texts)
    format_ = path.suffix[1:].lower() or "png"
    try:
        write(
            path,
            lambda file: figure.savefig(
                file, format=format_, metadata=PNG_TEXT if format_ == "png" else None
            ),
            PICTURE,
        )
    except (OutputError, ValueError) as error:  # ValueError: a format that it does not know
        raise OutputError(f"--plot {error}") from None


def _label(figure: Any, axes: Any, texts: dict[Measured, str]) -> None:
    """Write a label beside each point, where it covers the least of the others."""
    from matplotlib.transforms import Bbox

    def cost(place: int, box: Any, own: Any) -> float:
        """Prefer the first places, inside of the frame, away from points and earlier labels."""
        common = [Bbox.intersection(box, other) for other in taken if other is not own]
        inside = frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)
        covered = sum(part.width * part.height for part in common if part is not None)
        return place * 5.0 + covered + (0.0 if inside else 1e6)

    figure.draw_without_rendering()  # the places are known only now
    points = [axes.transData.transform((m.read_mb_s, m.of_files)) for m in texts]
    taken = [Bbox.from_extents(x - 10, y - 10, x + 10, y + 10) for x, y in points]
    frame = axes.get_window_extent()
    for (m, text), own in zip(texts.items(), list(taken), strict=True):
        ring = 1.0 if text == m.label else 1.6
        labels = [
            axes.annotate(
                text, (m.read_mb_s, m.of_files),
                xytext=(dx * ring, dy * ring), textcoords="offset points",
                ha="left" if dx > 0 else "right" if dx < 0 else "center", va="center",
                fontsize=7.5, fontweight="bold" if text != m.label else "normal",
            )
            for dx, dy in _PLACES
        ]  # fmt: skip
        boxes = [label.get_window_extent() for label in labels]
        best = min(range(len(boxes)), key=lambda place: cost(place, boxes[place], own))
        taken.append(boxes[best])
        for label in labels[:best] + labels[best + 1 :]:
            label.remove()


_PLACES: Final = (
    (8, 0), (-8, 0), (0, 10), (0, -10), (8, 9), (8, -9), (-8, 9), (-8, -9), (8, 18), (8, -18),
    (-8, 18), (-8, -18), (0, 20), (0, -20), (14, 27), (14, -27), (-14, 27), (-14, -27),
)  # fmt: skip
"""Where a label may stand, in points from its own: the first are preferred."""
