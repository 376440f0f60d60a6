"""`--compression auto`: the smallest of some, the same however often and wherever it is asked."""

from __future__ import annotations

import doctest
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from helpers.pictures import drawn
from helpers.support import (
    MPICH_SOON,
    Flavour,
    damage,
    explain,
    make_pixels,
    soon,
    spread,
    write_images,
    write_manifest,
    write_png,
)
from numpy.typing import NDArray
from PIL import Image

from h5ingest import ImageStore, IngestOptions, ingest
from h5ingest.core import sampling
from h5ingest.core.errors import OutputError, SamplesFailedError, UsageError
from h5ingest.inspect import codecs
from h5ingest.inspect.filter_names import filter_names
from h5ingest.inspect.verify import verify
from h5ingest.pipeline import auto_compression
from h5ingest.pipeline.auto_compression import sample_rows
from h5ingest.pipeline.report import IngestReport
from h5ingest.storage import auto_codec
from h5ingest.storage.auto_codec import CANDIDATES, AutoCodec

AUTO = IngestOptions(compression="auto")


def photographs(n: int, channels: int = 3) -> list[NDArray[Any]]:
    """Waves under a little noise, all different: what no filter of bytes makes small."""
    noise = np.random.default_rng(3)
    wave = drawn(60, 80, channels, "uint8", "waves")
    return [wave // 2 + noise.integers(0, 9, wave.shape, np.uint8) + np.uint8(k) for k in range(n)]


def masks(n: int) -> list[NDArray[Any]]:
    """A few areas of one value each."""
    y, x = np.ogrid[:60, :80]
    return [np.where((x - 9 * k) ** 2 + y**2 < 900, k, 0).astype(np.uint8) for k in range(n)]


def as_rgb(image: NDArray[Any]) -> NDArray[Any]:
    return np.dstack([image] * 3)


def noise(n: int) -> list[NDArray[Any]]:
    return list(make_pixels(n, (60, 80)))


def manifest_of(folder: Path, images: list[NDArray[Any]]) -> Path:
    names = write_images(folder / "images", images)
    return write_manifest(folder / "m.txt", [f"images/{name}" for name in names])


def made(folder: Path, images: list[NDArray[Any]], **options: Any) -> IngestReport:
    """The report of a file made of these images, which are all in it."""
    manifest = manifest_of(folder, images)
    chosen = IngestOptions(compression="auto", overwrite=True, **options)
    report = ingest(manifest, folder / "out.h5", chosen)
    with ImageStore(folder / "out.h5") as store:
        for found, image in zip(store[:][0], images, strict=True):
            np.testing.assert_array_equal(found, image)
    return report


def chosen_of(report: IngestReport) -> AutoCodec:
    assert report.auto is not None
    return report.auto


@pytest.mark.parametrize(
    ("images", "expected", "name"),
    [
        (photographs(20), "htj2k", "htj2k"),
        (masks(20), "zstd:9", "zstd:9"),
        (noise(20), "none", None),
    ],
)
def test_the_smallest_is_taken_and_the_file_says_why(
    images: list[NDArray[Any]], expected: str, name: str | None, tmp_path: Path
) -> None:
    report = made(tmp_path, images)
    chosen = chosen_of(report)
    assert chosen.codec == expected
    assert chosen.bytes_stored[expected] == min(chosen.bytes_stored.values())
    assert set(chosen.bytes_stored) == set(CANDIDATES)
    assert chosen.n_sampled == 20
    assert chosen.bytes_files == sum(f.stat().st_size for f in (tmp_path / "images").iterdir())
    with h5py.File(tmp_path / "out.h5") as file:
        assert filter_names(file["images"]) == ([name] if name else [])
        options = json.loads(file.attrs["options"])
        stored = file["images"].id.get_storage_size()
    assert options["compression"] == "auto"
    assert AutoCodec.from_plain(options["auto"]) == chosen
    assert report.to_json()["auto"]["codec"] == expected  # type: ignore[index]
    # The sample is the whole file here: what was foreseen is what there is (24 bytes a chunk more).
    assert abs(stored - chosen.bytes_stored[expected]) <= 24 * 20
    assert verify(tmp_path / "out.h5", sources=True).ok


@pytest.mark.parametrize("layout", ["ragged", "tree"])
def test_other_layouts_choose_too(layout: str, tmp_path: Path) -> None:
    images = [image[: 50 + k] for k, image in enumerate(photographs(9))]
    chosen = chosen_of(made(tmp_path, images, layout=layout))
    assert ("htj2k" in chosen.bytes_stored) == (layout == "tree")
    assert (chosen.codec == "htj2k") == (layout == "tree")


def test_htj2k_is_no_candidate_where_it_cannot_hold_every_image(tmp_path: Path) -> None:
    """Not of the sample: of the file."""
    rgb = photographs(3)
    cases: list[tuple[list[NDArray[Any]], dict[str, Any]]] = [
        ([*rgb, np.dstack([rgb[0], rgb[0][..., 0]])], {"layout": "tree"}),
        (rgb, {"channels": "rgba"}),
        (rgb, {"chunk_rows": 2}),
        ([image[:20, :20] for image in rgb], {}),  # too small for a chunk each
    ]
    for number, (images, options) in enumerate(cases):
        manifest = manifest_of(tmp_path / str(number), images)
        out = manifest.with_name("out.h5")
        chosen = chosen_of(ingest(manifest, out, IngestOptions(compression="auto", **options)))
        assert "htj2k" not in chosen.bytes_stored, options
        assert verify(out, sources=True).ok


def test_an_image_outside_of_the_sample_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_compression, "_MOST_BYTES", 1)
    rgb = photographs(3)
    manifest = manifest_of(tmp_path, [*rgb, np.dstack([rgb[0], rgb[0][..., 0]])])
    options = IngestOptions(compression="auto", layout="tree")
    chosen = chosen_of(ingest(manifest, tmp_path / "out.h5", options))
    assert (chosen.n_sampled, "htj2k" in chosen.bytes_stored) == (1, False)


