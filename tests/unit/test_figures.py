"""The pictures of the benchmarks: what can be said of them without looking."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")

from h5ingest.bench import figures, storage_figures
from h5ingest.bench.backends import LmdbFiles, LmdbRaw, PngFolder
from h5ingest.bench.hdf5 import DatasetPerImage, Ingested, Stacked
from h5ingest.bench.measure import Spread
from h5ingest.bench.report import describe
from h5ingest.bench.storage_report import Reference, Result, StorageReport

BACKENDS = describe(
    [PngFolder(), LmdbRaw(), LmdbFiles(), DatasetPerImage(), Stacked(),
     Ingested(None, uniform=True), Ingested("zstd:3", uniform=True)]
)  # fmt: skip
DEUTERANOPE = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
PROTANOPE = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
"""What people see who lack a pigment: Machado, Oliveira and Fernandes, 2009; of linear RGB."""


def spread(median: float) -> Spread:
    return Spread((median * 0.7, median, median * 1.4))


@pytest.fixture(scope="module")
def report() -> StorageReport:
    """Of 100,000 images, with times as they may be."""
    counts, results = (1, 100, 100_000), []
    for n, (place, backend) in itertools.product(counts, enumerate(BACKENDS)):
        times = {
            "store": n * 1e-5 * (place + 1), "store_durable": n * 2e-5, "one_warm": 1e-4 * 4**place,
            "read_warm": n * 1e-6, "read_cold": n * 1e-4 / (place + 1), "one_cold": 2e-4,
        }  # fmt: skip
        results.append(Result(
            backend=backend.key, n=n, n_bytes=4096 + n * 1000 // (place + 1),
            n_inodes=n + 2 if backend.key == "png" else 1, resident_when_cold=0.0,
            **{name: spread(value) for name, value in times.items()},
        ))  # fmt: skip
    return StorageReport(
        manifest="m.csv", n_images=counts[-1], images="28x28 gray uint8", counts=counts, dropped=(),
        n_runs=3, machine={}, load=(0.0, 0.0), backends=BACKENDS, left_out=(),
        results=tuple(results), references=(
            Reference(n=counts[-1], pixel_bytes=78_400_000, file_bytes=30_000_000),
        ), decode_imageio=spread(1.0), decode_fast=spread(1.0), n_compared=1,
    )  # fmt: skip


def drawn(figure: Any) -> Any:
    """The figure, with everything in its place."""
    assert figures.to_png(figure).startswith(b"\x89PNG")
    return figure


def overlap(texts: list[Any]) -> list[tuple[str, str]]:
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    pairs = itertools.combinations(boxes, 2)
    return [(one, other) for (one, a), (other, b) in pairs if a.overlaps(b)]


def test_what_is_drawn_on_a_logarithmic_axis_has_no_arbitrary_beginning(
    report: StorageReport,
) -> None:
    for figure in (storage_figures._one(report), storage_figures._disk(report)):
        for axes in figure.axes:
            assert (axes.get_xscale() == "log") == (not axes.patches), "bars begin at 0"
    assert len(storage_figures._disk(report).axes[0].patches) == len(BACKENDS)
    assert storage_figures._disk(report).axes[0].get_xlim()[0] == 0


def test_panels_that_are_compared_share_their_axes(report: StorageReport) -> None:
    one = drawn(storage_figures._one(report))
    assert len({axes.get_xlim() for axes in one.axes}) == 1
    low, high = one.axes[0].get_xlim()
    assert low < 0.7e-4
    assert high > 1.4e-4 * 4**6
    read = drawn(storage_figures._read(report))
    for column in range(2):
        above, below = read.axes[column], read.axes[2 + column]
        assert (above.get_xlim(), above.get_ylim()) == (below.get_xlim(), below.get_ylim())
        assert below.get_ylim()[1] >= 1.4 * 10.0, "the longest is in sight"


def test_nothing_runs_into_anything_else(report: StorageReport) -> None:
    disk, one = drawn(storage_figures._disk(report)), drawn(storage_figures._one(report))
    for axes in (*disk.axes, *one.axes):
        low, high = axes.get_xlim()
        ticks = [
            label for label, at in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)
            if low <= at <= high
        ]  # fmt: skip
        assert overlap(ticks) == []
        assert overlap(list(axes.texts)) == []
    assert "100k" in [label.get_text() for label in disk.axes[1].get_xticklabels()]


def test_every_line_is_named(report: StorageReport) -> None:
    (legend,) = storage_figures._disk(report).legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == ["the pixels: 74.8 MiB", "the image files: 28.6 MiB"]


@pytest.mark.parametrize("seen", [np.eye(3), DEUTERANOPE, PROTANOPE], ids=["all", "deuter", "prot"])
def test_colours_of_one_picture_are_told_apart(seen: NDArray[np.float64]) -> None:
    colours = {}
    for backend in BACKENDS:
        code = figures.colour(backend.key).removeprefix("#")
        values = np.array([int(code[at : at + 2], 16) for at in (0, 2, 4)]) / 255
        linear = np.clip(seen @ values**2.2, 0, 1)
        colours[backend.key] = linear ** (1 / 2.2)
    for one, other in itertools.combinations(colours, 2):
        assert np.abs(colours[one] - colours[other]).max() > 0.1, (one, other)
