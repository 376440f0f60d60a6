"""What decides the layout is exact for any number of kinds of images, on any number of ranks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.support import write_manifest, write_png
from helpers.threads import on_ranks
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from h5ingest.cli.summary import summary
from h5ingest.core.census import KIND, censuses, count, merge, of_group, spec_of
from h5ingest.core.errors import SamplesFailedError
from h5ingest.core.options import IngestOptions
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.report import IngestReport
from h5ingest.pipeline.run import ingest

MANY = 1500
"""More kinds than were told to root before: 1,000 a rank."""


# --- the arrays --------------------------------------------------------------------------------

Row = tuple[int, int, int, int, int]
ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3), st.integers(1, 4),
              st.integers(1, 2)),
    max_size=60,
)  # fmt: skip
"""Images: group, height (0: unreadable), width, channels, bytes a value."""


def kinds_of(rows: list[Row], first: int) -> NDArray[np.void]:
    table = np.array(rows, np.int32).reshape(-1, 5)
    table[table[:, 1] == 0, 1:] = 0
    return count(table[:, 0], table[:, 1:], first)


@given(ROWS, st.lists(st.integers(0, 60), max_size=4))
def test_kinds_add_up_however_the_images_are_shared_out(rows: list[Row], cuts: list[int]) -> None:
    ends = sorted(min(at, len(rows)) for at in cuts)
    shares = zip([0, *ends], [*ends, len(rows)], strict=True)
    parts = [kinds_of(rows[start:stop], start) for start, stop in shares]
    whole = merge(parts[::-1])
    np.testing.assert_array_equal(whole, kinds_of(rows, 0))
    readable = [(row, i) for i, row in enumerate(rows) if row[1]]
    counts = Counter(row for row, _ in readable)
    assert {kind[:5]: kind[5] for kind in whole.tolist()} == counts
    for *kind, _, first in whole.tolist():
        assert first == min(i for row, i in readable if row == tuple(kind))


@given(ROWS)
def test_a_census_is_what_counting_by_hand_finds(rows: list[Row]) -> None:
    kinds = kinds_of(rows, 0)
    for group, census in enumerate(censuses(kinds, 4)):
        mine = [row for row in rows if row[0] == group and row[1]]
        assert (census is None) == (not mine)
        if census is None:
            continue
        sizes = Counter((h, w) for _, h, w, _, _ in mine)
        assert census.n_sizes == len(sizes)
        assert census.commonest == max(sizes, key=lambda size: (sizes[size], size))
        for found, of in ((census.smallest, min), (census.largest, max)):
            assert found == (of(h for h, _ in sizes), of(w for _, w in sizes))
        assert census.channels == {channels for *_, channels, _ in mine}
        assert census.dtypes == {f"uint{8 * n_bytes}" for *_, n_bytes in mine}
        shown = of_group(kinds, group)
        assert sorted(shown["count"].tolist(), reverse=True) == shown["count"].tolist()
        assert {(s.height, s.width, s.channels) for s in map(spec_of, shown)} == {
            row[1:4] for row in mine
        }


def test_a_kind_takes_few_bytes() -> None:
    assert KIND.itemsize == 30


# --- whole jobs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 images, no two of a size; the largest beyond the first thousand."""
    folder = tmp_path_factory.mktemp("sizes")
    shapes = [(1 + k % 50, 1 + k // 50) for k in range(MANY)]  # the last: 50x30
    names = [f"{k:04}.png" for k in range(MANY)]
    for name, shape in zip(names, shapes, strict=True):
        write_png(folder / name, np.zeros(shape, np.uint8))
    return write_manifest(folder / "m.txt", names)


def dry(manifest: Path, n_ranks: int, **options: Any) -> IngestReport:
    """What a job on so many ranks would do; on all of them alike."""
    wanted = IngestOptions(dry_run=True, cache_bytes=0, **options)
    out = manifest.parent / "out.h5"
    if n_ranks == 1:
        return ingest(manifest, out, wanted, SerialComm())
    return on_ranks(n_ranks, lambda comm: ingest(manifest, out, wanted, comm))[0]


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_every_group_counts_for_its_own_layout(n_ranks: int, tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((6, 7), np.uint8))
    rows = [("path", "cls"), *(("a.png", group) for group in range(MANY))]
    report = dry(write_manifest(tmp_path / "m.csv", rows), n_ranks, group_by="cls")
    assert report.image == "images of 6x7 gray uint8"
    assert report.bytes_images == MANY * 42


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_every_size_counts(n_ranks: int, sizes: Path) -> None:
    report = dry(sizes, n_ranks, fit="resize")
    assert report.image == "images of 50x30 gray uint8"
    assert report.conversions == (
        f"{MANY - 1:,} images of {MANY - 1:,} sizes from gray uint8 to 50x30 gray uint8",
    )
    report = dry(sizes, n_ranks, layout="ragged", channels="rgb", dtype="uint16")
    assert report.conversions == (
        f"{MANY:,} images of {MANY:,} sizes from gray uint8 to RGB uint16",
    )


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_a_message_counts_all_kinds_and_names_the_first_images(n_ranks: int, sizes: Path) -> None:
    with pytest.raises(SamplesFailedError) as caught:
        dry(sizes, n_ranks)
    message = str(caught.value)
    assert f"{MANY:,} sizes are mixed. Choose one of:\n" in message
    assert "\n    --fit pad                keeps every pixel, pads to 50x30" in message
    assert max(map(len, message[message.index("- ") :].splitlines())) <= 80
    assert f"… and {MANY - 10:,} kinds more" in message
    paths = sizes.read_text().splitlines()
    for sample in range(10):
        line = f"  1 x {sample + 1}x1 gray uint8 (first: line {sample + 1}: {paths[sample]})"
        assert line in message.splitlines()


def test_a_message_shows_ten_groups_and_counts_the_rest(sizes: Path) -> None:
    paths = sizes.read_text().splitlines()
    rows = [("path", "cls"), *((path, f"{k % 14:02}") for k, path in enumerate(paths[:28]))]
    manifest = write_manifest(sizes.parent / "g.csv", rows)
    with pytest.raises(SamplesFailedError) as caught:
        dry(manifest, 2, group_by="cls")
    message = str(caught.value)
    assert message.count("the images do not fit together") == 10
    assert "group '09': " in message
    assert message.endswith("… and 4 groups more whose images do not fit together")


def test_the_summary_counts_all_conversions_in_one_line(sizes: Path) -> None:
    paths = sizes.read_text().splitlines()
    # group k: two images of each size, and one of the next
    rows = [(paths[k + more], f"{k:02}") for k in range(13) for more in (0, 0, 1)]
    manifest = write_manifest(sizes.parent / "c.csv", [("path", "cls"), *rows])
    report = dry(manifest, 1, group_by="cls", fit="resize")
    assert len(report.conversions) == 13
    assert "2 images from 1x1 gray uint8 to 2x1 gray uint8" in report.conversions
    changed = "26 of 39 images, of 13 sizes, were resized to the size of their group"
    assert report.changes == (changed,)
    assert f"converted  {changed}\n" in summary(report)
    assert summary(report, verbose=True).count(" images from ") == 13
    assert "changes" not in report.to_json()