def test_neighbours_that_are_alike_count(tmp_path: Path) -> None:
    """Each image is there three times, far enough apart to be missed by a few neighbours."""
    images = [*make_pixels(40, (30, 30, 3))] * 3
    chosen = chosen_of(made(tmp_path, images))
    assert chosen.codec == "zstd:9"
    assert chosen.bytes_stored["zstd:9"] < 0.4 * chosen.bytes_stored["none"]


def test_the_sample_is_of_images_as_they_are_stored(tmp_path: Path) -> None:
    images = [np.dstack([image] * 3) for image in photographs(6, channels=1)]
    manifest = manifest_of(tmp_path, images)
    options = IngestOptions(compression="auto", channels="gray", fit="crop", size=(48, 48))
    chosen = chosen_of(ingest(manifest, tmp_path / "out.h5", options))
    assert chosen.bytes_stored["none"] == 6 * 48 * 48


def test_the_sample_lies_all_over_and_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for image_bytes, n_places, n_each in (
        (784, 4, 668),
        (3072, 6, 170),
        (10**6, 32, 1),
        (0, 4, 1024),
    ):
        rows = sample_rows(1_000_000, image_bytes, AUTO)
        assert len(rows) == len(set(rows)) == n_places * n_each
        places = sorted(rows[:n_places])
        assert set(rows) == {place + k for place in places for k in range(n_each)}
        assert np.diff(places).min() >= 1_000_000 // n_places - 1
    assert sample_rows(1_000_000, 784, IngestOptions(chunk_rows=2))[32:] == [
        row + 1 for row in sample_rows(1_000_000, 10**6, AUTO)
    ]
    assert sorted(sample_rows(24, 10**6, AUTO)) == list(range(24))
    assert sample_rows(0, 0, AUTO) == []
    monkeypatch.setattr(auto_compression, "_MOST_BYTES", 3 * 60 * 80 * 3)
    assert chosen_of(made(tmp_path, photographs(20))).n_sampled == 3
    monkeypatch.setattr(auto_compression, "_MOST_BYTES", 1)
    assert chosen_of(made(tmp_path, photographs(20))).n_sampled == 1
    assert doctest.testmod(sampling).failed == doctest.testmod(auto_codec).failed == 0


def test_images_that_cannot_be_read_are_left_out_of_the_sample(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, photographs(5))
    damage(tmp_path / "images" / "0002.png")
    options = IngestOptions(compression="auto", on_error="blank")
    chosen = chosen_of(ingest(manifest, tmp_path / "out.h5", options))
    assert chosen.n_sampled == 4
    for row in (0, 1, 3, 4):
        damage(tmp_path / "images" / f"{row:04}.png")
    chosen = chosen_of(ingest(manifest, tmp_path / "none.h5", options))
    assert (chosen.n_sampled, chosen.codec) == (0, "zstd:3")
    assert "?" in str(chosen)


