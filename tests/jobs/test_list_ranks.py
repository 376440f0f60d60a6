"""Columns of lists and several classes a row: launched by each MPI, killed and gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.faults import ALL_FLAVOURS, SMALL, Server, differences, serving
from helpers.support import FLAVOURS, explain, make_pixels, write_images

from h5ingest.core.options import IngestOptions
from h5ingest.inspect.verify import verify
from h5ingest.pipeline.run import ingest
from h5ingest.reading.store import ImageStore

N = 24


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Of lines that are cut among ranks where lists of both types, and none, are."""
    names = write_images(tmp_path / "images", make_pixels(N, (6, 5)))
    lines = ["path,label[|],bbox,split"]
    for row, name in enumerate(names):
        classes = "|".join("abcde"[k] for k in range(5) if row >> k & 1)
        boxes = [[row, k, 7, 8.5 if row == 20 else 8] for k in range(row % 4)]
        lines.append(f'images/{name},{classes},"{boxes}",{"xy"[row % 2]}')
    path = tmp_path / "m.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def check(out: Path) -> None:
    with ImageStore(out) as store:
        assert store.labels is not None
        found = [{store.label_names[k] for k in row} for row in store.labels.tolist()]  # type: ignore[index]
        assert found == [{"abcde"[k] for k in range(5) if row >> k & 1} for row in range(N)]
        boxes = store.columns["bbox"]
        assert boxes[20].tolist() == []  # type: ignore[union-attr]
        assert boxes[23].tolist() == [[23.0, k, 7, 8] for k in range(3)]  # type: ignore[union-attr]


@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=FLAVOURS)
def test_each_mpi_makes_the_same_file(flavour: object, manifest: Path, tmp_path: Path) -> None:
    alone = ingest(manifest, tmp_path / "1.h5")
    grouped = ingest(manifest, tmp_path / "1g.h5", IngestOptions(group_by="split"))
    out, of_groups = tmp_path / "3.h5", tmp_path / "3g.h5"
    jobs: list[list[str | Path]] = [
        [manifest, out],
        [manifest, of_groups, "--group-by", "split"],
        ["verify", of_groups],
        ["recompress", of_groups, tmp_path / "z.h5", "--compression", "zstd:1"],
    ]
    for done in flavour.checked().run_many(3, jobs, tmp_path / "told", timeout_s=120):  # type: ignore[attr-defined]
        assert done.returncode == 0, explain(done)
    check(out)
    digests = [verify(tmp_path / name) for name in ("3.h5", "z.h5")]
    assert all(found.ok for found in digests)
    for path, report in ((out, alone), (of_groups, grouped), (tmp_path / "z.h5", grouped)):
        with ImageStore(path, group=None if path == out else "x"):
            pass
        assert digest_of(path) == report.content_digest


def digest_of(path: Path) -> str:
    import h5py

    with h5py.File(path, "r") as file:
        return str(file.attrs["content_digest"])


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(ALL_FLAVOURS["mpich"]) as started:
        yield started


def test_killed_while_lists_are_written(server: Server, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    out, log = tmp_path / "made" / "out.h5", tmp_path / "log"
    words: list[str | Path] = [manifest, out, "--group-by", "split", *SMALL]
    for call in (5, 12):  # the datasets of the first group, and of the second
        fault = {"act": "kill", "site": "table", "call": call, "when": "after"}
        killed = server.run(words, [fault], log, 60)
        assert killed.returncode == -9, explain(killed)
    done = server.run(words, [], log, 60)
    assert done.returncode == 0, explain(done)
    assert "stored by an earlier run" in done.stderr
    ingest(manifest, tmp_path / "whole.h5", IngestOptions(group_by="split"))
    assert differences(tmp_path / "whole.h5", out) == []
