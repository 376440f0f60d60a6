"""`--croissant`: what the official validator and a reader of the JSON find in it."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h5py
import numpy as np
import pytest
from helpers.support import (
    Completed,
    Flavour,
    explain,
    make_pixels,
    run,
    write_images,
    write_manifest,
)

from h5ingest import ImageStore

VALIDATE = """
import json, logging, sys
logging.disable()
import mlcroissant
dataset = mlcroissant.Dataset(sys.argv[1])
issues = dataset.metadata.ctx.issues
print(json.dumps({
    "errors": sorted(issues.errors),
    "warnings": sorted(issues.warnings),
    "fields": {
        field.id: [str(field.data_types), field.array_shape]
        for records in dataset.metadata.record_sets for field in records.fields
    },
    "sources": {
        field.id: [field.source.file_object, field.source.extract.column]
        for records in dataset.metadata.record_sets for field in records.fields
        if records.id != "label_names"
    },
    "names": [
        {key.rpartition("/")[2]: value for key, value in record.items()}
        for records in dataset.metadata.record_sets if records.id == "label_names"
        for record in dataset.records(records.id)
    ],
}, default=lambda value: value.decode()))
"""


def validated(json_file: Path) -> Any:
    """What MLCommons' own package says of a file; in a process of its own, as it warns a lot."""
    completed = run([sys.executable, "-W", "ignore", "-c", VALIDATE, json_file], timeout_s=120)
    assert completed.returncode == 0, explain(completed)
    found = json.loads(completed.stdout.splitlines()[-1])
    assert found["errors"] == []
    return found


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    names = write_images(tmp_path / "images", make_pixels(6, (4, 3, 3)))
    rows = [
        (f"images/{name}", ("dog", "été")[row % 2], row * 0.5, row, f"note {row}")
        for row, name in enumerate(names)
    ]
    columns = ("path", "label", "x", "my id", "my_id")
    return write_manifest(tmp_path / "all.csv", [columns, *rows])


def ingest(mpich: Flavour, manifest: Path, *more: str | Path) -> Completed:
    folder = manifest.parent
    return mpich.forked(manifest, folder / "out.h5", "--croissant", folder / "out.json", *more)


def test_the_official_validator_finds_no_error(mpich: Flavour, manifest: Path) -> None:
    completed = ingest(mpich, manifest)
    assert completed.returncode == 0, explain(completed)
    found = validated(manifest.with_name("out.json"))
    # Only what nobody but the owner of the data can know.
    assert len(found["warnings"]) == 4
    for missing in ("license", "citeAs", "version", "datePublished"):
        assert any(missing in warning for warning in found["warnings"])
    assert found["fields"].keys() == {
        "samples/checksums", "samples/columns/my%20id", "samples/columns/my_id",
        "samples/columns/x", "samples/images", "samples/labels", "samples/paths",
        "samples/status", "label_names/n_images", "label_names/label", "label_names/name",
    }  # fmt: skip
    assert found["fields"]["samples/images"][1] == "4,3,3"
    assert "UInt8" in found["fields"]["samples/images"][0]
    assert "Float64" in found["fields"]["samples/columns/x"][0]
    assert "Int64" in found["fields"]["samples/columns/my%20id"][0]
    assert "Text" in found["fields"]["samples/columns/my_id"][0]
    assert found["names"] == [
        {"label": 0, "name": "dog", "n_images": 3}, {"label": 1, "name": "été", "n_images": 3},
    ]  # fmt: skip