def test_a_group_decides_for_itself_if_the_sample_has_enough_of_it(tmp_path: Path) -> None:
    """And its images are stored so, beside others: a file is never larger for its groups."""
    parts = {"photos": photographs(12), "masks": [as_rgb(mask) for mask in masks(12)]}
    few = {"rgba": [np.dstack([image, image[..., :1]]) for image in photographs(3)]}
    sizes = {}
    for number, groups in enumerate((parts, parts | few, {"photos": parts["photos"]} | few)):
        folder = tmp_path / str(number)
        images = [image for some in groups.values() for image in some]
        names = write_images(folder / "images", images)
        of = [name for name, some in groups.items() for _ in some]
        rows = [("path", "part"), *((f"images/{n}", g) for n, g in zip(names, of, strict=True))]
        manifest = write_manifest(folder / "m.csv", rows)
        options = IngestOptions(compression="auto", layout="tree", group_by="part")
        report = ingest(manifest, folder / "out.h5", options)
        chosen = chosen_of(report)
        assert chosen.n_sampled == len(images)
        assert chosen.codec_of("photos") == "htj2k"
        # HTJ2K cannot hold all images: so it is no candidate for those that do not decide.
        assert ("rgba" in groups) == ("htj2k" not in chosen.bytes_stored)
        assert chosen.codec_of("rgba") == chosen.codec
        assert "rgba" not in chosen.groups, "three are too few"
        if "masks" in groups:
            assert chosen.codec_of("masks") == "zstd:9"
        with h5py.File(folder / "out.h5") as file:
            for group in groups:
                name = {"none": []}.get(chosen.codec_of(group), [chosen.codec_of(group)])
                for path in file[f"{group}/datasets"].asstr():
                    assert filter_names(file[path]) == name
        assert verify(folder / "out.h5", sources=True).ok
        said = codecs_say(manifest, options)
        assert {g: said.codec_of(g) for g in groups} == {g: chosen.codec_of(g) for g in groups}
        if number == 0:
            for codec in ("zstd:9", "htj2k"):
                one = replace(options, compression=codec)
                sizes[codec] = ingest(manifest, folder / "one.h5", one).bytes_out
                (folder / "one.h5").unlink()
            assert report.bytes_out <= min(sizes.values())


