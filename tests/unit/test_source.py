"""Reading source files: whatever a path leads to is read whole or refused with its reason."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from h5ingest.core.errors import SampleError
from h5ingest.images.source_files import read

NOBODY = 65534


def refused(path: bytes | Path) -> tuple[str, str]:
    with pytest.raises(SampleError) as caught:
        read(os.fsencode(path))
    return caught.value.kind, caught.value.reason


@pytest.mark.parametrize("n_bytes", [1, 4095, 4096, 5 * 1024**2 + 3])
def test_a_file_is_read_whole_with_its_size(tmp_path: Path, n_bytes: int) -> None:
    content = random.Random(n_bytes).randbytes(n_bytes)
    file = tmp_path / "a.png"
    file.write_bytes(content)
    assert read(os.fsencode(file)) == (content, n_bytes)


@pytest.mark.parametrize("limit", [0, 1, 9, 10, 11, 4096])
def test_a_limit_takes_the_first_bytes_and_still_tells_the_size(tmp_path: Path, limit: int) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"0123456789")
    assert read(os.fsencode(file), limit) == (b"0123456789"[:limit], 10)


def test_an_empty_file_is_no_bytes(tmp_path: Path) -> None:
    file = tmp_path / "empty.png"
    file.touch()
    assert read(os.fsencode(file)) == (b"", 0)


def test_a_name_of_undecodable_bytes_is_read(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9 \xff.png")
    with open(path, "wb") as file:
        file.write(b"bytes")
    assert read(path) == (b"bytes", 5)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"bytes")
    (tmp_path / "link.png").symlink_to("a.png")
    assert read(os.fsencode(tmp_path / "link.png")) == (b"bytes", 5)


@pytest.mark.parametrize("name", ["none.png", "none/none.png", "file.txt/none.png", "dangling"])
def test_what_does_not_exist_is_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").touch()
    (tmp_path / "dangling").symlink_to("none.png")
    assert refused(tmp_path / name) == ("missing", "no such file")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == ("unreadable", "expected a file, found a directory")


@pytest.mark.timeout(20)
def test_a_fifo_that_nobody_writes_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert refused(tmp_path / "fifo") == ("unreadable", "expected a file, found a FIFO")


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is limited to 108 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        kind, reason = refused(b"socket")
    assert kind == "unreadable"
    assert reason


@pytest.mark.timeout(20)
@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero", "/dev/tty"])
def test_a_device_is_refused(device: str) -> None:
    kind, reason = refused(Path(device))
    assert kind == "unreadable"
    assert reason


def test_a_loop_of_links_is_refused_with_the_reason_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    kind, reason = refused(tmp_path / "a")
    assert kind == "unreadable"
    assert "symbolic links" in reason


def test_a_name_too_long_is_refused_with_the_reason_of_the_system(tmp_path: Path) -> None:
    kind, reason = refused(tmp_path / ("a" * 5000))
    assert kind == "unreadable"
    assert "too long" in reason


def test_a_file_without_read_permission_is_refused_with_the_reason(tmp_path: Path) -> None:
    # Root may read everything: so a process of its own gives its rights up first.
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "locked.png").write_bytes(b"bytes")
    (folder / "locked.png").chmod(0)
    (folder / "open.png").write_bytes(b"bytes")
    (folder / "open.png").chmod(0o644)
    script = f"""
        import json, os
        from h5ingest.core.errors import SampleError
        from h5ingest.images.source_files import read
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid({NOBODY})
            os.setuid({NOBODY})
        found = [read(b"open.png")[1]]
        try:
            read(b"locked.png")
        except SampleError as error:
            found += [error.kind, error.reason]
        print(json.dumps(found))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=folder, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [5, "unreadable", "Permission denied"]


def test_a_file_shorter_than_its_size_is_refused_as_changed() -> None:
    # The kernel's own attribute files say 4,096 bytes and hold fewer.
    for file in Path("/sys/kernel").glob("*"):
        if file.is_file() and os.access(file, os.R_OK) and file.stat().st_size >= 4096:
            kind, reason = refused(file)
            assert kind == "changed"
            assert "shrank" in reason
            return
    pytest.skip("no file under /sys/kernel says more bytes than it holds")


def test_a_file_that_shrinks_meanwhile_is_whole_or_refused(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(300_000)
    file = tmp_path / "a.png"
    file.write_bytes(content)
    stop = threading.Event()

    def shrink_and_grow() -> None:
        while not stop.is_set():
            os.truncate(file, 1000)
            with file.open("r+b") as opened:
                opened.write(content)

    writer = threading.Thread(target=shrink_and_grow)
    writer.start()
    try:
        for _ in range(200):
            try:
                data, size = read(os.fsencode(file))
            except SampleError as error:
                assert error.kind == "changed"  # noqa: PT017 - both outcomes are right
            else:
                assert len(data) == size
    finally:
        stop.set()
        writer.join()


def test_a_file_larger_than_the_memory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sparse.png"
    with file.open("wb") as opened:
        try:
            opened.truncate(1 << 43)  # takes no space: it is one hole
        except OSError:
            pytest.skip("the file system has no files of 8 TiB")
    try:
        kind, reason = refused(file)
    finally:
        file.unlink()
    assert kind in ("unreadable", "too large")
    assert reason


def test_no_file_stays_open(tmp_path: Path) -> None:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("no /proc here")
    (tmp_path / "a.png").write_bytes(b"bytes")
    os.mkfifo(tmp_path / "fifo")
    before = len(list(folder.iterdir()))
    for _ in range(5):
        read(os.fsencode(tmp_path / "a.png"))
        refused(tmp_path)
        refused(tmp_path / "fifo")
        refused(tmp_path / "none.png")
    assert len(list(folder.iterdir())) == before
