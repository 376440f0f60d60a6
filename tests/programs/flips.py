"""Damage files and let `verify` look at them; an independent reader says whether it had to see it.

    flips.py FOLDER FIRST COUNT [show]   cases FIRST to FIRST + COUNT - 1, files in FOLDER
    flips.py FOLDER FIRST COUNT scales   likewise, of stacks, damaged in the names of dimensions
    flips.py --read                      the independent reader: names of files in, snapshots out
    flips.py --show                      `h5ingest show`, of one file after the other

A file for each way of storing images and each filter is made, damaged anew for each case (one byte
mostly; also some bytes, a sector, the end), and verified in this process. On several ranks, all of
them verify it together, root has done so alone before, and the outcome has to be the same. The
number of the case under way stands in FOLDER/progress, should the process end by a signal; the last
line on stdout is JSON: how often each came out, and the cases that came out wrong.

Launched by tests; never imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers its filters
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests: started as a script

from helpers.scales import plain
from PIL import Image

N_IMAGES = 14
LONGEST_S = 150.0
"""A verification that takes longer hangs."""
MARKS = {"CLASS", "IMAGE_VERSION", "IMAGE_SUBCLASS", "IMAGE_WHITE_IS_ZERO", "INTERLACE_MODE"}
"""Attributes of a tree's images, for viewers, which are not looked at."""

STORED: dict[str, dict[str, Any]] = {
    "stack": {"chunk_rows": 3},
    "stack, padded": {"fit": "pad", "chunk_rows": 3},
    "stack, groups": {"chunk_rows": 3, "group_by": "site"},
    "stack, palette": {"chunk_rows": 3, "samples": "raw"},
    "ragged": {"layout": "ragged"},
    "ragged, groups": {"layout": "ragged", "group_by": "site"},
    "tree": {"layout": "tree"},
    "encoded": {"layout": "encoded"},
}
FILTERS = ("none", "gzip:1", "bzip2", "zstd", "lz4", "bitshuffle", "bitshuffle:zstd", "blosc",
           "blosc2", "lzf", "szip")  # fmt: skip


def make_images(folder: Path) -> None:
    """Smooth images, which every filter makes smaller, and what a manifest says of them."""
    dice = np.random.default_rng(4)
    for sizes in ("same", "other", "palette"):
        rows = ["path,label,site,age,note\n"]
        for k in range(N_IMAGES):
            height, width = (9 + k % 5, 16 - k % 3) if sizes == "other" else (12, 16)
            y, x = np.mgrid[:height, :width]
            pixels = ((3 * x + 5 * y + dice.integers(0, 3, x.shape)) % 256).astype(np.uint8)
            image = Image.fromarray(pixels)
            if sizes == "palette":
                image = Image.fromarray(pixels % 16, "P")
                image.putpalette([(7 * i) % 256 for i in range(48)])
            image.save(folder / f"{sizes}-{k}.png")
            note = "" if k == 5 else f"note {k} " * (k % 4)
            rows.append(f"{sizes}-{k}.png,{['cat', 'dog', 'owl'][k % 3]},{'ab'[k % 2]},"
                        f"{k / 2 if k % 4 else ''},{note}\n")  # fmt: skip
        (folder / f"{sizes}.csv").write_text("".join(rows))


class Files:
    """A file for each way of storing images and each filter there is, made when needed."""

    def __init__(self, folder: Path) -> None:
        from programs.launched_faults import make_small

        from h5ingest.storage.filters import available

        make_small(512)
        make_images(folder)
        self._folder = folder
        filters = [name for name in FILTERS if name.partition(":")[0] in ("none", *available())]
        self.kinds = [
            (stored, name)
            for stored in STORED
            for name in (filters if stored != "encoded" else ["none"])
        ]

    def __getitem__(self, kind: tuple[str, str]) -> Path:
        """A file of this kind: it is as it should be."""
        from h5ingest.core.options import IngestOptions
        from h5ingest.pipeline.run import ingest

        out = self._folder / f"{self.kinds.index(kind)}.h5"
        if not out.exists():
            stored, name = kind
            sizes = "palette" if "palette" in stored else "other"
            sizes = "same" if stored in ("stack", "stack, groups") else sizes
            how = IngestOptions(compression=name, **STORED[stored])
            ingest(self._folder / f"{sizes}.csv", out, how)
            outcome, said = judged(out)
            assert outcome == "ok", f"{kind}, undamaged: {said}"
        return out


