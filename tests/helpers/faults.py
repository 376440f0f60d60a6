"""What the tests of reliability share: small jobs of every layout, and running them with faults."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from h5ingest.storage import journal
from h5ingest.storage.journal_records import Done
from helpers.forking import Forker
from helpers.pictures import drawn
from helpers.support import (
    FLAVOURS,
    PROGRAMS,
    WHEELS,
    Completed,
    Flavour,
    clean_environment,
    explain,
    need_direct_io,
    read_file,
    write_manifest,
    write_png,
)

FAULTS = PROGRAMS / "launched_faults.py"
ALL_FLAVOURS = {**FLAVOURS, "wheels": WHEELS}
N_IMAGES = 60

EQUAL = {
    "stack": ["--chunk", "3"],
    "stack direct": ["--chunk", "3", "--direct-io", "on", "--batch-bytes", "30000"],
    "stack zstd": ["--chunk", "3", "--compression", "zstd:1"],
    "stack groups": ["--chunk", "2", "--group-by", "split", "--compression", "lzf"],
    "stack htj2k": ["--compression", "htj2k"],
}
"""Layouts for images that are all of one shape, and their options."""
ANY = {
    "ragged": ["--layout", "ragged"],
    "ragged direct": ["--layout", "ragged", "--direct-io", "on"],
    "ragged gzip": ["--layout", "ragged", "--compression", "gzip:1"],
    "tree": ["--layout", "tree"],
    "tree gzip": ["--layout", "tree", "--compression", "gzip:1"],
    "tree auto": ["--layout", "tree", "--compression", "auto"],
    "encoded": ["--layout", "encoded"],
    "encoded jxl": ["--layout", "encoded", "--recode", "jxl"],
}
"""Those for images of any shape."""
LAYOUTS = {**EQUAL, **ANY}
SMALL = ["--batch-bytes", "700", "--checkpoint", "0.0001", "--progress", "off"]
"""Many batches, and a checkpoint as often as can be."""


def faulty(preload: Path, **how: object) -> dict[str, str]:
    """The environment in which `io_faults.c` does as asked."""
    settings = {f"IOFAULT_{name.upper()}": str(value) for name, value in how.items()}
    return {"LD_PRELOAD": str(preload), **settings}


Fault = dict[str, Any]
"""See `launched_faults.Fault`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Small images of one shape, larger ones, smooth ones, and of many shapes; a manifest each."""

    folder: Path
    equal: list[NDArray[Any]]
    larger: list[NDArray[Any]]
    smooth: list[NDArray[Any]]
    """Which HTJ2K makes smaller, and more so than other codecs."""
    different: list[NDArray[Any]]

    @classmethod
    def write(cls, folder: Path, n: int = N_IMAGES, scale: int = 1) -> Images:
        """Write n images of each kind, their sides so many times as long."""
        random = np.random.default_rng(5)
        shapes: list[tuple[int, ...]] = [
            (int(random.integers(3, 12)), int(random.integers(3, 12)), 3)[: 2 + row % 2]
            for row in range(n)
        ]
        shapes[7] = (60, 70, 3)  # larger than a chunk, and than a batch
        kinds: dict[str, list[tuple[int, ...]]]
        kinds = {
            "equal": [(7, 5, 3)] * n, "larger": [(37, 29, 3)] * n, "smooth": [(41, 29, 3)] * n,
            "different": shapes,
        }  # fmt: skip
        made: dict[str, list[NDArray[Any]]] = {}
        for name, of_kind in kinds.items():
            made[name] = images = [
                random.integers(0, 256, (scale * height, scale * width, *planes), np.uint8)
                for height, width, *planes in of_kind
            ]
            if name == "smooth":
                for row, image in enumerate(images):
                    waves = drawn(len(image), image.shape[1], 3, "uint8", "waves")
                    image[:] = waves // 2 + image % 8 + np.uint8(row)
            (folder / name).mkdir(parents=True)
            for row, pixels in enumerate(images):
                write_png(folder / name / f"{row:03}.png", pixels)
            rows = [
                (f"{name}/{row:03}.png", ("cat", "dog", "emu")[row % 3], split, row / 4)
                for row, split in enumerate("a" * (2 * n // 3 + 1) + "b" * (n - 2 * n // 3 - 1))
            ]
            write_manifest(folder / f"{name}.csv", [("path", "label", "split", "age"), *rows])
        return cls(folder=folder, **made)

    def manifest(self, layout: str) -> Path:
        return self.folder / f"{self.kind(layout)}.csv"

    def file(self, layout: str, row: int) -> Path:
        return self.folder / self.kind(layout) / f"{row:03}.png"

    def kind(self, layout: str) -> str:
        if layout == "stack direct":  # whole blocks of the disk
            return "larger"
        if layout in ("stack htj2k", "tree auto"):
            return "smooth"
        return "equal" if layout in EQUAL else "different"

    def check(self, layout: str, out: Path) -> None:
        """Compare the pixels in a file with those that were written, by plain h5py."""
        with h5py.File(out, "r") as file:
            assert file.attrs["status"] == "complete"
            if layout == "stack groups":
                stored = np.concatenate([file["a/images"][:], file["b/images"][:]])
                np.testing.assert_array_equal(stored, self.equal)
            elif layout in EQUAL:
                images = getattr(self, self.kind(layout))
                np.testing.assert_array_equal(file["images"][:], images)
            elif layout.startswith("ragged"):
                whole = np.concatenate([image.ravel() for image in self.different])
                np.testing.assert_array_equal(file["images/pixels"][:], whole)
            elif layout.startswith("tree"):
                images = getattr(self, self.kind(layout))
                for name, image in zip(file["datasets"], images, strict=True):
                    np.testing.assert_array_equal(file[name][()], image)
            elif layout == "encoded jxl":
                ends = file["images/offsets"][:].tolist()
                parts = [file["images/data"][a:b].tobytes() for a, b in pairwise(ends)]
                files = [self.file(layout, row).read_bytes() for row in range(len(parts))]
                coded = [part != own for part, own in zip(parts, files, strict=True)]
                assert 0 < sum(coded) < len(parts), "both kinds are wanted"
                for part, own, is_coded, image in zip(
                    parts, files, coded, self.different, strict=True
                ):
                    if is_coded:
                        assert len(part) < len(own)
                        np.testing.assert_array_equal(imagecodecs.jpegxl_decode(part), image)
            else:
                files = [self.file(layout, row).read_bytes() for row in range(len(self.equal))]
                assert file["images/data"][:].tobytes() == b"".join(files)


@dataclass(slots=True, kw_only=True)
class Server:
    """One process of a flavour that runs jobs of one rank without a launcher, in milliseconds."""

    flavour: Flavour
    process: Forker

    def run(
        self,
        arguments: Sequence[str | Path],
        faults: Sequence[Fault],
        log: Path,
        timeout_s: float,
        n_ranks: int = 1,
        **how: Any,
    ) -> Completed:
        """Run a job; on several ranks by a launcher, without `log`."""
        if n_ranks > 1:
            python = self.flavour.bin / "python"
            command = [python, FAULTS, "run", json.dumps(list(faults)), *arguments]
            return self.flavour.launch(n_ranks, *command, timeout_s=timeout_s, **how)
        words = [str(argument) for argument in arguments]
        log.write_text("")
        asked = {
            "arguments": words, "faults": list(faults), "out": str(log), "err": str(log),
            "timeout_s": timeout_s,
        }  # fmt: skip
        code = self.process.run(asked)
        said = log.read_text(errors="replace")
        assert code is not None, f"did not end within {timeout_s} s, faults {faults}\n" + said
        return subprocess.CompletedProcess(["h5ingest", *words], code, "", said)


@contextmanager
def serving(flavour: Flavour) -> Iterator[Server]:
    """Start a server, and end it."""
    process = Forker([flavour.checked().bin / "python", FAULTS, "serve"], clean_environment())
    try:
        yield Server(flavour=flavour, process=process)
    finally:
        process.end()


@dataclass(slots=True, kw_only=True)
class Runner:
    """Runs jobs of one flavour on any number of ranks, with faults; one alone without launcher."""

    server: Server
    images: Images
    folder: Path
    """For outputs."""
    expected: dict[str, Path] = field(default_factory=dict)
    """Layout -> the file that a job makes that nothing happened to."""

    @property
    def flavour(self) -> Flavour:
        return self.server.flavour

    def run(
        self,
        layout: str,
        out: Path,
        n_ranks: int = 1,
        faults: Sequence[Fault] = (),
        *more: str | Path,
        timeout_s: float = 60,
        **how: Any,
    ) -> Completed:
        """Start the job of a layout: on one rank without a launcher, else with one."""
        if layout.endswith("direct"):
            need_direct_io(out.parent)
        arguments = self.arguments(layout, out, *more)
        log = out.with_suffix(".log")
        return self.server.run(arguments, faults, log, timeout_s, n_ranks, **how)

    def arguments(self, layout: str, out: Path, *more: str | Path) -> list[str | Path]:
        """Return what the job of a layout is asked for."""
        given = [*SMALL, *LAYOUTS[layout], "--report", out.with_suffix(".json"), *more]
        return [self.images.manifest(layout), out, *given]

    def one_shot(self, layout: str) -> Path:
        """Return what the job makes if nothing happens; its pixels are checked."""
        if layout not in self.expected:
            folder = self.folder / "one-shot"
            folder.mkdir(exist_ok=True)
            out = folder / f"{layout}.h5"
            completed = self.run(layout, out)
            assert completed.returncode == 0, explain(completed)
            self.images.check(layout, out)
            self.expected[layout] = out
        return self.expected[layout]

    def check(self, layout: str, out: Path, completed: Completed, *, resumed: bool) -> None:
        """Check that a resumed run made what a single one makes, and left nothing else."""
        assert completed.returncode == 0, explain(completed)
        differing = differences(self.one_shot(layout), out)
        assert not differing, f"{differing}\n{explain(completed)}"
        left = {file.name for file in out.parent.iterdir()}
        assert left <= {out.name, out.with_suffix(".json").name, out.with_suffix(".log").name}
        report = json.loads(out.with_suffix(".json").read_text())
        if resumed:
            assert report["n_resumed"] > 0, explain(completed)
        assert report["failures"] == []


def differences(expected: Path, found: Path) -> list[str]:
    """Return what differs in the content of two files: datasets, their types, their attributes."""
    one, other = read_file(expected), read_file(found)
    keys = sorted(one.arrays.keys() ^ other.arrays.keys())
    for name in one.arrays.keys() & other.arrays.keys():
        a, b = one.arrays[name], other.arrays[name]
        same = a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        if not same:
            keys.append(name)
    volatile = {"created", "command", "job", "libraries", "attributes_digest", "statistics"}
    for key in sorted((one.attrs.keys() | other.attrs.keys()) - volatile):
        if key not in one.attrs or not np.array_equal(one.attrs[key], other.attrs.get(key, "")):
            keys.append(f"attribute {key}")
    for told, again in zip(_statistics(expected), _statistics(found), strict=True):
        unknown = set() if "pixels" in told.keys() & again.keys() else {"pixels"}
        if any(told.get(key) != again.get(key) for key in (told.keys() | again.keys()) - unknown):
            keys.append("statistics")
    return keys


def _statistics(path: Path) -> list[dict[str, Any]]:
    """Return the attribute `statistics` of each group."""
    with h5py.File(path, "r") as file:
        groups = json.loads(file.attrs.get("groups", '[""]'))
        return [json.loads(file[f"/{group}"].attrs["statistics"]) for group in groups]


def n_done(out: Path) -> int:
    """Return how many spans the journal beside an output says are done."""
    path = out.with_name(out.name + ".journal")
    if not path.exists():
        return 0
    try:
        _, records, _ = journal.read(path)
    except OSError:
        return 0
    return sum(isinstance(record, Done) for record in records)


def say(text: str) -> None:
    """Show progress of a long test."""
    print(text, file=sys.stderr, flush=True)
