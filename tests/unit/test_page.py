"""`show --page`: what it shows is what is in the file, and it needs nothing else."""

from __future__ import annotations

import html
import io
import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.browser import browse
from helpers.support import damage, make_pixels, write_images, write_manifest
from numpy.typing import NDArray
from PIL import Image

from h5ingest import ImageStore
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.inspect.duplicates import lines
from h5ingest.inspect.page import page, write_page
from h5ingest.pipeline.run import ingest

FIGURE = re.compile(
    r'<figure tabindex="0"><img(?: class="alpha")? alt="([^"]*)" '
    r'src="data:image/png;base64,([^"]+)">'
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of two groups with copies and a damaged image; of many sizes and channels."""
    folder = tmp_path_factory.mktemp("page")
    pixels = make_pixels(90, (16, 12, 3))
    pixels[[11, 70]] = pixels[5]
    write_images(folder, pixels)
    damage(folder / "0042.png")
    rows = [
        (f"{k:04}.png", f"class {k % 3}", "train" if k < 60 else "test") for k in range(90)
    ]  # fmt: skip
    manifest = write_manifest(folder / "m.csv", [("path", "label", "split"), *rows])
    options = IngestOptions(group_by="split", on_error="blank")
    ingest(manifest, folder / "groups.h5", options)
    mixed = [make_pixels(1, (4 + k, 7, 4)[: 2 + (k > 9)])[0] for k in range(30)]
    mixed.append(make_pixels(1, (300, 200, 3))[0])
    write_images(folder / "mixed", mixed)
    names = [f"mixed/{k:04}.png" for k in range(31)]
    ingest(
        write_manifest(folder / "mixed.txt", names), folder / "mixed.h5",
        IngestOptions(layout="ragged"),
    )  # fmt: skip
    return folder


def figures(text: str) -> list[tuple[str, NDArray[Any]]]:
    """Caption and pixels of each picture."""
    found = []
    for caption, png in FIGURE.findall(text):
        with Image.open(io.BytesIO(b64decode(png))) as picture:
            found.append((html.unescape(caption), np.asarray(picture)))
    return found


def test_the_gallery_shows_exactly_the_pixels_of_its_rows(folder: Path) -> None:
    text = page(folder / "groups.h5", seed=3)
    stores = {name: ImageStore(folder / "groups.h5", group=name) for name in ("test", "train")}
    sections = re.split(r'<section id="([\w-]+)">', text)
    shown: dict[str, list[int]] = {"test": [], "train": []}
    for number, name in enumerate(stores):
        store = stores[name]
        section = sections[sections.index(f"g{number}") + 1]
        for caption, pixels in figures(section):
            if ": mean of" in caption:
                continue
            row = int(re.match(r"row (\d+): ", caption)[1])  # type: ignore[index]  # it matches
            assert caption == f"row {row}: {store.paths[row]}"
            np.testing.assert_array_equal(pixels, store[row][0])
            shown[name].append(row)
        assert len(shown[name]) == 3 * 8
    assert 42 not in shown["train"]
    assert "0042.png" in text, "it is named among the failed ones"
    copies = figures(sections[sections.index("copies") + 1])
    assert [caption for caption, _ in copies] == [
        "test row 10: 0070.png", "train row 5: 0005.png", "train row 11: 0011.png",
    ]  # fmt: skip
    for _, pixels in copies:
        np.testing.assert_array_equal(pixels, stores["train"][5][0])
    assert "in more than one group" in text


def test_mean_images_are_those_of_the_class(folder: Path) -> None:
    store = ImageStore(folder / "groups.h5", group="test")
    assert store.labels is not None
    text = page(folder / "groups.h5", group="test")
    means = [(c, pixels) for c, pixels in figures(text) if ": mean of" in c]
    assert [caption for caption, _ in means] == [f"class {k}: mean of 10" for k in range(3)]
    for label, (_, pixels) in enumerate(means):
        mean = np.stack([image for image, of in store if of == label]).mean(axis=0)
        np.testing.assert_array_equal(pixels, np.rint(mean))


def test_images_of_any_size_alpha_and_large_ones(folder: Path) -> None:
    store = ImageStore(folder / "mixed.h5")
    found = dict(figures(page(folder / "mixed.h5")))
    text = page(folder / "mixed.h5")
    largest = found["row 30: mixed/0030.png"]
    assert largest.shape == (128, 85, 3)
    expected = Image.fromarray(store[30][0])
    expected.thumbnail((128, 128))
    np.testing.assert_array_equal(largest, expected)
    alpha = 0
    for caption, shown in found.items():
        image = store[int(caption.split(":")[0].removeprefix("row "))][0]
        if max(image.shape[:2]) <= 128:
            np.testing.assert_array_equal(shown, image)
        alpha += image.shape[2:] == (4,)
    assert text.count('class="alpha"') >= alpha > 0
    assert 'id="g0-largest"' in text
    assert 'id="g0-smallest"' in text
    assert "Heights in pixels" in text


def test_of_several_images_a_row_each_has_a_section_and_copies_of_its_own(tmp_path: Path) -> None:
    pixels, masks = make_pixels(8, (9, 7, 3)), make_pixels(8, (9, 7))
    pixels[6], masks[[2, 3]] = pixels[1], masks[0]
    write_images(tmp_path / "images", pixels)
    write_images(tmp_path / "masks", masks)
    rows = [(f"images/{k:04}.png", f"masks/{k:04}.png", "ab"[k % 2]) for k in range(8)]
    manifest = write_manifest(tmp_path / "m.csv", [("path", "mask", "split"), *rows])
    out = tmp_path / "out.h5"
    ingest(manifest, out, IngestOptions(image=("mask:raw",), group_by="split"))
    assert [*lines(out)] == [
        "2 copies of one image, in more than one group",
        "  a row 3  images/0006.png", "  b row 0  images/0001.png",
        "3 copies of one image, in more than one group",
        "  a mask row 0  masks/0000.png", "  a mask row 1  masks/0002.png",
        "  b mask row 1  masks/0003.png",
        "2 images occur more than once, 5 times in all; 2 of them in more than one group",
    ]  # fmt: skip
    text = page(out)
    assert re.findall(r"<h2>([^<]+)</h2>", text)[:4] == [
        "a: images",
        "a: mask",
        "b: images",
        "b: mask",
    ]
    shown = [(caption, image) for caption, image in figures(text) if ": mean of" not in caption]
    assert len(shown) == 8 + 8 + 2 + 3
    for caption, image in shown:
        source, row = (masks, pixels)["images/" in caption], int(caption[-8:-4])
        if source is pixels:  # masks are stretched
            np.testing.assert_array_equal(image, source[row])


def test_the_seed_decides_what_is_shown(folder: Path) -> None:
    one, same, other = (page(folder / "groups.h5", seed=seed) for seed in (1, 1, 2))
    assert one == same
    captions = [{caption for caption, _ in figures(text)} for text in (one, other)]
    assert captions[0] != captions[1]
    assert "of seed 2" in other


def test_no_request_can_leave_the_page(folder: Path) -> None:
    text = page(folder / "groups.h5")
    assert "default-src 'none'; img-src data:" in text
    assert not re.search(r"<script|<link|https?:|@import|url\(", text)
    assert all(
        value.startswith(("data:", "#")) for value in re.findall(r'(?:src|href)="(.*?)"', text)
    )


def test_markup_in_names_is_text(tmp_path: Path) -> None:
    write_images(tmp_path, make_pixels(2, (4, 4)))
    nasty = '<img src=x onerror=alert(1)>\x1b"'
    (tmp_path / "0000.png").rename(tmp_path / "<b>.png")
    rows = [("path", "label"), ("<b>.png", nasty.replace('"', '""').join('""')), ("0001.png", "b")]
    manifest = write_manifest(tmp_path / "m.csv", rows)
    ingest(manifest, tmp_path / "<i>.h5")
    text = page(tmp_path / "<i>.h5")
    assert "<img src=x" not in text
    assert "\x1b" not in text
    assert "<b>.png" not in text
    assert "<i>.h5" not in text
    assert "&lt;b&gt;.png" in text


def test_a_page_is_replaced_and_nothing_else_is(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    write_page(folder / "groups.h5", target)
    write_page(folder / "mixed.h5", target)
    assert "mixed.h5" in target.read_text()
    target.write_text("<!DOCTYPE html>precious")
    with pytest.raises(OutputError, match="expected a page of h5ingest show"):
        write_page(folder / "mixed.h5", target)
    assert target.read_text() == "<!DOCTYPE html>precious"
    with pytest.raises(UsageError, match="expected a group"):
        page(folder / "groups.h5", group="none")


def test_of_a_million_images_it_has_less_than_five_megabytes(tmp_path: Path) -> None:
    n, path = 10**6, tmp_path / "million.h5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["schema"] = "h5ingest stack 1"
        file["checksums"] = np.arange(n, dtype=np.uint64) // 2  # each is there twice
        file["status"] = np.where(np.arange(n) % 1000, 1, 2).astype(np.uint8)
        file["labels"] = np.arange(n) % 1000
        file.create_dataset("paths", data=np.full(n, "a.png", object))
        images = file.create_dataset("images", (n, 96, 96, 3), "uint8", chunks=(1, 96, 96, 3))
        for row in rng.integers(0, n, 3000).tolist():  # others are black
            images[row] = rng.integers(0, 256, (96, 96, 3), np.uint8)
        status = file["status"][:]
        good = int((status == 1).sum())
        moments = {
            "channels": 3, "dtype": "uint8", "images": good, "pixels": good * 96 * 96,
            "sums": [0] * 3, "sums_of_squares": [0] * 3,
        }  # fmt: skip
        file.attrs["statistics"] = json.dumps(
            {"images": good, "copies": 0, "in_other_groups": 0, "pixels": [moments]}
        )
    text = page(path)
    assert len(text) < 5_000_000
    assert "980 classes more" in text or "979 classes more" in text
    assert len(figures(text)) > 100


# --- in a browser ------------------------------------------------------------------------------


LOOK = """<!DOCTYPE html><body style="margin:0"><script>
const text = %s, widths = [390, 1200], found = [];
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.srcdoc = text;
  frame.onload = () => {
    const page = frame.contentDocument, root = page.documentElement;
    const focused = [];
    for (const e of page.querySelectorAll("a, [tabindex]")) {
      e.focus();
      focused.push(page.activeElement === e);
    }
    page.activeElement.blur();
    const figure = page.querySelector("figure");
    const before = figure.getBoundingClientRect().width;
    figure.focus();
    found.push({
      width, overflow: root.scrollWidth - root.clientWidth,
      loaded: [...page.images].every(i => i.complete && i.naturalWidth > 0),
      images: page.images.length, focused: focused.every(Boolean), stops: focused.length,
      grows: figure.getBoundingClientRect().width > before,
      targets: [...page.querySelectorAll("nav a")].every(
        a => page.getElementById(a.getAttribute("href").slice(1))),
      unlabelled: [...page.images].filter(i => !i.alt).length,
      requests: performance.getEntriesByType("resource").length,
    });
    if (found.length === widths.length) document.body.innerText = JSON.stringify(found);
  };
  document.body.append(frame);
}
</script></body>"""


def test_a_browser_shows_it_at_two_widths_by_keyboard_light_and_dark(
    folder: Path, tmp_path: Path
) -> None:
    target, look = tmp_path / "page.html", tmp_path / "look.html"
    write_page(folder / "groups.h5", target)
    text = target.read_text()
    look.write_text(LOOK % json.dumps(text).replace("</", "<\\/"))
    told = browse(look, tmp_path / "one", "--virtual-time-budget=10000", "--dump-dom")
    found = json.loads(html.unescape(re.search(r"\[\{.*\}\]", told)[0]))  # type: ignore[index]
    assert sorted(each["width"] for each in found) == [390, 1200]
    for each in found:
        assert each["overflow"] <= 0, each
        assert each["images"] == len(FIGURE.findall(text))
        assert each["stops"] > each["images"]
        for what in ("loaded", "focused", "grows", "targets"):
            assert each[what], each
        assert each["unlabelled"] == each["requests"] == 0
    means = []
    for scheme in (0, 1):  # Blink's: dark, light
        shot = tmp_path / f"{scheme}.png"
        browse(
            target, tmp_path / f"profile {scheme}", f"--screenshot={shot}",
            f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1200,2000",
        )  # fmt: skip
        with Image.open(shot) as picture:
            seen = np.asarray(picture.convert("L")).astype(float)
        assert seen.std() > 10, "it is blank"
        means.append(float(np.median(seen)))
    assert means[0] < 60 < 200 < means[1]