def bytes_of_scales(path: Path) -> list[int]:
    """Where the headers of scales and of what they are attached to lie, and the heaps."""
    data, parts = path.read_bytes(), []

    def note(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and {"CLASS", "DIMENSION_LIST"} & {*item.attrs}:
            about = h5py.h5o.get_info(item.id)
            parts.append(range(about.addr, about.addr + about.hdr.space.total))

    with h5py.File(path) as file:
        file.visititems(note)
    heap = data.find(b"GCOL")
    while heap >= 0:
        parts.append(range(heap, heap + int.from_bytes(data[heap + 8 : heap + 16], "little")))
        heap = data.find(b"GCOL", parts[-1].stop)
    return [at for part in parts for at in part if at < len(data)]


def damaged(
    data: bytes, dice: random.Random, places: Sequence[int] | None = None
) -> tuple[bytes, str]:
    """A damaged copy, and what was done to it, at one of the places."""
    while True:
        changed = bytearray(data)
        at, how = dice.choice(places or range(len(data))), dice.random()
        if how < 0.8:
            changed[at] ^= 1 << dice.randrange(8) if dice.random() < 0.6 else dice.randrange(1, 256)
            done = f"byte {at} from {data[at]:02x} to {changed[at]:02x}"
        elif how < 0.88:
            n = dice.randrange(4, 17)
            changed[at : at + n] = dice.randbytes(min(n, len(data) - at))
            done = f"{n} bytes from {at}"
        elif how < 0.94:
            at = at // 512 * 512
            changed[at : at + 512] = bytes(min(512, len(data) - at))
            done = f"zeros from {at}"
        else:
            del changed[at:]
            done = f"cut at {at}"
        if changed != data:
            return bytes(changed), done


# --- the independent reader ----------------------------------------------------------------------


def snapshot(path: str) -> dict[str, str]:
    """Name -> digest of all that plain h5py finds in a file."""
    found: dict[str, str] = {}

    def keep(name: str, value: Any) -> None:
        array = np.asarray(value)
        text = f"{array.dtype.str} {array.shape} {array.tolist()}"
        found[name] = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def walk(group: Any, where: str, seen: frozenset[Any]) -> None:
        for name, value in group.attrs.items():
            keep(f"{where}@{name}", value)
        for name in group:
            node, path = group[name], f"{where}/{name}"
            if isinstance(node, h5py.Group):
                if h5py.h5o.get_info(node.id).addr not in seen:
                    walk(node, path, seen | {h5py.h5o.get_info(node.id).addr})
                continue
            for attribute, value in node.attrs.items():
                if attribute not in MARKS:
                    keep(f"{path}@{attribute}", plain(file, attribute, value))
            kinds = h5py.check_string_dtype(node.dtype), h5py.check_enum_dtype(node.dtype)
            found[f"{path}:type"] = f"{node.dtype.str} {kinds} {node.shape}"
            keep(path, node[()])

    with h5py.File(path, "r") as file:
        walk(file, "", frozenset())
    return found


def serve(question: str) -> None:
    """Answer a line of JSON for each path on standard input."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if question == "--show":
        from h5ingest.core.errors import IngestError
        from h5ingest.inspect import show
    for line in sys.stdin:
        try:
            if question == "--read":
                answer: object = snapshot(line.strip())
            else:
                try:
                    show.show(line.strip())
                    answer = "shown"
                except IngestError:
                    answer = "refused"
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=told, flush=True)


class Server:
    """This program as a reader, in a process that may die."""

    def __init__(self, question: str) -> None:
        self._command = [sys.executable, __file__, question]
        self._process: subprocess.Popen[str] | None = None

    def ask(self, path: Path) -> Any:
        """The answer; a string in capitals if the process has not survived it."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        print(path, file=process.stdin, flush=True)
        ready, _, _ = select.select([process.stdout], [], [], LONGEST_S)
        line = process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        self.end()
        return "SIGNAL" if ready else "HANG"

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


# --- the cases -----------------------------------------------------------------------------------


def judged(path: Path, comm: Any = None) -> tuple[str, str]:
    """What `verify` makes of a file on these ranks, alone if there are none, and its words."""
    from h5ingest.core.errors import IngestError
    from h5ingest.inspect.verify import verify

    started_s = time.monotonic()
    try:
        report = verify(path, comm)
    except IngestError as error:
        outcome, said = "found", f"refused: {error}"
    except Exception:
        outcome, said = "TRACEBACK", traceback.format_exc()
    else:
        outcome = "ok" if report.ok else "found"
        said = "\n".join(
            [*report.problems, *(f"row {bad.row}: {bad.reason}" for bad in report.bad)]
        )
    return ("HANG" if time.monotonic() - started_s > LONGEST_S else outcome), said


def judged_by_all(path: Path, comm: Any, alone: tuple[str, str]) -> tuple[str, str]:
    """What root made of it `alone`, or that the ranks together make something else of it."""
    told = comm.allgather(judged(path, comm))
    if {outcome for outcome, _ in told} == {alone[0]}:
        return alone
    return "RANKS DIFFER", f"alone {alone}, together {told}"


def cases(
    folder: Path, first: int, count: int, *, of_scales: bool
) -> Iterator[tuple[int, tuple[str, str], Path, Path, str]]:
    """Number, what the file was, the whole and the damaged one, and what was done to it."""
    files = Files(folder)
    kinds = [kind for kind in files.kinds if kind[0].startswith("stack") or not of_scales]
    for number in range(first, first + count):
        dice = random.Random(number)
        kind = kinds[number % len(kinds)]
        places = bytes_of_scales(files[kind]) if of_scales else None
        data, done = damaged(files[kind].read_bytes(), dice, places)
        path = folder / "damaged.h5"
        path.write_bytes(data)
        (folder / "progress").write_text(f"{number} {kind} {done}")
        yield number, kind, files[kind], path, done


def main() -> None:
    if sys.argv[1].startswith("--"):
        serve(sys.argv[1])
        return
    folder, first, count, *more = (
        Path(sys.argv[1]),
        int(sys.argv[2]),
        int(sys.argv[3]),
        *sys.argv[4:],
    )
    from h5ingest.inspect import judge_process
    from h5ingest.inspect.judge_process import keeping_judges
    from h5ingest.mpi.world import world

    vars(judge_process)["CPU_S"] = 2  # the files are small
    comm = world()
    if comm.rank > 0:
        with keeping_judges():
            for _ in range(count):
                judged_by_all(folder / "damaged.h5", comm, comm.bcast(None))
        return
    reader, shower = Server("--read"), Server("--show") if more == ["show"] else None
    outcomes: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    wrong: list[str] = []
    died = 0
    truths: dict[Path, Any] = {}
    with keeping_judges():
        for number, kind, whole, path, done in cases(
            folder, first, count, of_scales=more == ["scales"]
        ):
            outcome, said = judged(path)
            if comm.size > 1:
                outcome, said = judged_by_all(path, comm, comm.bcast((outcome, said)))
            died += "the library that reads it" in said
            if outcome == "ok":
                if whole not in truths:
                    truths[whole] = reader.ask(whole)
                found = reader.ask(path)
                differs = differences(truths[whole], found)
                outcome, said = ("MISSED", differs) if differs else ("harmless", "")
                # HDF5 1.10.8 takes the length of an attribute's text on trust: `verify` reads the
                # right text, a reader may be ended when it frees it. Nothing shows it beforehand.
                if differs.endswith("SIGNAL") and h5py.version.hdf5_version_tuple < (1, 12, 0):
                    outcome, said = "not seen, ends its reader", differs
            outcomes[f"{kind[0]} | {kind[1]} | {outcome}"] += 1
            if outcome.isupper():  # as those that must not be are written
                wrong.append(f"{number} {kind} {done}: {outcome}: {said}")
            if shower is not None:
                answer = shower.ask(path)
                shown[answer if isinstance(answer, str) else "TRACEBACK"] += 1
                if not isinstance(answer, str) or answer.isupper():
                    last = "" if isinstance(answer, str) else answer["error"].splitlines()[-1]
                    wrong.append(f"show: {number} {kind} {done}: {last or answer}")
    for server in (reader, shower):
        if server is not None:
            server.end()
    print(
        json.dumps({"outcomes": outcomes, "wrong": wrong, "died": died, "shown": shown}), flush=True
    )


def differences(truth: dict[str, str], found: Any) -> str:
    if isinstance(found, str) or "error" in found:
        return f"it cannot be read: {found}"[:2000]
    names = sorted(
        name for name in truth.keys() | found.keys() if truth.get(name) != found.get(name)
    )
    return ", ".join(names)


if __name__ == "__main__":
    main()
