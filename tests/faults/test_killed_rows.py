"""Several images a row, killed: the next run goes on, whatever the ranks; bad rows stay whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.faults import ALL_FLAVOURS, SMALL, Server, differences, n_done, serving
from helpers.street import Street, draw_street
from helpers.support import Completed, damage, explain, read_file, soon

from h5ingest.inspect.verify import verify

LAYOUTS = {
    "cover zstd": ["--fit", "cover", "--size", "24", "--chunk", "2", "--compression", "zstd:1"],
    "contain": ["--fit", "contain", "--size", "24"],
    "ragged gzip": ["--layout", "ragged", "--compression", "gzip:1"],
    "tree gzip": ["--layout", "tree", "--compression", "gzip:1"],
}
KILLS = (("mark", 2, "after"), ("mark", 2, "before"), ("final", 1, "before"), ("table", 2, "after"))
"""Places where a run is killed: two bad rows are tried each time; then they have become blank."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(ALL_FLAVOURS["mpich"]) as started:
        yield started


def job(
    server: Server, street: Street, out: Path, layout: str, n_ranks: int, faults: Sequence[Any] = ()
) -> Completed:
    words: list[str | Path] = [street.manifest, out, "--image", "mask:raw", "--on-error", "blank"]
    words += [*LAYOUTS[layout], *SMALL, "--report", out.with_suffix(".json")]
    return server.run(words, faults, out.with_suffix(".log"), 60, n_ranks)


@pytest.mark.parametrize("layout", soon(["tree gzip"], LAYOUTS))
def test_killed_and_gone_on_with(server: Server, layout: str, tmp_path: Path) -> None:
    street = draw_street(tmp_path / "street")
    mask, image = street.path(2, "mask"), street.path(8)
    good = mask.read_bytes(), image.read_bytes()
    damage(mask)
    damage(image)
    (tmp_path / "made").mkdir()
    out = tmp_path / "made" / "out.h5"
    expected = tmp_path / "expected.h5"
    whole = job(server, street, expected, layout, 1)
    assert whole.returncode == 0, explain(whole)
    fault = {"act": "kill-all", "site": "mark", "rank": 1, "call": 2, "when": "after"}
    killed = job(server, street, out, layout, 3, [fault])
    assert killed.returncode in (-9, 9, 137, 255), explain(killed)
    for site, call, when in KILLS:
        fault = {"act": "kill", "site": site, "call": call, "when": when}
        killed = job(server, street, out, layout, 1, [fault])
        assert killed.returncode == -9, explain(killed)
    assert n_done(out) > 0
    ended = job(server, street, out, layout, 3)
    assert ended.returncode == 0, explain(ended)
    assert not differences(expected, out)
    for name in ("status", "mask/status"):
        assert np.flatnonzero(read_file(out).arrays[name] != 1).tolist() == [2, 8]
    report = json.loads(out.with_suffix(".json").read_text())
    assert [failure["index"] for failure in report["failures"]] == [2, 8]
    assert report["n_resumed"] > 5
    assert verify(out, sources=True, root=street.manifest.parent).ok
    out.unlink()
    fault = {"act": "kill", "site": "table", "call": 2, "when": "after"}
    killed = job(server, street, out, layout, 1, [fault])  # bad rows are blank in what it leaves
    assert killed.returncode == -9, explain(killed)
    mask.write_bytes(good[0])
    image.write_bytes(good[1])
    mended = job(server, street, out, layout, 1)
    assert mended.returncode == 0, explain(mended)
    assert json.loads(out.with_suffix(".json").read_text())["failures"] == []
    fresh = tmp_path / "fresh.h5"
    assert job(server, street, fresh, layout, 3).returncode == 0
    assert not differences(fresh, out)
    assert verify(out, sources=True, root=street.manifest.parent).ok
