"""What several test modules need: launching with a limit in time, writing images, reading files."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import png
import pytest
from numpy.typing import NDArray

from h5ingest.mpi.signals import Interrupt
from h5ingest.pipeline.job import ProgressListener
from h5ingest.storage.file_systems import look
from helpers.chunk_sums import wrong_chunks
from helpers.forking import Forker

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "tests" / "programs"
SHARED = ROOT.parent / "shared"
REAL = SHARED.exists()
"""Whether the corpora are those of ../shared; else they are drawn (`drawn.py`), and smaller."""
LAUNCHED = PROGRAMS / "launched.py"

T = TypeVar("T")
Completed = subprocess.CompletedProcess[str]

_LAUNCHERS = ("ALPS_", "FLUX_", "HYDI_", "HYDRA_", "JSM_", "MPI_", "MV2_", "OMPI_", "PALS_", "PMI",
              "PRTE_", "SLURM_")  # fmt: skip
_COLOURS = ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "TTY_COMPATIBLE")


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a user's shell: no launcher around us, no colours, long lines.

    And no threads for linear algebra, which nothing needs, and starting them takes a while.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_LAUNCHERS) and name not in _COLOURS
    }
    return {**kept, "COLUMNS": "200", "NO_COLOR": "1", "OPENBLAS_NUM_THREADS": "1", **(more or {})}


def need_space_to_be_taken(folder: Path) -> None:
    """Skip the test where a file is not given its space before it is written."""
    mount = look(folder).mount
    if mount is None or not mount.known_disk:
        pytest.skip(f"on ext4 and XFS only, and {folder} is on neither")


def need_direct_io(folder: Path) -> None:
    """Skip the test where the file system cannot be written around the system's cache."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"no direct I/O in {folder}: {error}")


ADMIN_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
"""Where programs are that only root needs."""


def lacking(purpose: str, programs: Iterable[str], packages: str) -> str:
    """Why something that needs root and these programs cannot be done here; empty if it can.

    Args:
        purpose: what needs root.
        programs: names.
        packages: Debian's, that have them.
    """
    if os.geteuid() != 0:
        return f"{purpose} needs root"
    absent = [name for name in programs if shutil.which(name, path=ADMIN_PATH) is None]
    return f"not installed: {' '.join(absent)} (Debian: {packages})" if absent else ""


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60,
    cwd: Path | None = None,
) -> Completed:
    """Run a command to its end, or fail and leave nothing of it behind.

    Its end is the end of everything that holds its output: a rank that outlives mpirun counts.
    """
    words = [str(word) for word in command]
    process = subprocess.Popen(
        words, env=clean_environment(env), cwd=cwd, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding="utf-8", errors="surrogateescape",
    )  # fmt: skip
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except BaseException as error:
        end_session(process)
        stdout, stderr = process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            pytest.fail(
                f"{shlex.join(words)}: did not end within {timeout_s} s\n{stdout}\n{stderr}"
            )
        raise
    return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)


def end_session(leader: subprocess.Popen[Any]) -> None:
    """End a process started with a session of its own, and all that it started.

    A launcher is asked first, it knows its ranks; whatever is left of the session is killed.
    (Open MPI gives each rank a process group of its own, so killing the group is not enough.)
    """
    if leader.poll() is None:
        leader.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            leader.wait(timeout=5)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            session = int(stat.read_text().rpartition(")")[2].split()[3])
            if session == leader.pid:
                os.kill(int(stat.parent.name), signal.SIGKILL)
    leader.wait()