def test_the_file_is_named_with_its_size_and_digest(mpich: Flavour, manifest: Path) -> None:
    assert ingest(mpich, manifest).returncode == 0
    out = manifest.with_name("out.h5")
    metadata = json.loads(manifest.with_name("out.json").read_text())
    (file,) = metadata["distribution"]
    assert file["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert file["contentSize"] == f"{out.stat().st_size} B"
    assert file["contentUrl"] == "out.h5"
    sources = [field["source"] for field in metadata["recordSet"][0]["field"]]
    assert {"fileObject": {"@id": "out.h5"}, "extract": {"column": "/columns/my id"}} in sources


def test_what_was_added_by_hand_is_kept(mpich: Flavour, manifest: Path) -> None:
    assert ingest(mpich, manifest).returncode == 0
    json_file = manifest.with_name("out.json")
    by_hand = json.loads(json_file.read_text())
    by_hand |= {
        "license": "https://creativecommons.org/licenses/by/4.0/",
        "citeAs": "@misc{us}",
        "version": "1.0.0",
        "datePublished": "2025-01-01",
        "description": "Animals.",
    }
    by_hand["distribution"][0] |= {"contentUrl": "https://example.org/out.h5", "sha256": "old"}
    json_file.write_text(json.dumps(by_hand))
    assert ingest(mpich, manifest, "--overwrite", "--compression", "gzip").returncode == 0
    assert validated(json_file)["warnings"] == []
    again = json.loads(json_file.read_text())
    assert again["license"] == by_hand["license"]
    assert again["description"] == "Animals."
    (file,) = again["distribution"]
    assert file["contentUrl"] == "https://example.org/out.h5"
    digest = hashlib.sha256(manifest.with_name("out.h5").read_bytes()).hexdigest()
    assert file["sha256"] == digest


@pytest.mark.parametrize("content", ["not JSON", "[]", '{"precious": 1}'])
def test_a_file_of_another_kind_is_not_overwritten(
    mpich: Flavour, manifest: Path, content: str
) -> None:
    json_file = manifest.with_name("out.json")
    json_file.write_text(content)
    completed = ingest(mpich, manifest)
    assert completed.returncode == 2, explain(completed)
    assert "expected Croissant metadata" in completed.stderr
    assert json_file.read_text() == content
    assert not manifest.with_name("out.h5").exists()  # known before any work


def test_a_dry_run_describes_nothing(mpich: Flavour, manifest: Path) -> None:
    assert ingest(mpich, manifest, "--dry-run").returncode == 0
    assert not manifest.with_name("out.json").exists()


def test_integer_labels_have_no_names(mpich: Flavour, manifest: Path) -> None:
    lines = manifest.read_text().replace("dog", "0").replace("été", "1")
    manifest.write_text(lines)
    assert ingest(mpich, manifest).returncode == 0
    found = validated(manifest.with_name("out.json"))
    assert "label_names/label" not in found["fields"]


def test_of_a_finished_file_it_is_that_of_the_ingest(mpich: Flavour, manifest: Path) -> None:
    assert ingest(mpich, manifest).returncode == 0
    told = manifest.with_name("out.json").read_text()
    out = manifest.with_name("out.h5")
    by_hand = {**json.loads(told), "license": "https://example.org/licence"}
    manifest.with_name("out.json").write_text(json.dumps(by_hand))
    completed = mpich.forked("croissant", out)
    assert completed.returncode == 0, explain(completed)
    assert completed.stdout == f"{manifest.with_name('out.json')}\n"
    assert json.loads(manifest.with_name("out.json").read_text()) == by_hand
    completed = mpich.forked("croissant", out, manifest.with_name("other.json"))
    assert completed.returncode == 0, explain(completed)
    assert manifest.with_name("other.json").read_text() == told
    manifest.with_name("other.json").write_text("precious")
    completed = mpich.forked("croissant", out, manifest.with_name("other.json"))
    assert completed.returncode == 2, explain(completed)
    assert "expected Croissant metadata" in completed.stderr
    assert manifest.with_name("other.json").read_text() == "precious"
    completed = mpich.forked("croissant", manifest, manifest.with_name("no.json"))
    assert completed.returncode == 5, explain(completed)
    assert not manifest.with_name("no.json").exists()


def test_what_its_fields_name_are_the_records_of_the_store(mpich: Flavour, manifest: Path) -> None:
    assert ingest(mpich, manifest).returncode == 0
    json_file, out = manifest.with_name("out.json"), manifest.with_name("out.h5")
    found = validated(json_file)
    store = ImageStore(out)
    assert found["names"] == [
        {"label": k, "name": name, "n_images": 3} for k, name in enumerate(store.label_names or ())
    ]
    expected: dict[str, Any] = {
        "samples/images": store[:][0], "samples/labels": store.labels,
        "samples/status": store.status, "samples/paths": list(store.paths),
        **{f"samples/columns/{quote(name)}": column for name, column in store.columns.items()},
    }  # fmt: skip
    with h5py.File(out) as file:
        for field, values in expected.items():
            name, column = found["sources"][field]
            assert name == "out.h5"
            read = file[column].asstr()[:] if file[column].dtype == object else file[column][:]
            np.testing.assert_array_equal(read, list(values))
    measured = {
        each["name"]: each["value"]
        for each in json.loads(json_file.read_text())["variableMeasured"]
    }
    for channel, (mean, std) in enumerate(zip(store.stats.mean, store.stats.std, strict=True)):
        of = f"of pixels, 3 channels of uint8, channel {channel}"
        assert measured[f"mean {of}"] == mean
        assert measured[f"standard deviation {of}"] == std
    assert measured["images that are exact copies of others"] == 0
