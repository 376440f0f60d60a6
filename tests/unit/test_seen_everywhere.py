"""A job on several hosts ends when each of them sees the file, or says which does not."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from helpers.threads import ThreadComm, on_ranks

from h5ingest.pipeline import seen_everywhere
from h5ingest.pipeline.seen_everywhere import unseen

CONTENT = os.urandom(10_000)


def waited_for(
    tmp_path: Path, hosts: list[str], late: dict[str, bytes | None], limit_s: float
) -> list[tuple[str, ...]]:
    """What each rank is told; a host in `late` has a view of its own of the file."""
    for host in {*hosts}:
        (tmp_path / host).mkdir()
        content = late.get(host, CONTENT)
        if content is not None:
            (tmp_path / host / "out.h5").write_bytes(content)

    def on_rank(comm: ThreadComm) -> tuple[str, ...]:
        comm.hosts, comm.n_hosts = hosts, len({*hosts})
        return unseen(tmp_path / hosts[comm.rank] / "out.h5", comm, 2 * limit_s)

    return on_ranks(len(hosts), on_rank)


def test_it_is_waited_for_until_it_is_seen_whole(tmp_path: Path) -> None:
    late = tmp_path / "h2" / "out.h5"

    def appear() -> None:
        time.sleep(0.3)
        (tmp_path / "h3" / "out.h5").write_bytes(CONTENT)
        for content in (b"", CONTENT[:5000], CONTENT):
            late.write_bytes(content)
            time.sleep(0.2)

    other = threading.Thread(target=appear)
    other.start()
    started_s = time.monotonic()
    told = waited_for(
        tmp_path, ["h1", "h1", "h2", "h2", "h3"], {"h2": None, "h3": bytes(10_000)}, 9.0
    )
    waited_s = time.monotonic() - started_s
    other.join()
    assert told == [()] * 5
    assert 0.6 < waited_s < 9


def test_a_host_that_does_not_see_it_is_named_with_what_it_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = ["h1", "h2", "h3", "h4", "h4"]
    views: dict[str, bytes | None] = {"h2": None, "h3": CONTENT[:5000], "h4": bytes(10_000)}
    told = waited_for(tmp_path, hosts, views, 0.3)
    assert {len(lines) for lines in told} == {3}, "all ranks are told"
    absent, short, other = told[0]
    assert "is complete, but h2 does not see it (No such file or directory) after 0 s" in absent
    assert "h3 sees 5,000 bytes of 10,000" in short
    assert "h4 reads other bytes at its beginning" in other
    assert " on /" in absent, "its mount"
    monkeypatch.setattr(seen_everywhere, "_look", None)  # one host: nothing is looked at
    assert on_ranks(2, lambda comm: unseen(tmp_path / "out.h5", comm, 1.0)) == [(), ()]


def test_a_file_that_is_gone_at_once_is_not_waited_for(tmp_path: Path) -> None:
    started_s = time.monotonic()
    assert waited_for(tmp_path, ["h1", "h2"], {"h1": None}, 9.0) == [(), ()]
    assert time.monotonic() - started_s < 5
