"""What each layout holds, against an oracle of its own: every row, with groups, filters, ranks."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import h5py
import hdf5plugin  # noqa: F401 - lets h5py read what its filters have written
import numpy as np
import png
import pytest
from helpers.layout_runs import CHUNK_BYTES, extent_chunks, ingest_on, launch
from helpers.oracle import (
    KINDS,
    Kind,
    Sample,
    Wanted,
    assert_holds,
    encode,
    expected,
    group_path,
    write_samples,
)
from helpers.support import (
    FLAVOURS,
    WHEELS,
    Flavour,
    explain,
    read_file,
    run,
    soon,
    write_manifest,
    write_png,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from h5ingest.cli.summary import summary
from h5ingest.core import layout_kinds
from h5ingest.core.hdf5_names import group_prefix
from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest

FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip": {"compression": "gzip:1"},
    "zstd": {"compression": "zstd:3"},
    "shuffle": {"compression": "gzip:1", "shuffle": True},
}


# --- every layout, filter, group and number of ranks ---------------------------------------------


def mixed_samples() -> list[Sample]:
    """40 images of all kinds and sizes in four groups; the first, the last and others fail."""
    samples = []
    for row in range(40):
        kind = KINDS[(row * 7) % len(KINDS)]
        picture = encode(kind, 1 + (row * 5) % 17, 1 + (row * 11) % 23, seed=row)
        sample = Sample(
            path=f"{row}/im_{row % 10}.png", data=picture.data, pixels=picture.scaled,
            label=("ant", "été", "paths")[row % 3], group=("test", "train", "a/b")[row % 3],
        )  # fmt: skip
        samples.append(sample)
    for row in (0, 17, 38, 39):
        samples[row] = replace(samples[row], data=None, pixels=None)
    samples[18] = replace(samples[18], data=b"no image", pixels=None)
    for row in (5, 19, 37):  # good headers
        data = samples[row].data
        assert data is not None
        samples[row] = replace(samples[row], data=data[:-14] + b"\0\0" + data[-12:], broken=True)
    for row in (20, 21, 22):
        samples[row] = replace(samples[row], data=None, pixels=None, group="lost")
    return samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    layout: str
    filters: str
    grouped: bool

    @property
    def name(self) -> str:
        return f"{self.layout}-{self.filters}-{'grouped' if self.grouped else 'flat'}"

    @property
    def wanted(self) -> Wanted:
        wanted = Wanted(layout=self.layout, grouped=self.grouped)
        if self.layout in ("stack", "ragged"):
            wanted.dtype = "uint16"
        if self.layout == "stack":
            wanted.fit, wanted.pad_value = "pad", 7
        return wanted

    @property
    def options(self) -> dict[str, Any]:
        wanted = self.wanted
        return {
            "layout": self.layout, "group_by": "group" if self.grouped else None,
            "dtype": wanted.dtype, "fit": wanted.fit, "pad_value": wanted.pad_value,
            "chunk_rows": 3 if self.layout == "stack" else None, "batch_bytes": 1500,
            "on_error": "blank", "cache_bytes": 4000, **FILTERS[self.filters],
        }  # fmt: skip


CASES = [
    Case(layout=kind, filters=filters, grouped=grouped)
    for kind in layout_kinds.KINDS
    for filters in (FILTERS if kind != "encoded" else ("none",))
    for grouped in (False, True)
]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Sample], Path]:
    samples = mixed_samples()
    return samples, write_samples(tmp_path_factory.mktemp("mixed"), samples)


Found = dict[Case, tuple[Path, dict[str, Any]]]
"""(file, report) of each case."""


def run_cases(flavour: Flavour, n_ranks: int, manifest: Path, folder: Path) -> Found:
    """Launch every layout with every filter, each with groups or without."""
    cases = FEW if n_ranks > 3 else HALF
    outs = [folder / f"{case.name}-{n_ranks}.h5" for case in cases]
    told = [
        {"manifest": str(manifest), "out": str(out), "options": case.options}
        for case, out in zip(cases, outs, strict=True)
    ]
    reports = launch(flavour, n_ranks, told, folder)
    return dict(zip(cases, zip(outs, reports, strict=True), strict=True))


HALF = CASES[::4] + CASES[3::4]
"""Each layout with each filter, with groups or without."""
FEW = [case for case in CASES if case.grouped and case.filters in ("none", "zstd")]
"""What more ranks than cores have time for."""


@pytest.fixture(scope="module")
def digests(
    mixed: tuple[list[Sample], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, bool], str]:
    """(layout, grouped) -> content digest of a single process without filters."""
    folder = tmp_path_factory.mktemp("digests")
    return {
        (case.layout, case.grouped): ingest(
            mixed[1], folder / f"{case.name}.h5", IngestOptions(**case.options)
        ).content_digest
        for case in CASES
        if case.filters == "none"
    }


def check_run(found: Found, samples: list[Sample], digests: dict[tuple[str, bool], str]) -> None:
    failing = [i for i, s in enumerate(samples) if s.pixels is None or s.broken]
    for case, (out, report) in found.items():
        assert report.get("failed") == failing, (case.name, report)
        stored = read_file(out)
        assert_holds(stored, expected(samples, case.wanted))
        assert report["digest"] == digests[case.layout, case.grouped]
        assert stored.attrs["content_digest"] == report["digest"]
        assert stored.attrs["schema"] == f"h5ingest {case.layout} 2"
        assert (stored.attrs["n_samples"], stored.attrs["n_failed"]) == (40, len(failing))
        if case.grouped:
            assert json.loads(stored.attrs["groups"]) == ["a%2Fb", "lost", "test", "train"]


@pytest.mark.parametrize("n_ranks", soon([1, 3], [1, 2, 3, 5, 9]))
def test_every_layout_holds_what_was_encoded(
    n_ranks: int,
    mixed: tuple[list[Sample], Path],
    digests: dict[tuple[str, bool], str],
    tmp_path: Path,
) -> None:
    samples, manifest = mixed
    found: Found = {}
    with extent_chunks(CHUNK_BYTES):
        for case in CASES:
            out = tmp_path / f"{case.name}.h5"
            options = IngestOptions(**case.options)
            report = ingest_on(n_ranks, manifest, out, options)
            failed = sorted(failure.index for failure in report.failures)
            found[case] = out, {"failed": failed, "digest": report.content_digest}
    check_run(found, samples, digests)


@pytest.mark.parametrize(("mpi", "n_ranks"), [
    ("mpich", 2), pytest.param("mpich", 5, marks=pytest.mark.long), ("openmpi", 3),
])  # fmt: skip
def test_launched_ranks_store_the_same(
    mpi: str,
    n_ranks: int,
    mixed: tuple[list[Sample], Path],
    digests: dict[tuple[str, bool], str],
    tmp_path: Path,
) -> None:
    found = run_cases(FLAVOURS[mpi].checked(), n_ranks, mixed[1], tmp_path)
    check_run(found, mixed[0], digests)
    for case, (_, report) in found.items():
        parallel = case.filters == "none" and case.layout != "tree"
        assert report["writer"].startswith("HDF5's MPI-IO" if parallel else "placed")


def test_without_a_parallel_h5py_the_files_are_the_same(
    mixed: tuple[list[Sample], Path], digests: dict[tuple[str, bool], str], tmp_path: Path
) -> None:
    found = run_cases(WHEELS.checked(), 3, mixed[1], tmp_path)
    check_run(found, mixed[0], digests)
    assert all(report["writer"].startswith("placed") for _, report in found.values())
    for case, (out, _) in found.items():  # made by HDF5 2, read by the tools of 1.10
        if case.filters != "zstd":
            dumped = run(["h5dump", "-o", "/dev/null", out])
            assert (dumped.returncode, dumped.stderr) == (0, ""), explain(dumped)


def test_filters_are_those_asked_for_and_empty_datasets_have_none(
    mixed: tuple[list[Sample], Path], tmp_path: Path
) -> None:
    names: dict[str, set[str]] = {
        "none": set(), "gzip": {"gzip"}, "zstd": {"32015"}, "shuffle": {"gzip", "shuffle"},
    }  # fmt: skip
    for number, case in enumerate(CASES):
        out = tmp_path / f"{number}.h5"
        ingest(mixed[1], out, IngestOptions(**case.options))
        found: set[str] = set()

        def look(_: str, node: Any, found: set[str] = found) -> None:
            if isinstance(node, h5py.Dataset):
                found.update(node._filters)
                assert not node._filters or node.size

        with h5py.File(out) as file:
            file.visititems(look)
        assert found == names[case.filters], case.name


# --- random sets of images -----------------------------------------------------------------------

kinds = st.sampled_from(KINDS)
edges = st.one_of(st.integers(1, 4), st.integers(1, 40))


@st.composite
def sample_sets(draw: st.DrawFn, *, raw: bool) -> list[Sample]:
    of_set = draw(st.one_of(st.just(None), st.lists(kinds, min_size=1, max_size=3)))
    size = draw(st.one_of(st.just(None), st.tuples(edges, edges)))
    samples = []
    for row in range(draw(st.integers(1, 14))):
        kind = draw(kinds if of_set is None else st.sampled_from(of_set))
        height, width = size or (draw(edges), draw(edges))
        picture = encode(kind, height, width, seed=draw(st.integers(0, 2**32)))
        samples.append(
            Sample(
                path=f"{row}.png",
                data=picture.data,
                pixels=picture.raw if raw else picture.scaled,
                label=draw(st.sampled_from(["a", "b"])),
                group=draw(st.sampled_from("xyz")),
            )
        )
    return samples


@st.composite
def jobs(draw: st.DrawFn) -> tuple[list[Sample], Wanted, dict[str, Any]]:
    """Samples, what is asked for, the rest of the options."""
    wanted = Wanted(
        layout=draw(st.sampled_from([*layout_kinds.KINDS])), grouped=draw(st.booleans())
    )
    wanted.raw = wanted.layout != "encoded" and draw(st.booleans())
    samples = draw(sample_sets(raw=wanted.raw))
    options: dict[str, Any] = {
        "batch_bytes": draw(st.sampled_from([1, 100, 3000, 10**6])),
        "cache_bytes": draw(st.sampled_from([0, 500, 10**6])),
    }
    pixels = [s.pixels for s in samples if s.pixels is not None]
    if wanted.layout != "encoded":
        options |= FILTERS[draw(st.sampled_from(sorted(FILTERS)))]
        if not wanted.raw:
            wanted.channels = draw(st.sampled_from(["auto", "gray", "rgb", "rgba"]))
        depths = {p.dtype.name for p in pixels}
        whole = ["auto"] if len(depths) == 1 or wanted.layout == "tree" else []
        shallow = ["uint8"] if depths == {"uint8"} or not wanted.raw else []
        wanted.dtype = draw(st.sampled_from([*whole, "uint16", *shallow]))
        options["reduce_depth"] = wanted.dtype == "uint8" and not wanted.raw
    if wanted.layout == "stack":
        options["chunk_rows"] = draw(st.one_of(st.none(), st.integers(1, 5)))
        alike = ["error"] if len({p.shape[:2] for p in pixels}) == 1 else []
        wanted.fit = draw(st.sampled_from([*alike, "pad", "crop", "resize"]))
        most = 255 if wanted.dtype != "uint16" else 65535
        wanted.pad_value = draw(st.integers(0, most)) if wanted.fit == "pad" else 0
        if wanted.fit == "crop":
            wanted.size = min(p.shape[0] for p in pixels), min(p.shape[1] for p in pixels)
        if wanted.fit == "resize":
            wanted.resample = draw(st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]))
            wanted.size = draw(st.one_of(st.none(), st.tuples(edges, edges)))
            options["resample"] = wanted.resample
    return samples, wanted, options


def all_options(wanted: Wanted, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "layout": wanted.layout, "group_by": "group" if wanted.grouped else None,
        "channels": wanted.channels, "dtype": wanted.dtype, "fit": wanted.fit,
        "size": wanted.size, "pad_value": wanted.pad_value,
        "samples": "raw" if wanted.raw else "scaled", **more,
    }  # fmt: skip


def assert_losses(losses: Sequence[str], wanted: Wanted) -> None:
    what = {"alpha": "transparency", "colour": "colour", "depth": "depth"}
    told = {key: next((line for line in losses if what[key] in line), "0 ") for key in what}
    counted = {key: int(line.split()[0].replace(",", "")) for key, line in told.items()}
    assert counted == wanted.losses


@pytest.mark.long
@given(job=jobs(), n_ranks=st.integers(1, 6), chunk_bytes=st.sampled_from([16, 100, 1000, 2**19]))
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_any_set_of_images_in_any_layout_on_any_number_of_ranks(
    job: tuple[list[Sample], Wanted, dict[str, Any]],
    n_ranks: int,
    chunk_bytes: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    samples, wanted, more = job
    folder = tmp_path_factory.mktemp("random")
    manifest, out = write_samples(folder, samples), folder / "out.h5"
    options = IngestOptions(**all_options(wanted, more))
    with extent_chunks(chunk_bytes):
        report = ingest_on(n_ranks, manifest, out, options)
    assert_holds(read_file(out), expected(samples, wanted))
    assert_losses(report.losses, wanted)


def test_random_sets_on_launched_ranks(mpich: Flavour, tmp_path: Path) -> None:
    cases: list[dict[str, Any]] = []
    jobs_: list[tuple[list[Sample], Wanted, Path]] = []

    @given(jobs())
    @settings(max_examples=12, suppress_health_check=list(HealthCheck),
              database=None, derandomize=True)  # fmt: skip
    def collect(job: tuple[list[Sample], Wanted, dict[str, Any]]) -> None:
        samples, wanted, more = job
        folder = tmp_path / str(len(cases))
        folder.mkdir()
        out = folder / "out.h5"
        manifest = write_samples(folder, samples)
        options = all_options(wanted, more)
        cases.append({"manifest": str(manifest), "out": str(out), "options": options})
        jobs_.append((samples, wanted, out))

    collect()
    digests = []
    for n_ranks in (2, 3):
        for case in cases:
            case["options"]["overwrite"] = True
        reports = launch(mpich, n_ranks, cases, tmp_path, chunk_bytes=100)
        for (samples, wanted, out), report in zip(jobs_, reports, strict=True):
            fresh = replace_losses(wanted)
            assert "error" not in report, report
            assert_holds(read_file(out), expected(samples, fresh))
            assert_losses(report["losses"], fresh)
        digests.append([report["digest"] for report in reports])
    assert digests[0] == digests[1]


def replace_losses(wanted: Wanted) -> Wanted:
    return replace(wanted, losses=Wanted().losses)


# --- groups --------------------------------------------------------------------------------------

ODD_NAMES = [
    "", ".", "..", "/", "a/b", "%", "%2F", "%2E", "train", "Train", "été", "e\u0301te\u0301", "猫",
    " ", "a b", "\x01", "\x7f", "\x80", "\u1680", "\x16" + "80", "\u200b", "\u2028", "status",
    "images", os.fsdecode(b"\xff"), os.fsdecode(b"caf\xe9"), "...", "a.b", "'\"", "\\", "~",
]  # fmt: skip


def gray(height: int, width: int, row: int) -> tuple[bytes, np.ndarray]:
    picture = encode(Kind(colour="gray", depth=8), height, width, seed=row)
    return picture.data, picture.scaled


@pytest.mark.parametrize("kind", layout_kinds.KINDS)
def test_any_name_is_a_group_one_level_deep(kind: str, tmp_path: Path) -> None:
    samples = []
    for row, name in enumerate([*ODD_NAMES, *ODD_NAMES]):  # each group has its own shape
        data, pixels = gray(1 + row % len(ODD_NAMES), 3, row)
        samples.append(Sample(path=f"{row}.png", data=data, pixels=pixels, group=name, label="x"))
    manifest = write_samples(tmp_path, samples)
    options = IngestOptions(layout=kind, group_by="group")
    ingest(manifest, tmp_path / "out.h5", options)
    with h5py.File(tmp_path / "out.h5") as file:
        assert len(file) == len(ODD_NAMES)
        listed = json.loads(file.attrs["groups"])
        assert sorted(listed) == sorted(file)
        names = {key: file[key].attrs["name"] for key in file}
        assert {os.fsencode(name) for name in names.values()} == set(map(os.fsencode, ODD_NAMES))
        assert {key: group_path(name) for key, name in names.items()} == {k: k for k in names}
        for key, name in names.items():  # reversible without the attribute, too
            assert unquote_to_bytes("" if key == "%" else key) == os.fsencode(name)
    stored = read_file(tmp_path / "out.h5")
    assert_holds(stored, expected(samples, Wanted(layout=kind, grouped=True)))


@given(st.lists(st.binary(max_size=6), min_size=2, max_size=30, unique=True))
def test_different_names_have_different_safe_paths(names: list[bytes]) -> None:
    paths = [group_prefix(os.fsdecode(name)) for name in names]
    assert len(set(paths)) == len(names)
    for path in paths:
        assert path[0] == "/"
        assert path[1:] not in ("", ".", "..")
        assert "/" not in path[1:]
        assert path.isprintable()
        path.encode("utf-8")


def test_a_group_of_failed_images_follows_the_options(tmp_path: Path) -> None:
    data, pixels = gray(4, 5, 0)
    samples = [
        Sample(path="a.png", data=data, pixels=pixels, group="good"),
        Sample(path="b.png", pixels=None, group="lost"),
    ]
    manifest = write_samples(tmp_path, samples)
    asked: list[dict[str, Any]] = [
        {}, {"dtype": "uint16", "channels": "rgb"}, {"fit": "resize", "size": (2, 3)},
    ]  # fmt: skip
    for number, more in enumerate(asked):
        out = tmp_path / f"{number}.h5"
        wanted = replace(Wanted(grouped=True), **more)
        ingest(manifest, out, IngestOptions(group_by="group", on_error="blank", **more))
        assert_holds(read_file(out), expected(samples, wanted))


def test_a_group_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    data, pixels = gray(4, 5, 0)
    manifest = write_samples(tmp_path, [Sample(path="a.png", data=data, pixels=pixels)])
    with pytest.raises(ValueError, match="'split' to group by, found path, group"):
        ingest(manifest, tmp_path / "out.h5", IngestOptions(group_by="split"))
    with pytest.raises(ValueError, match="'path' to group by"):
        ingest(manifest, tmp_path / "out.h5", IngestOptions(group_by="path"))


def test_labels_may_be_the_groups(tmp_path: Path) -> None:
    samples = []
    for row in range(7):
        data, pixels = gray(2 + row % 2, 3, row)
        label = ("ant", "bee")[row % 2]
        samples.append(
            Sample(path=f"{row}.png", data=data, pixels=pixels, label=label, group=label)
        )
    manifest = write_samples(tmp_path, samples)
    ingest(manifest, tmp_path / "out.h5", IngestOptions(group_by="label"))
    assert_holds(read_file(tmp_path / "out.h5"), expected(samples, Wanted(grouped=True)))


# --- tree ----------------------------------------------------------------------------------------


def test_names_that_clash_are_numbered_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    names = ["a/im.png", "b/im.png", "im_1.png", "c/im.png", "status.png", "paths.png", ".png",
             "x/..png", "y/...png", "im.tar.png", "noending", "%.png", "d/im.jpeg", "été.png",
             "labels_1.png", "labels.png", "datasets", "sp ace.png"]  # fmt: skip
    samples = []
    for row, name in enumerate(names):
        data, pixels = gray(1 + row, 2, row)
        samples.append(Sample(path=name, data=data, pixels=pixels))
    manifest = write_samples(tmp_path, samples)
    ingest(manifest, tmp_path / "out.h5", IngestOptions(layout="tree"))
    arrays = read_file(tmp_path / "out.h5").arrays
    assert_holds(read_file(tmp_path / "out.h5"), expected(samples, Wanted(layout="tree")))
    assert [name.decode() for name in arrays["datasets"]] == [
        "/im", "/im_1", "/im_1_1", "/im_2", "/status_1", "/paths_1", "/.png", "/..png", "/...png",
        "/im.tar", "/noending", "/%25", "/im_3", "/été", "/labels_1", "/labels_2", "/datasets_1",
        "/sp ace",
    ]  # fmt: skip


def test_labels_are_folders_whatever_they_are_called(tmp_path: Path) -> None:
    labels = ["status", "a/b", "..", "status_1", "TheYo", "%", "labels", "été", "columns"]
    samples = []
    for row, label in enumerate([*labels, *labels]):
        data, pixels = gray(1 + row, 2, row)
        name = ("labels", "paths", "im_0")[row % 3]
        samples.append(Sample(path=f"{row}/{name}.png", data=data, pixels=pixels, label=label))
    manifest = write_samples(tmp_path, samples)
    ingest(manifest, tmp_path / "out.h5", IngestOptions(layout="tree"))
    stored = read_file(tmp_path / "out.h5")
    assert_holds(stored, expected(samples, Wanted(layout="tree")))
    folders = [name.decode().split("/")[1] for name in stored.arrays["datasets"][: len(labels)]]
    assert folders == [
        "status_1", "a%2Fb", "%2E%2E", "status_1_1", "TheYo", "%25", "labels_1", "été", "columns_1",
    ]  # fmt: skip


def test_integer_labels_are_folders_too(tmp_path: Path) -> None:
    data, pixels = gray(2, 3, 0)
    (tmp_path / "im_0.png").write_bytes(data)
    manifest = write_manifest(tmp_path / "m.txt", [("im_0.png", 7), ("im_0.png", -1)])
    ingest(manifest, tmp_path / "out.h5", IngestOptions(layout="tree"))
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["7/im_0"][()], pixels)
        np.testing.assert_array_equal(file["-1/im_0"][()], pixels)
        assert file["labels"][()].tolist() == [7, -1]


def test_the_images_of_a_tree_are_marked_for_viewers(tmp_path: Path) -> None:
    colours = {"g": ("gray", "IMAGE_GRAYSCALE"), "rgb": ("rgb", "IMAGE_TRUECOLOR"),
               "ga": ("gray+alpha", None), "rgba": ("rgba", None)}  # fmt: skip
    samples = []
    for name, (colour, _) in colours.items():
        for depth in (8, 16):
            picture = encode(Kind(colour=colour, depth=depth), 1, 1)
            samples.append(
                Sample(path=f"{name}{depth}.png", data=picture.data, pixels=picture.scaled)
            )
    manifest = write_samples(tmp_path, samples)
    for filters in (None, "gzip", "szip"):
        options = IngestOptions(layout="tree", compression=filters, overwrite=True)
        ingest(manifest, tmp_path / "out.h5", options)
        with h5py.File(tmp_path / "out.h5") as file:
            for name, (_, subclass) in colours.items():
                for depth in (8, 16):
                    attrs = dict(file[f"{name}{depth}"].attrs)
                    assert attrs.pop("CLASS") == b"IMAGE"
                    assert attrs.pop("IMAGE_VERSION") == b"1.2"
                    assert attrs.pop("IMAGE_SUBCLASS", b"").decode() == (subclass or "")
                    if subclass == "IMAGE_TRUECOLOR":
                        assert attrs.pop("INTERLACE_MODE") == b"INTERLACE_PIXEL"
                    if subclass == "IMAGE_GRAYSCALE":
                        assert attrs.pop("IMAGE_WHITE_IS_ZERO") == 0
                    assert attrs == {}


def test_transposed_images_of_equal_bytes_have_another_digest(tmp_path: Path) -> None:
    digests = set()
    for kind, shape in itertools.product(("tree", "ragged", "stack"), [(2, 6), (6, 2)]):
        picture = np.full(shape, 9, np.uint8)
        folder = tmp_path / f"{kind}{shape[0]}"
        folder.mkdir()
        write_png(folder / "a.png", picture)
        manifest = write_manifest(folder / "m.txt", ["a.png"])
        report = ingest(manifest, folder / "o.h5", IngestOptions(layout=kind))
        digests.add(report.content_digest)
    assert len(digests) == 6


def test_a_large_tree_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [gray(2, 3, row) for row in range(4)]
    samples = [
        Sample(path=f"{row}.png", data=data, pixels=pixels)
        for row, (data, pixels) in enumerate(drawn)
    ]
    manifest = write_samples(tmp_path, samples)

    def warnings(kind: str, **more: Any) -> tuple[str, ...]:
        options = IngestOptions(layout=kind, overwrite=True, **more)
        return ingest(manifest, tmp_path / "out.h5", options).warnings

    assert layout_kinds.MANY_DATASETS == 100_000
    assert warnings("tree") == ()
    monkeypatch.setattr(layout_kinds, "MANY_DATASETS", 4)
    assert warnings("tree") == ()
    monkeypatch.setattr(layout_kinds, "MANY_DATASETS", 3)
    (warning,) = warnings("tree")
    assert "4 datasets" in warning
    assert "--layout stack" in warning
    assert warnings("tree", dry_run=True) == (warning,)
    assert warnings("ragged") == warnings("stack") == ()


def test_the_warning_is_printed(tmp_path: Path) -> None:
    data, pixels = gray(2, 3, 0)
    manifest = write_samples(tmp_path, [Sample(path="a.png", data=data, pixels=pixels)])
    report = ingest(manifest, tmp_path / "out.h5", IngestOptions(layout="tree"))
    printed = summary(replace(report, warnings=("costs much",)))
    assert re.search(r"^warning +costs much$", printed, re.MULTILINE)


# --- balance -------------------------------------------------------------------------------------


def many_sizes(n_sizes: int, highest: int, widest: int) -> list[tuple[int, int]]:
    """Distinct sizes from 1x1 to the largest, growing by about the same factor."""
    heights = np.geomspace(1, highest, n_sizes).round().astype(int)
    widths = np.geomspace(1, widest, n_sizes).round().astype(int)
    sizes = list(dict.fromkeys(zip(heights.tolist(), widths.tolist(), strict=True)))
    extra = itertools.count(2)
    while len(sizes) < n_sizes:  # small ones repeat
        size = (1, next(extra))
        if size not in sizes:
            sizes.append(size)
    return sizes


def test_ranks_write_about_the_same_bytes_of_images_of_very_different_sizes(
    mpich: Flavour, tmp_path: Path
) -> None:
    sizes = many_sizes(400, 1500, 2000)
    assert len(set(sizes)) == 400
    assert {(1, 1), (1500, 2000)} <= set(sizes)
    for number, (height, width) in enumerate(sizes):
        line = bytes([number % 256]) * math.ceil(width / 8)
        file = io.BytesIO()
        png.Writer(width, height, greyscale=True, bitdepth=1).write_packed(file, [line] * height)
        (tmp_path / f"{number}.png").write_bytes(file.getvalue())
    order = np.random.default_rng(3).permutation(np.arange(1000) % 400)
    manifest = write_manifest(tmp_path / "m.txt", [f"{number}.png" for number in order])
    areas = np.array([sizes[number][0] * sizes[number][1] for number in order])
    digests = set()
    for n_ranks in (1, 2, 5):
        out = tmp_path / "out.h5"
        case = {
            "manifest": str(manifest), "out": str(out),
            "options": {"layout": "ragged", "overwrite": True},
        }  # fmt: skip
        (report,) = launch(mpich, n_ranks, [case], tmp_path, None)
        assert sum(report["bytes"]) == areas.sum()
        assert max(report["bytes"]) <= 1.2 * areas.sum() / n_ranks, report["bytes"]
        digests.add(report["digest"])
        with h5py.File(out) as file:
            offsets = file["images/offsets"][()]
            assert np.diff(offsets).tolist() == areas.tolist()
            for row in range(0, 1000, 83):
                height, width = sizes[order[row]]
                bits = np.unpackbits(np.full(math.ceil(width / 8), order[row] % 256, np.uint8))
                image = file["images/pixels"][offsets[row] : offsets[row + 1]]
                expected_ = np.broadcast_to(bits[:width] * 255, (height, width)).reshape(-1)
                np.testing.assert_array_equal(image, expected_)
    assert len(digests) == 1
    out.unlink()
