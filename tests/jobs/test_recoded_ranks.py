"""`--recode` on many ranks: the same file, whoever codes an image and whoever stores it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.layout_runs import ingest_on, launch
from helpers.pictures import by_pillow, noise, smooth
from helpers.support import FLAVOURS, damage, write_manifest, write_png

from h5ingest import ImageStore, IngestOptions, ingest
from h5ingest.core.recoding import CODECS
from h5ingest.inspect.verify import verify

N = 30
FAILED = [4, 16]
CASES = [(codec, grouped) for codec in CODECS for grouped in (False, True)]


def options(codec: str | None, grouped: bool) -> dict[str, Any]:
    return {
        "layout": "encoded", "recode": codec, "group_by": "split" if grouped else None,
        "on_error": "blank", "batch_bytes": 1500, "cache_bytes": 4000,
    }  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of which some are coded, some keep their bytes, one is missing, one is damaged."""
    folder = tmp_path_factory.mktemp("mixed")
    rows: list[object] = [("path", "split")]
    for row in range(N):
        channels, dtype = 1 + row % 4, ("uint8", "uint16")[row // 4 % 2]
        make = noise if row % 5 == 0 else smooth
        pixels = make(5 + row, 60 - row, channels, dtype)
        name = f"{row:02}.png"
        if row % 7 == 3:
            name = f"{row:02}.jpg"
            (folder / name).write_bytes(by_pillow(smooth(90, 80 + row, 3, "uint8"), "JPEG"))
        elif row != FAILED[0]:
            write_png(folder / name, pixels)
        rows.append((name, ("a", "b", "a/c")[row % 3]))
    damage(folder / f"{FAILED[1]:02}.png")
    return write_manifest(folder / "m.csv", rows)


@pytest.fixture(scope="module")
def alone(
    manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str | None, bool], tuple[Path, str]]:
    """What one process makes: file and content digest."""
    folder = tmp_path_factory.mktemp("alone")
    found = {}
    for codec, grouped in [*CASES, (None, False), (None, True)]:
        out = folder / f"{codec}-{grouped}.h5"
        report = ingest(manifest, out, IngestOptions(**options(codec, grouped)))
        assert sorted(failure.index for failure in report.failures) == FAILED
        found[codec, grouped] = out, report.content_digest
    return found


def assert_shows_the_same(out: Path, plain: Path, *, grouped: bool) -> None:
    for group in ("a", "b", "a%2Fc") if grouped else (None,):
        with ImageStore(out, group=group) as one, ImageStore(plain, group=group) as other:
            np.testing.assert_array_equal(one.status, other.status)
            for row in np.flatnonzero(one.status == 1).tolist():
                np.testing.assert_array_equal(one[row][0], other[row][0])


@pytest.mark.parametrize("n_ranks", [2, 3, 5])
def test_ranks_make_the_file_that_one_makes(
    n_ranks: int, manifest: Path, alone: dict[Any, tuple[Path, str]], tmp_path: Path
) -> None:
    for codec, grouped in CASES:
        out = tmp_path / f"{codec}-{grouped}.h5"
        report = ingest_on(n_ranks, manifest, out, IngestOptions(**options(codec, grouped)))
        assert report.content_digest == alone[codec, grouped][1]
        assert sorted(failure.index for failure in report.failures) == FAILED
        assert_shows_the_same(out, alone[None, grouped][0], grouped=grouped)
    assert not list(tmp_path.glob("*.recoded*"))


def test_launched_ranks_make_it_too(
    manifest: Path, alone: dict[Any, tuple[Path, str]], tmp_path: Path
) -> None:
    cases = [
        {
            "manifest": str(manifest), "out": str(tmp_path / f"{codec}-{grouped}.h5"),
            "options": options(codec, grouped), "n_hosts": 2 if codec == "webp" else 1,
        }
        for codec, grouped in CASES
    ]  # fmt: skip
    reports = launch(FLAVOURS["mpich"].checked(), 3, cases, tmp_path, None)
    for (codec, grouped), case, report in zip(CASES, cases, reports, strict=True):
        assert report["digest"] == alone[codec, grouped][1]
        assert report["failed"] == FAILED
        out = Path(str(case["out"]))
        assert_shows_the_same(out, alone[None, grouped][0], grouped=grouped)
        checked = verify(out, sources=True, root=manifest.parent)
        assert not checked.problems
    assert not list(tmp_path.glob("*.recoded*"))
