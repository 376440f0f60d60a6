"""`h5ingest manifest --pair`: files of the same name in two folders become one line."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest
from helpers.street import draw_street
from helpers.support import Flavour, explain
from helpers.threads import on_ranks

from h5ingest.core.errors import ManifestError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.images import pairs
from h5ingest.images.scan import ScanOptions
from h5ingest.images.scan_summary import describe
from h5ingest.pipeline.run import ingest
from h5ingest.pipeline.scan_folder import write_manifest
from h5ingest.reading.store import ImageStore


def test_a_manifest_of_pairs_is_ingested(mpich: Flavour, tmp_path: Path) -> None:
    street = draw_street(tmp_path / "street, new", 5)
    (tmp_path / "street, new" / "masks" / "4.png").unlink()
    (tmp_path / "street, new" / "masks" / "alone.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    out = tmp_path / "pairs.csv"
    done = mpich.forked("manifest", tmp_path / "street, new", "-o", out, "--pair", "images:masks")
    assert done.returncode == 0, explain(done)
    assert out.read_text().splitlines() == [
        "path,masks",
        *(
            f'"street, new/images/{row}.{("png", "jpg")[row % 2]}","street, new/masks/{row}.png"'
            for row in range(4)
        ),
    ]
    assert "pairs.csv: 4 pairs, from 10 images (" in done.stderr, explain(done)
    for said in ("1 x in images, without a partner", "'images/4.png'", "'masks/alone.png'"):
        assert said in done.stderr, explain(done)
    ingest(out, tmp_path / "out.h5", IngestOptions(image=("masks:raw",), layout="ragged"))
    with ImageStore(tmp_path / "out.h5") as store:
        images: Any = store[3][0]
        assert (images["masks"] == street.masks[3]).all()


def test_folders_on_any_level_and_labels(tmp_path: Path) -> None:
    for name in ("train/images/a/1.png", "train/masks/a/1.tif", "test/images/b/1.png",
                 "test/masks/b/1.bmp", "images/2.png", "masks/3.png", "other/1.png"):  # fmt: skip
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"")
    options = ScanOptions(pair=("images", "masks"), sniff=False)
    tally = on_ranks(
        2, lambda comm: write_manifest(tmp_path / "in", tmp_path / "m.txt", options, comm)
    )[0]
    assert (tmp_path / "m.txt").read_text().splitlines() == [
        "path\tmasks\tlabel",
        "in/test/images/b/1.png\tin/test/masks/b/1.bmp\tb",
        "in/train/images/a/1.png\tin/train/masks/a/1.tif\ta",
    ]
    said = describe(tally)
    assert "2 classes" in said
    assert "1 x in no folder called images or masks\n    b'other/1.png'".replace("b'", "'") in said


def test_what_cannot_be_paired_is_said(tmp_path: Path) -> None:
    (tmp_path / "in" / "images").mkdir(parents=True)
    (tmp_path / "in" / "images" / "1.png").write_bytes(b"")
    with pytest.raises(ManifestError, match="in folders called images and masks, found none"):
        write_manifest(
            tmp_path / "in", tmp_path / "m.csv", ScanOptions(pair=("images", "masks"), sniff=False)
        )
    for wrong in (("images",), ("images", "images"), ("images", "")):
        with pytest.raises(UsageError, match="--pair: expected two or more names"):
            ScanOptions(pair=wrong)
    with pytest.raises(UsageError, match="no --index"):
        ScanOptions(pair=("images", "masks"), index=True)


def test_the_examples_are_true() -> None:
    assert doctest.testmod(pairs) == (0, 1)