def end_with_parent() -> None:
    """In a child, before it runs its program: let it end when this process does, however."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """One MPI: its launcher, and the virtual environment that was made for it."""

    name: str
    mpirun: tuple[str, ...]

    @property
    def bin(self) -> Path:
        return ROOT / ".venv" / self.name / "bin"

    def checked(self) -> Flavour:
        """Fail, not skip, where the environment is missing: a test not run proves nothing."""
        if not (self.bin / "h5ingest").exists():
            pytest.fail(f".venv/{self.name} is missing: run make test", pytrace=False)
        return self

    def launch(self, n_ranks: int, *command: str | Path, **how: Any) -> Completed:
        """Run any command on so many ranks; see `run` for `how`."""
        return run([*self.mpirun, "-n", str(n_ranks), *command], **how)

    def run(self, n_ranks: int, *arguments: str | Path, **how: Any) -> Completed:
        """Run h5ingest on so many ranks; see `run` for `how`."""
        return self.launch(n_ranks, self.bin / "h5ingest", *arguments, **how)

    def run_launched(self, n_ranks: int, *arguments: str | Path, **how: Any) -> Completed:
        """Run h5ingest on so many ranks through `launched.py`, whose arguments come first."""
        return self.launch(n_ranks, self.bin / "python", LAUNCHED, *arguments, **how)

    def run_many(
        self,
        n_ranks: int,
        jobs: Sequence[Sequence[str | Path]],
        folder: Path,
        *,
        small_chunks: bool = False,
        **how: Any,
    ) -> list[Completed]:
        """Run h5ingest several times on so many ranks, which start once (`launched_many.py`).

        Each job must end with the same code on all ranks, and be without traceback.
        """
        folder.mkdir(parents=True, exist_ok=True)
        listed = [[str(word) for word in job] for job in jobs]
        (folder / "jobs.json").write_text(json.dumps(listed))
        script = LAUNCHED.with_name("launched_many.py")
        more = ("512",) if small_chunks else ()
        python = self.bin / "python"
        launched = self.launch(n_ranks, python, script, folder / "jobs.json", folder, *more, **how)
        assert launched.returncode == 0, explain(launched)
        found = []
        for number, job in enumerate(listed):
            told = {
                kind: [(folder / f"{number}.{kind}.{rank}").read_text() for rank in range(n_ranks)]
                for kind in ("out", "err", "code")
            }
            assert len(set(told["code"])) == 1, (job, told)
            found.append(
                subprocess.CompletedProcess(
                    ["h5ingest", *job], int(told["code"][0]), "".join(told["out"]),
                    "".join(told["err"]),
                )
            )  # fmt: skip
        return found

    def alone(self, *arguments: str | Path, **how: Any) -> Completed:
        """Run h5ingest without any launcher; see `run` for `how`."""
        return run([self.bin / "h5ingest", *arguments], **how)

    def forked(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60,
        cwd: Path | None = None,
    ) -> Completed:
        """The same where its start and its imports do not matter: see `forking`."""
        if self.name not in _FORKERS or _FORKERS[self.name].ended:
            server = (self.bin / "python", PROGRAMS / "forking_command.py")
            _FORKERS[self.name] = Forker(server, clean_environment())
        words = [str(word) for word in arguments]
        with tempfile.TemporaryDirectory(prefix="forked-") as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            job = {
                "arguments": words, "env": dict(env or {}), "cwd": str(cwd or Path.cwd()),
                "out": str(out), "err": str(err), "timeout_s": timeout_s,
            }  # fmt: skip
            code = _FORKERS[self.name].run(job)
            said = [
                file.read_text("utf-8", "surrogateescape") if file.exists() else ""
                for file in (out, err)
            ]
        if code is None:
            pytest.fail(f"{shlex.join(words)}: did not end within {timeout_s} s\n{said}")
        return subprocess.CompletedProcess(["h5ingest", *words], code, *said)


def _open_mpi() -> tuple[str, ...]:
    # It refuses root, and more ranks than cores; and two jobs at once would share one core.
    root = ("--allow-run-as-root",) if os.geteuid() == 0 else ()
    return ("mpirun.openmpi", *root, "--oversubscribe", "--bind-to", "none")


FLAVOURS = {
    "mpich": Flavour(name="mpich", mpirun=("mpirun.mpich",)),
    "openmpi": Flavour(name="openmpi", mpirun=_open_mpi()),
}
_FORKERS: dict[str, Forker] = {}


def end_forkers() -> None:
    """End what `Flavour.forked` has started."""
    while _FORKERS:
        _FORKERS.popitem()[1].end()


WHEELS = Flavour(name="wheels", mpirun=(str(ROOT / ".venv/wheels/bin/mpiexec"),))
MPICH_SOON = pytest.mark.parametrize(
    "flavour", ["mpich", pytest.param("openmpi", marks=pytest.mark.long)], indirect=True
)
"""For what hardly depends on the MPI: only `make test-long` tries it with Open MPI too."""


def make_pixels(n: int, shape: tuple[int, ...], dtype: str = "uint8") -> NDArray[Any]:
    """(n, *shape) pixels, all different, the same every time."""
    highest = np.iinfo(np.dtype(dtype)).max
    pixels = np.random.default_rng(20).integers(0, highest, (n, *shape), dtype, endpoint=True)
    pixels.reshape(n, -1)[:, 0] = np.arange(n) % highest
    return pixels


def write_png(path: Path | bytes, pixels: NDArray[Any]) -> None:
    """Write (H, W) or (H, W, C) uint8 or uint16 pixels, by an encoder that h5ingest never sees."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    writer = png.Writer(
        width, height, greyscale=channels < 3, alpha=channels in (2, 4),
        bitdepth=8 * pixels.dtype.itemsize,
    )  # fmt: skip
    with open(path, "wb") as file:
        writer.write(file, pixels.reshape(height, -1))


