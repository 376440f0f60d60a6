"""What one host stores on a network file system the other reads right as soon as the job has ended.

`make fs-test` runs this; it needs root and /dev/fuse.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from helpers.faults import ALL_FLAVOURS, LAYOUTS, Images, say
from helpers.network_fs import VOLUMES, Network
from helpers.network_jobs import TRIED, problem, store_all
from helpers.support import Flavour

pytestmark = pytest.mark.fs
AGAIN = {"stack zstd": "stack", "ragged gzip": "ragged", "tree gzip": "tree"}
"""Layout -> that of the file from which one like it is recompressed."""


@pytest.fixture(scope="module", params=list(ALL_FLAVOURS))
def stack(request: pytest.FixtureRequest) -> Flavour:
    return ALL_FLAVOURS[request.param].checked()


@pytest.mark.parametrize(
    ("volume", "cached"),
    [(name, cached) for name, kind in VOLUMES.items() for cached in (False, True)
     if kind.cached or not cached],
    ids=lambda value: {False: "default", True: "cached"}.get(value, value),
)  # fmt: skip
def test_the_other_host_reads_every_layout_right(
    network: Network, corpora: dict[str, Images], stack: Flavour, volume: str, cached: bool,
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = network.mounted(volume, cached=cached) / f"{stack.name}{' cached' * cached}"
    network.hosts.seen_from("h1", folder).mkdir()
    tried = list(itertools.product(TRIED, corpora))
    outs = [folder / f"{layout} {corpus}.h5" for layout, corpus in tried]
    jobs: list[list[str | Path]] = [
        [corpora[corpus].manifest(layout), out, *LAYOUTS[layout], "--batch-bytes", "50000"]
        for (layout, corpus), out in zip(tried, outs, strict=True)
    ]
    if (volume, cached) == ("replicated", False):
        for layout, before in AGAIN.items():
            tried.append((layout, "many"))
            outs.append(folder / f"{layout} again.h5")
            jobs.append(
                ["recompress", folder / f"{before} many.h5", outs[-1], *LAYOUTS[layout][-2:]]
            )
    wrong = {}
    started_s = time.monotonic()
    for number, (code, messages) in enumerate(store_all(network, stack, jobs, tmp_path)):
        layout, corpus = tried[number]
        found = f"exit {code}: {messages}"
        if code == 0:
            found = problem(corpora[corpus], layout, network.hosts.seen_from("h2", outs[number]))
        if found:
            wrong[outs[number].name] = found
        took_s, started_s = time.monotonic() - started_s, time.monotonic()
        mounts = "cached" if cached else ""
        say(
            f"{volume:12} {mounts:6} {stack.name:8} {layout:12} {corpus:5} {took_s:5.1f} s  "
            f"{found.strip().splitlines()[-1] if found else 'right'}"
        )
    assert not wrong, "\n\n".join(f"{name}: {found}" for name, found in wrong.items())
