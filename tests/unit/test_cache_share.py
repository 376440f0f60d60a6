"""What a rank keeps of files, from what its host, its control groups and SLURM leave it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from helpers.support import make_pixels, write_images, write_manifest
from helpers.threads import on_ranks

from h5ingest.core.options import IngestOptions
from h5ingest.core.units import MIB
from h5ingest.pipeline.cache_share import cache_share, free_bytes
from h5ingest.pipeline.run import ingest

PAGES = 1_000 * MIB


def host(root: Path, groups: str, **files: int | str) -> Path:
    files = {"proc/meminfo": f"MemTotal: 9 kB\nMemAvailable: {PAGES // 1024} kB\n", **files}
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("groups", "files", "environment", "expected"),
    [
        ("0::/", {}, {}, PAGES),
        ("0::/a/b", {f"{V2}/a/b/memory.max": "max", f"{V2}/a/b/memory.current": 5}, {}, PAGES),
        ("0::/a/b", {f"{V2}/a/b/memory.max": 90, f"{V2}/a/b/memory.current": 50}, {}, 40),
        ("0::/a/b", {f"{V2}/a/memory.max": 70, f"{V2}/a/memory.current": 50,
                     f"{V2}/a/b/memory.max": 90, f"{V2}/a/b/memory.current": 50}, {}, 20),
        ("0::/", {f"{V2}/memory.max": 50, f"{V2}/memory.current": 60}, {}, 1),
        ("4:cpu:/x\n3:memory,cpu:/j", {f"{V1}/j/memory.limit_in_bytes": 90,
                                       f"{V1}/j/memory.usage_in_bytes": 30}, {}, 60),
        ("", {}, {"SLURM_MEM_PER_NODE": "300"}, 300 * MIB),
        ("", {}, {"SLURM_MEM_PER_NODE": "0"}, PAGES),  # all of the host
        ("", {}, {"SLURM_MEM_PER_CPU": "100", "SLURM_CPUS_ON_NODE": "4"}, 400 * MIB),
        ("", {}, {"SLURM_MEM_PER_CPU": "100"}, PAGES),
        ("", {"proc/meminfo": ""}, {}, 0),
    ],
)  # fmt: skip
def test_the_least_of_what_limits_a_job_counts(
    groups: str, files: dict[str, int], environment: dict[str, str], expected: int, tmp_path: Path
) -> None:
    assert free_bytes(environment, host(tmp_path, groups, **files)) == expected


def test_ranks_of_a_host_share_and_the_report_says_how_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "8")
    assert on_ranks(4, cache_share) == [MIB // 4] * 4
    names = write_images(tmp_path, make_pixels(5, (6, 5)))
    manifest = write_manifest(tmp_path / "m.txt", names)
    for wanted, expected in ((None, MIB), (700, 1400)):
        options = IngestOptions(cache_bytes=wanted)
        out = tmp_path / f"{expected}.h5"
        told = on_ranks(2, partial(ingest, manifest, out, options))
        assert told[0].bytes_cache == told[0].to_json()["bytes_cache"] == expected
