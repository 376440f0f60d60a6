"""Pages that say what the program does: they are compared with it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.support import ROOT, make_pixels, write_images, write_manifest, write_png

from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest

FORMAT = (ROOT / "docs/format.md").read_text()
(READER,) = re.findall(r"^```python\n(.*?)^```", FORMAT, re.MULTILINE | re.DOTALL)


def test_the_page_of_the_command_line_is_what_the_command_says() -> None:
    made = runpy.run_path(str(ROOT / "scripts/cli_page.py"))["cli_page"]()
    assert (ROOT / "docs/cli.md").read_text() == made, "make docs writes it"


@pytest.mark.parametrize(
    "options",
    [
        {}, {"compression": "zstd:3"}, {"compression": "htj2k"}, {"layout": "ragged"},
        {"layout": "tree"}, {"layout": "tree", "compression": "gzip:1"}, {"layout": "encoded"},
        {"fit": "pad"}, {"group_by": "split"}, {"group_by": "split", "layout": "ragged"},
        {"group_by": "split", "layout": "tree"}, {"group_by": "split", "layout": "encoded"},
    ],
    ids=str,
)  # fmt: skip
def test_a_reader_written_from_the_page_reads_every_layout(
    options: dict[str, Any], tmp_path: Path
) -> None:
    assert len(READER.splitlines()) <= 60
    assert not re.search(r"h5ingest", re.sub(r'#.*|""".*?"""|!= "h5ingest"', "", READER))
    grouped = "group_by" in options
    shape = (5, 7, 3) if "fit" not in options and options.get("layout", "stack") == "stack" else ()
    shapes = [shape or [(5, 7, 3), (9, 4), (3, 3, 4)][row % 3] for row in range(9)]
    if "fit" in options:
        shapes = [(3 + row, 9 - row, 3) for row in range(9)]
    pixels = [make_pixels(1, each)[0] for each in shapes]
    rows: list[tuple[str, ...]] = [("path", "label", "split")]
    for row, image in enumerate(pixels):
        write_png(tmp_path / f"{row}.png", image)
        rows.append((f"{row}.png", ("ape", "bee")[row % 2], ("x", "y/z")[row % 2]))
    (tmp_path / "5.png").write_bytes(b"no image")
    manifest = write_manifest(tmp_path / "m.csv", rows)
    made = IngestOptions(on_error="blank", **options)
    ingest(manifest, tmp_path / "out.h5", made)
    code: dict[str, Any] = {}
    exec(compile(READER, "format.md", "exec"), code)
    found = {
        path.decode(): (group, label, image)
        for group, path, label, image in code["read"](tmp_path / "out.h5")
    }
    assert found.keys() == {f"{row}.png" for row in range(9) if row != 5}
    for path, (group, label, image) in found.items():
        row = int(path.removesuffix(".png"))
        assert label == ("ape", "bee")[row % 2]
        assert group == (("x", "y%2Fz")[row % 2] if grouped else "/")
        if made.layout == "encoded":
            assert image == (tmp_path / path).read_bytes()
        else:
            np.testing.assert_array_equal(image, pixels[row])
            assert image.dtype == pixels[row].dtype


def test_the_reader_refuses_what_is_not_finished(tmp_path: Path) -> None:
    import h5py

    manifest = write_manifest(tmp_path / "m.txt", write_images(tmp_path, make_pixels(2, (3, 4))))
    ingest(manifest, tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5", "r+") as file:
        file.attrs["status"] = "incomplete"
    code: dict[str, Any] = {}
    exec(compile(READER, "format.md", "exec"), code)
    with pytest.raises(ValueError, match="not a finished file"):
        list(code["read"](tmp_path / "out.h5"))


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    problems = runpy.run_path(str(ROOT / "scripts/check_site.py"))["problems"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a/index.html").write_text('<h1 id="top1">x</h1><a href="../">up</a>')
    (tmp_path / "style.css").write_text("")
    good = (
        '<link rel="stylesheet" href="style.css"><a href="a/#top1">x</a><a href="https://x.y">z</a>'
    )
    (tmp_path / "index.html").write_text(good)
    assert problems(tmp_path) == []
    bad = '<a href="b/">b</a><a href="a/#no">c</a><script src="https://cdn.example/x.js"></script>'
    (tmp_path / "index.html").write_text(good + bad)
    assert problems(tmp_path) == [
        "index.html: b/ leads to no file",
        "index.html: a/#no leads to no anchor",
        "index.html: would fetch https://cdn.example/x.js",
    ]


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= listed
    assert all((ROOT / "docs" / page).exists() or (ROOT / page).exists() for page in listed)
