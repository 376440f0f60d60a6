"""On several hosts, no block of the file has two writers, whatever writes it."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.faults import ALL_FLAVOURS, faulty
from helpers.layout_runs import launch
from helpers.support import make_pixels, read_file, soon, write_manifest, write_png

from h5ingest.storage.shared_blocks import BLOCK, boxes, forget_cached, split

N_IMAGES = 60
KINDS = {"equal": "uint8", "deep": "uint16", "any": "uint8"}
"""Images of one size, of 16 bits, of any size."""
CASES: dict[str, dict[str, Any]] = {
    "equal": {"layout": "stack", "chunk_rows": 3},
    "deep": {"layout": "stack", "chunk_rows": 7, "batch_bytes": 50_000},
    "equal gzip": {"layout": "stack", "chunk_rows": 3, "compression": "gzip:1"},
    "equal groups": {"layout": "stack", "group_by": "cls", "chunk_rows": 1},
    "any": {"layout": "ragged"},
    "deep ragged": {"layout": "ragged", "batch_bytes": 70_000},
    "any gzip": {"layout": "ragged", "compression": "gzip:1"},
    "any tree": {"layout": "tree"},
    "equal tree gzip": {"layout": "tree", "compression": "gzip:1"},
    "any encoded": {"layout": "encoded"},
    "equal direct": {"layout": "stack", "chunk_rows": 2, "direct_io": "on", "batch_bytes": 50_000},
}
"""Kind of images and more -> options. Checkpoints are as frequent as can be, or none."""


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, made = tmp_path_factory.mktemp("images"), {}
    rng = np.random.default_rng(5)
    for kind, dtype in KINDS.items():
        lines = ["path,label,cls"]
        for i in range(N_IMAGES):
            shape = rng.integers(1, 130, 2).tolist() if kind == "any" else [61, 67]
            write_png(folder / f"{kind}{i}.png", make_pixels(1, (*shape, 3), dtype)[0])
            lines.append(f"{kind}{i}.png,{i % 5},{i % 3}")
        made[kind] = write_manifest(folder / f"{kind}.csv", lines)
    return made


def writers(log: Path) -> dict[str, dict[int, set[str]]]:
    """File -> block -> the processes that have written to it."""
    found: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for process in log.iterdir():
        for line in process.read_text().splitlines():
            path, offset, n_bytes = line.split("\t")
            last = int(offset) + int(n_bytes) - 1
            for block in range(int(offset) // BLOCK, last // BLOCK + 1):
                found[Path(path).name][block].add(process.name)
    return found


@pytest.mark.parametrize("which", soon(["wheels"], ["mpich", "wheels", "openmpi"]))
def test_a_block_has_one_writer(
    which: str, manifests: dict[str, Path], preload: Path, tmp_path: Path
) -> None:
    flavour, log = ALL_FLAVOURS[which].checked(), tmp_path / "log"
    log.mkdir()
    cases: list[dict[str, Any]] = [
        {
            "manifest": str(manifests[name.split()[0]]),
            "out": str(tmp_path / f"{n_hosts} {name}.h5"),
            "n_hosts": n_hosts,
            "options": {**options, "checkpoint_s": 0.0001 if n_hosts == 3 else 60},
        }
        for name, options in CASES.items()
        for n_hosts in (1, 2, 3)
    ]
    env = {"SOURCE_DATE_EPOCH": "0", **faulty(preload, match=".h5.partial", log=log)}
    reports = launch(flavour, 3, cases, tmp_path, env=env)
    told = {Path(case["out"]).name: report for case, report in zip(cases, reports, strict=True)}
    assert not [report for report in reports if "error" in report], reports
    blocks = writers(log)
    for name in CASES:
        alone = told[f"1 {name}.h5"]
        for n_hosts in (2, 3):
            out = f"{n_hosts} {name}.h5"
            assert told[out]["digest"] == alone["digest"], out
            assert (tmp_path / out).read_bytes() == (tmp_path / f"1 {name}.h5").read_bytes() or (
                "gzip" in name  # chunks lie in the order in which they came
            ), out
            read_file(tmp_path / out)  # compares the checksums of chunks
            of_block = blocks[f"{out}.partial"]
            shared = {block: who for block, who in of_block.items() if len(who) > 1}
            assert not shared, f"{out}: {sorted(shared)[:10]} …"
            # Else it would prove nothing.
            assert len(set.union(*of_block.values())) == 3, out
        assert [who for who in blocks[f"1 {name}.h5.partial"].values() if len(who) > 1], name


@pytest.mark.parametrize("seed", range(50))
def test_splitting_loses_no_byte(seed: int) -> None:
    rng = np.random.default_rng(seed)
    offset = int(rng.integers(0, 3 * BLOCK))
    lengths = rng.choice([0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK], rng.integers(1, 5))
    parts = [rng.bytes(n) for n in lengths.tolist()]
    for_rank_0, start, rest = split(offset, parts)
    whole = b"".join(rest)
    assert len(whole) % BLOCK == 0
    assert not whole or start % BLOCK == 0
    pieces = sorted([*for_rank_0, *([(start, whole)] if whole else [])])
    assert b"".join(data for _, data in pieces) == b"".join(parts)
    at = offset
    for begin, data in pieces:
        assert begin == at
        at += len(data)
        assert data is whole or len(data) < 2 * BLOCK


@pytest.mark.parametrize("seed", range(50))
def test_hyperslabs_have_the_elements_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, rng.integers(1, 5)).tolist())
    array = np.arange(np.prod(shape)).reshape(shape)
    first, last = np.sort(rng.integers(0, array.size + 1, 2)).tolist()
    found = [
        array[tuple(slice(s, s + n) for s, n in zip(start, count, strict=True))].ravel()
        for start, count in boxes(first, last, shape)
    ]
    np.testing.assert_array_equal(np.concatenate([*found, []]), np.arange(first, last))
    assert len(found) <= 2 * len(shape)


@pytest.mark.timeout(20)
def test_a_fifo_that_lies_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out.h5.journal")
    forget_cached(tmp_path / "out.h5.journal")