def codecs_say(manifest: Path, options: IngestOptions) -> AutoCodec:
    """What `h5ingest codecs` says of the choice, without measuring each codec."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(codecs, "CODECS", ("none",))
        patched.setattr(codecs, "SHUFFLED", ())
        said = codecs.measure(manifest, options, n_wanted=2).auto
    assert said is not None
    return said


def test_a_job_that_is_gone_on_with_keeps_its_choice(tmp_path: Path) -> None:
    """Though the images have changed since, and would now be stored in another way."""
    images = photographs(12)
    manifest = manifest_of(tmp_path, images)
    damage(tmp_path / "images" / "0011.png")
    options = IngestOptions(compression="auto", batch_bytes=1)
    out = tmp_path / "out.h5"
    with pytest.raises(SamplesFailedError):
        ingest(manifest, out, options)
    for row, mask in enumerate(masks(12)):
        write_png(tmp_path / "images" / f"{row:04}.png", np.dstack([mask] * 3))
    said = chosen_of(ingest(manifest, out, IngestOptions(
        compression="auto", batch_bytes=1, dry_run=True
    )))  # fmt: skip
    report = ingest(manifest, out, options)
    chosen = chosen_of(report)
    assert said == chosen
    assert (report.n_resumed, chosen.codec, chosen.n_sampled) == (11, "htj2k", 11)
    with ImageStore(out) as store:
        for row, image in enumerate(images[:11]):
            np.testing.assert_array_equal(store[row][0], image)
    anew = chosen_of(ingest(manifest, tmp_path / "anew.h5", options))
    assert anew.codec != "htj2k"


@pytest.mark.parametrize("restart", [False, True])
def test_a_choice_for_something_else_is_not_kept(restart: bool, tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, photographs(6))
    damage(tmp_path / "images" / "0005.png")
    options = {"compression": "auto"}
    with pytest.raises(SamplesFailedError):
        ingest(manifest, tmp_path / "out.h5", IngestOptions(**options))  # type: ignore[arg-type]
    other = write_manifest(tmp_path / "m.txt", [f"images/{row:04}.png" for row in range(5)])
    again = IngestOptions(**options, restart=restart)  # type: ignore[arg-type]
    if restart:
        assert chosen_of(ingest(other, tmp_path / "out.h5", again)).n_sampled == 5
        return
    with pytest.raises(OutputError, match=r"other input:\n(.*\n)*  manifest"):
        ingest(other, tmp_path / "out.h5", again)


def test_what_is_absent_is_no_candidate_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(hdf5plugin, "Htj2k")  # as before hdf5plugin 7.1
    chosen = chosen_of(made(tmp_path, photographs(6)))
    assert chosen.missing == ("htj2k",)
    assert chosen.codec != "htj2k"
    assert str(chosen).endswith("from a sample of 6 images; not available here: htj2k")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"shuffle": True}, "does not go with --shuffle"),
        ({"layout": "encoded"}, "compressed already"),
        ({"direct_io": "on"}, "for uncompressed images"),
    ],
)
def test_what_would_have_no_effect_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        IngestOptions(compression="Auto", **options)


@MPICH_SOON
def test_every_number_of_ranks_chooses_the_same(flavour: Flavour, tmp_path: Path) -> None:
    """One launch: groups that choose differently, of which each rank has a part of the sample."""
    images = [*photographs(9), *make_pixels(9, (60, 80, 3)), *map(as_rgb, masks(9))]
    names = write_images(tmp_path, images)
    rows = [("path", "part"), *((name, "abc"[row // 9]) for row, name in enumerate(names))]
    manifest = write_manifest(tmp_path / "m.csv", rows)
    wanted = {
        "stack": ("htj2k", "none", "zstd:3"),
        "ragged": ("blosc2:zstd:5:bytedelta", "none", "zstd:3"),
        "tree": ("htj2k", "none", "zstd:9"),
    }
    expected = {}
    jobs: list[list[str | Path]] = []
    for layout in wanted:
        options = IngestOptions(compression="auto", layout=layout, group_by="part")
        expected[layout] = ingest(manifest, tmp_path / f"{layout}.h5", options)
        jobs.append(
            [manifest, tmp_path / f"{layout}-3.h5", "--compression", "auto", "--layout", layout,
             "--group-by", "part", "--report", tmp_path / f"{layout}.json"]
        )  # fmt: skip
    jobs.append([*jobs[0][:-2], "--dry-run", "--overwrite"])
    *_, dry = flavour.run_many(3, jobs, tmp_path / "told")
    for layout, report in expected.items():
        told = json.loads((tmp_path / f"{layout}.json").read_text())
        chosen = chosen_of(report)
        assert AutoCodec.from_plain(told["auto"]) == chosen
        assert tuple(map(chosen.codec_of, "abc")) == wanted[layout]
        assert told["content_digest"] == report.content_digest
        assert verify(tmp_path / f"{layout}-3.h5", sources=True, root=tmp_path).ok
        for number, group in enumerate("abc"):
            with ImageStore(tmp_path / f"{layout}-3.h5", group=group) as store:
                shown = store[:][0]
            assert all(map(np.array_equal, shown, images[9 * number :]))
        with (
            h5py.File(tmp_path / f"{layout}.h5") as one,
            h5py.File(tmp_path / f"{layout}-3.h5") as three,
        ):
            assert one.attrs["options"] == three.attrs["options"]
            assert one.attrs["content_digest"] == three.attrs["content_digest"]
    said = " ".join(dry.stdout.split())
    assert f" compression auto: {expected['stack'].auto} " in said, explain(dry)


# --- what `codecs` says, and how large the files are -------------------------------------------

CORPORA = {
    "mnist": ("mnist/test/**/*.png", 400, "stack"),
    "tiles": ("kodak/**/*.png", 3, "stack"),
    "kodak": ("kodak/**/*.png", 4, "tree"),
    "omniglot": ("omniglot/**/*.png", 60, "stack"),
    "depth": ("depth16_open3d/**/*.png", 9, "tree"),
    "davis": ("davis_palette/**/*.png", 20, "tree"),
    "emoji": ("emoji32/**/*.png", 300, "stack"),
    "scikit-image": ("scikit_image/**/*.png", 30, "tree"),
}


def tiles(photographs: Iterable[Path], folder: Path) -> list[Path]:
    """Photographs cut up into images of the size of CIFAR's."""
    cut = []
    for number, path in enumerate(photographs):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").reduce(2))
        height, width = (side // 32 * 32 for side in pixels.shape[:2])
        parts = pixels[:height, :width].reshape(height // 32, 32, width // 32, 32, 3).swapaxes(1, 2)
        names = write_images(folder / str(number), list(parts.reshape(-1, 32, 32, 3)))
        cut += [folder / str(number) / name for name in names]
    return cut


@pytest.mark.parametrize("name", soon(["mnist", "tiles", "kodak", "davis"], CORPORA))
def test_auto_is_never_larger_than_zstd_or_htj2k(name: str, corpora: Path, tmp_path: Path) -> None:
    pattern, n, layout = CORPORA[name]
    listed = spread(sorted(corpora.glob(pattern)), n)
    if name == "tiles":
        listed = tiles(listed, tmp_path)
    needed = {"layout": layout, "on_error": "blank"}
    manifest = write_manifest(tmp_path / "m.txt", listed)
    sizes: dict[str, int] = {}
    chosen: AutoCodec | None = None
    for compression in ("auto", "zstd:3", "htj2k"):
        if compression == "htj2k" and chosen and "htj2k" not in chosen.bytes_stored:
            continue  # RGBA
        options = IngestOptions(compression=compression, **needed)  # type: ignore[arg-type]
        report = ingest(manifest, tmp_path / f"{compression}.h5", options)
        if compression == "auto":
            chosen = chosen_of(report)
        sizes[compression] = report.bytes_out
    assert chosen is not None
    assert sizes["auto"] <= 1.02 * min(sizes.values()), (sizes, str(chosen))
    assert codecs_say(manifest, IngestOptions()).codec == chosen.codec
