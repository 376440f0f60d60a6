"""Real images in every layout, compared with what pypng and Pillow make of the same files."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import png
import pytest
from helpers.layout_runs import ingest_on, launch
from helpers.oracle import Sample, Wanted, assert_holds, channels_of, expected, write_samples
from helpers.support import Flavour, read_file, reference_pixels, spread
from numpy.typing import NDArray
from PIL import Image

from h5ingest.core.options import IngestOptions

Pixels = NDArray[Any]

SAMPLED = {
    "pngsuite": 200, "scikit_image": 50, "omniglot": 60, "davis_palette": 7, "depth16_open3d": 20,
    "emoji32": 40, "kodak": 6, "mnist": 70,
}  # fmt: skip
"""Corpus -> about how many files are taken."""
MOST_PIXELS = 700_000
FEW_PIXELS = 20_000
"""That pypng, which is pure Python, decodes quickly."""
MASKS = ("omniglot", "davis_palette", "pngsuite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    corpus: str
    layout: str
    raw: bool

    @property
    def name(self) -> str:
        return f"{self.corpus}-{self.layout}{'-raw' * self.raw}"


CASES = [
    Case(corpus=corpus, layout=layout, raw=raw)
    for corpus in SAMPLED
    for layout in ("stack", "ragged", "tree", "encoded")
    for raw in (False, True)
    if not raw or (layout != "encoded" and corpus in MASKS)
]


def header(file: Path) -> tuple[int, int, int, int]:
    """Height, width, depth, colour type."""
    data = file.read_bytes()[:29]
    return int.from_bytes(data[20:24]), int.from_bytes(data[16:20]), data[24], data[25]


def chosen(corpora: Path, corpus: str) -> list[Path]:
    """Files of a corpus; those that it calls corrupt are left out."""
    files = sorted(f for f in (corpora / corpus).rglob("*.png"))
    if corpus == "pngsuite":
        files = [file for file in files if file.name[0] != "x"]
    if corpus == "kodak":  # both orientations
        upright = [file for file in files if header(file)[:2] == (768, 512)]
        files = [*spread(files, SAMPLED[corpus]), *upright[:2]]
        assert {header(file)[:2] for file in files} == {(768, 512), (512, 768)}
        return sorted(set(files))
    return [
        file for file in spread(files, SAMPLED[corpus]) if np.prod(header(file)[:2]) <= MOST_PIXELS
    ]


def by_pillow(file: Path) -> Pixels:
    """For what Pillow keeps: 8 bits, and gray of 16."""
    with Image.open(file) as image:
        if image.mode == "P":
            mode = "RGBA" if "transparency" in image.info else "RGB"
            return np.asarray(image.convert(mode))
        assert image.mode in ("L", "LA", "RGB", "RGBA", "I;16")
        if "transparency" in image.info:
            return np.asarray(image.convert({"L": "LA", "RGB": "RGBA"}[image.mode]))
        return np.asarray(image)


def truth(file: Path) -> Pixels:
    """By pypng if the image is small, else by Pillow; by both if Pillow keeps all."""
    height, width, depth, colour = header(file)
    transparent = b"tRNS" in file.read_bytes()[:4096]
    kept = depth == 8 or (depth == 16 and colour == 0 and not transparent)
    small = height * width <= FEW_PIXELS
    if small or not kept:
        pixels = reference_pixels(file)
        if kept:
            np.testing.assert_array_equal(pixels, by_pillow(file), str(file))
        return pixels
    return by_pillow(file)


def raw_truth(file: Path) -> Pixels:
    """Indices of palettes and unscaled gray; other images as they are."""
    height, width, depth, colour = header(file)
    if colour != 3 and not (colour == 0 and depth < 8):
        return truth(file)
    if depth == 8 and height * width > FEW_PIXELS:
        with Image.open(file) as image:
            assert image.mode == "P"
            return np.asarray(image)
    rows = png.Reader(bytes=file.read_bytes()).read()[2]
    return np.array([list(row) for row in rows], np.uint8)


def described(corpora: Path, corpus: str) -> dict[str, dict[str, str]]:
    """Path -> what the corpus itself says of the file."""
    table = corpora / corpus / "reference.csv"
    if not table.exists():
        return {}
    with table.open(newline="") as stream:
        return {row["path"]: row for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def samples(corpora: Path) -> dict[tuple[str, bool], list[Sample]]:
    """(corpus, raw) -> samples, in groups of equal size and depth."""
    found: dict[tuple[str, bool], list[Sample]] = {}
    for corpus in SAMPLED:
        about = described(corpora, corpus)
        files = chosen(corpora, corpus)
        assert len(files) >= 5
        for raw in (False, True) if corpus in MASKS else (False,):
            every = []
            for file in files:
                pixels = raw_truth(file) if raw else truth(file)
                path = str(file.relative_to(corpora / corpus))
                row, (height, width, depth, _) = about.get(path, {}), header(file)
                same = row.get("raw_planes") == str(channels_of(pixels)) and (raw or depth >= 8)
                if row.get("raw_status") == "ok" and same:
                    little = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
                    assert hashlib.sha256(little).hexdigest() == row["raw_sha256"], path
                every.append(
                    Sample(
                        path=path, data=file.read_bytes(), pixels=pixels, label="x",
                        group=f"{height}x{width} {pixels.dtype}",
                    )
                )  # fmt: skip
            found[corpus, raw] = every
    return found


def wanted_for(case: Case, every: list[Sample]) -> Wanted:
    wanted = Wanted(layout=case.layout, raw=case.raw, grouped=case.layout == "stack")
    depths = {one.pixels.dtype for one in every if one.pixels is not None}
    if case.layout == "ragged" and len(depths) > 1:
        wanted.dtype = "uint16"
    return wanted


def options_for(wanted: Wanted) -> dict[str, Any]:
    return {
        "layout": wanted.layout, "dtype": wanted.dtype, "overwrite": True,
        "group_by": "group" if wanted.grouped else None,
        "samples": "raw" if wanted.raw else "scaled",
        "compression": None if wanted.layout == "encoded" else "zstd:1",
    }  # fmt: skip


@pytest.mark.long
def test_all_corpora_are_exact_in_every_layout_on_one_and_three_ranks(
    samples: dict[tuple[str, bool], list[Sample]], mpich: Flavour, tmp_path: Path
) -> None:
    told, manifests = [], {}
    for key, every in samples.items():
        folder = tmp_path / f"{key[0]}-{key[1]}"
        folder.mkdir()
        manifests[key] = write_samples(folder, every)
    for case in CASES:
        key = case.corpus, case.raw
        options = options_for(wanted_for(case, samples[key]))
        out = tmp_path / f"{case.name}.h5"
        told.append({"manifest": str(manifests[key]), "out": str(out), "options": options})
    digests = []
    for n_ranks in (1, 3):
        reports = launch(mpich, n_ranks, told, tmp_path, None)
        for case, job, report in zip(CASES, told, reports, strict=True):
            every = samples[case.corpus, case.raw]
            assert report.get("losses") == [], (case, report)
            arrays = expected(every, wanted_for(case, every))
            assert_holds(read_file(Path(str(job["out"]))), arrays)
        digests.append([report["digest"] for report in reports])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("fit", ["pad", "crop", "resize"])
def test_photographs_of_two_orientations_in_one_stack(
    samples: dict[tuple[str, bool], list[Sample]], fit: str, tmp_path: Path
) -> None:
    every = samples["kodak", False]
    manifest, out = write_samples(tmp_path, every), tmp_path / "out.h5"
    size = (512, 512) if fit == "crop" else None
    ingest_on(3, manifest, out, IngestOptions(fit=fit, size=size))
    arrays = expected(every, Wanted(fit=fit, size=size))
    assert arrays["images"].shape[1:] == ((512, 512, 3) if fit == "crop" else (768, 768, 3))
    assert_holds(read_file(out), arrays)


@pytest.mark.parametrize("layout", ["stack", "ragged", "tree", "encoded"])
def test_the_corrupt_files_of_the_conformance_suite_fail_and_no_others(
    samples: dict[tuple[str, bool], list[Sample]], corpora: Path, layout: str, tmp_path: Path
) -> None:
    bad = sorted((corpora / "pngsuite").rglob("x*.png"))
    assert len(bad) == 14
    good = [
        replace(one, group=f"{one.group} {one.pixels.shape[2:]}")
        for one in samples["pngsuite", False]
        if one.pixels is not None and one.pixels.dtype == np.uint8
    ]
    mixed: list[Sample] = []
    for row, one in enumerate(good):
        if row % 10 == 0 and bad:
            file = bad.pop()
            mixed.append(
                Sample(
                    path=file.name, data=file.read_bytes(), pixels=None, group=one.group, label="x"
                )
            )
        mixed.append(one)
    manifest, out = write_samples(tmp_path, mixed), tmp_path / "out.h5"
    fit = "pad" if layout == "stack" else "error"
    report = ingest_on(2, manifest, out, IngestOptions(layout=layout, on_error="blank", fit=fit))
    failing = [row for row, one in enumerate(mixed) if one.pixels is None]
    assert sorted(failure.index for failure in report.failures) == failing
    assert {failure.kind for failure in report.failures} <= {"damaged", "not an image"}
    arrays = read_file(out).arrays
    assert np.flatnonzero(arrays["status"] == 2).tolist() == failing
    ok = [row for row in range(len(mixed)) if row not in failing]
    wanted = Wanted(layout=layout, fit=fit)
    checksums = expected(mixed, wanted)["checksums"]
    np.testing.assert_array_equal(arrays["checksums"][ok], checksums[ok])
