"""What two hosts cost on a network file system: seconds against one host, writes of rank 0.

`make fs-test` prints it; times are not judged here.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from helpers.faults import ALL_FLAVOURS, faulty, say
from helpers.hosts import launched
from helpers.network_fs import Network
from helpers.support import make_pixels, write_images, write_manifest

pytestmark = pytest.mark.fs

N_IMAGES = 10_000
LAYOUTS: dict[str, list[str]] = {
    "stack": [],
    "stack-zstd": ["--compression", "zstd:3"],
    "tree": ["--layout", "tree"],
}


def writes(log: Path) -> Counter[str]:
    """Process -> its writes to the file."""
    return Counter({each.name: len(each.read_text().splitlines()) for each in log.iterdir()})


@pytest.mark.timeout(900)
def test_rank_0_writes_in_large_pieces(network: Network, preload: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    names = write_images(tmp_path / "images", make_pixels(N_IMAGES, (28, 28)))
    manifest = write_manifest(tmp_path / "m.txt", (f"images/{name}" for name in names))
    stack = ALL_FLAVOURS["wheels"].checked()
    folder = network.mounted("replicated", cached=False) / "figures"
    network.hosts.seen_from("h1", folder).mkdir()
    for layout, options in LAYOUTS.items():
        seconds: dict[int, float] = {}
        for n_hosts in (1, 2):
            log = tmp_path / f"{layout}-{n_hosts}"
            log.mkdir()
            env = faulty(preload, match=".h5.partial", log=log)
            out = folder / f"{layout}-{n_hosts}.h5"
            words: list[str | Path] = [stack.bin / "h5ingest", manifest, out, *options, "--quiet"]
            settings = [f"{name}={value}" for name, value in env.items()]
            command = network.hosts.mpirun(
                stack.name, 4, ["env", *settings, *words], n_hosts=n_hosts
            )
            started_s = time.monotonic()
            with launched(command) as job:
                code, printed = job.end(timeout_s=300)
            seconds[n_hosts] = time.monotonic() - started_s
            assert code == 0, printed
            found = sorted(writes(log).values())
            say(f"{layout:10} {n_hosts} hosts {seconds[n_hosts]:6.1f} s, writes by rank {found}")
            assert n_hosts == 1 or found[-1] <= 1000
        say(f"{layout:10} two hosts / one host {seconds[2] / seconds[1]:.2f}")
        assert os.path.getsize(network.hosts.seen_from("h2", out)) > 0