def write_images(folder: Path, pixels: NDArray[Any] | Sequence[NDArray[Any]]) -> list[str]:
    """Write one PNG per row, and return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{row:04}.png" for row in range(len(pixels))]
    for name, image in zip(names, pixels, strict=True):
        write_png(folder / name, image)
    return names


def write_manifest(path: Path, rows: Iterable[object]) -> Path:
    """Write one line per row: a path, or a tuple of cells; commas in .csv, else tabs."""
    delimiter = "," if path.suffix == ".csv" else "\t"
    lines = [delimiter.join(map(str, row)) if isinstance(row, tuple) else str(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), "utf-8", "surrogateescape")
    return path


def soon(few: Container[Any], every: Iterable[Any]) -> list[Any]:
    """Return all values for `parametrize`: `make test` tries few, `make test-long` the others.

    A tuple is the values of several arguments.
    """
    return [_value(value, is_long=value not in few) for value in every]


def checkered(*every: Iterable[Any]) -> list[Any]:
    """Return all combinations for `parametrize`, of which `make test` tries every other one.

    Each value is tried with half of those of the others; a tuple is several arguments.
    """
    return [
        _value(
            tuple(itertools.chain(*(v if isinstance(v, tuple) else (v,) for _, v in cell))),
            is_long=sum(number for number, _ in cell) % 2 > 0,
        )
        for cell in itertools.product(*map(enumerate, every))
    ]


def _value(value: Any, *, is_long: bool) -> Any:
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=[pytest.mark.long] * is_long)


def spread(all_: Sequence[T], n: int) -> Sequence[T]:
    """About so many of them, evenly spread; all if there are fewer."""
    return all_[:: max(1, len(all_) // n)]


def zlib_of_zeros(n_bytes: int) -> bytes:
    """A zlib stream, a thousandth as long, of so many zeros: a multiple of 2**20.

    One block is compressed, and repeated.
    """
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = squeeze.compress(bytes(2**20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    adler = (n_bytes % 65521) << 16 | 1
    return b"".join(
        [b"\x78\xda", block * (n_bytes >> 20), squeeze.flush(), struct.pack(">I", adler)]
    )


def damage(path: Path) -> None:
    """Flip one bit of the compressed pixels of a PNG: its header stays good."""
    data = bytearray(path.read_bytes())
    data[-20] ^= 1  # IEND takes the last 12 bytes, the checksum of IDAT the 4 before
    path.write_bytes(data)


def truncate(path: Path) -> None:
    """Cut off the end of a PNG, as a copy that was interrupted does."""
    path.write_bytes(path.read_bytes()[:-14])


def reference_pixels(path: Path) -> NDArray[Any]:
    """The pixels of a PNG as its specification says, from pypng's unscaled samples."""
    width, height, rows, info = png.Reader(bytes=path.read_bytes()).read()
    samples = np.array([list(row) for row in rows])
    assert samples.shape == (height, width * info["planes"])
    if info["planes"] == 1 and not info["greyscale"]:  # (RGB files may suggest a palette)
        return np.take(np.array(info["palette"], np.uint8), samples, axis=0)
    samples = samples.reshape(height, width, info["planes"])
    depth = info["bitdepth"]
    opaque = 2**depth - 1
    if "transparent" in info:
        clear = (samples == np.array(info["transparent"])).all(axis=2, keepdims=True)
        samples = np.concatenate([samples, np.where(clear, 0, opaque)], axis=2)
    if depth < 8:
        samples = samples * (255 // opaque)
    if samples.shape[2] == 1:
        samples = samples[:, :, 0]
    return samples.astype(np.uint16 if depth == 16 else np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """All of an HDF5 file."""

    arrays: dict[str, NDArray[Any]]
    """Name without the leading slash -> values; strings are bytes."""
    attrs: dict[str, Any]
    """Of the root group."""


def read_file(path: Path) -> Stored:
    """Read a file with plain h5py, in this process; compare the checksums of its chunks.

    Dimension scales are left out: they have no values.
    """
    arrays: dict[str, NDArray[Any]] = {}

    def keep(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and not node.is_scale:
            arrays[name] = node[()]

    with h5py.File(path, "r") as file:
        file.visititems(keep)
        wrong = wrong_chunks(file)
        assert not wrong, f"{path}: {wrong}"
        for name in [name for name in arrays if "chunking" in file[name].attrs]:
            del arrays[name]  # they depend on the version of the codec
        return Stored(arrays=arrays, attrs=dict(file.attrs))


def without_status(text: str) -> str:
    """What is on standard error but for the lines that long work writes every half minute."""
    return re.sub(r"^h5ingest: .+ \(\d+ s\)\n", "", text, flags=re.MULTILINE)


def error_lines(completed: Completed) -> list[str]:
    """The errors that h5ingest printed; each of them should be there once."""
    return [line for line in completed.stderr.splitlines() if "h5ingest: error:" in line]


def explain(completed: Completed) -> str:
    """What a failed assertion about a launched run should show."""
    return (
        f"{shlex.join(completed.args)}: exit {completed.returncode}\n"
        f"--- stdout\n{completed.stdout}\n--- stderr\n{completed.stderr}"
    )


@dataclass(frozen=True, slots=True)
class Meddler(ProgressListener):
    """A watch that does something between the look at the headers and the storing."""

    meddle: Callable[[], object]

    def phase(self, name: str, n_images: int) -> None:
        if name == "store":
            self.meddle()


class Stops(ProgressListener):
    """Asks to stop as soon as images are stored."""

    def __init__(self) -> None:
        self.interrupt = Interrupt()
        self._storing = False

    def phase(self, name: str, n_images: int) -> None:
        self._storing = name == "store"

    def advance(self, n_images: int, n_bytes: int, n_failed: int) -> None:
        self.interrupt.requested = self._storing and n_images > 0
