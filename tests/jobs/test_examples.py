"""The example for CIFAR-10: on batches as Python 2 wrote them, and on pickles that mean harm."""

from __future__ import annotations

import importlib.util
import os
import pickle
import pickletools
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.support import ROOT, WHEELS, explain, reference_pixels, run
from numpy.typing import NDArray

from h5ingest.core.options import IngestOptions
from h5ingest.mpi.comm import SerialComm
from h5ingest.pipeline.run import ingest

EXAMPLE = ROOT / "examples" / "cifar10_to_png.py"
CLASSES = (b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse",
           b"ship", b"truck")  # fmt: skip


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cifar10_to_png", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- what Python 2's cPickle wrote: opcodes of protocol 2 (see pickletools) ---------------------


def py2_string(text: bytes) -> bytes:
    if len(text) < 256:
        return b"U" + bytes([len(text)]) + text  # SHORT_BINSTRING
    return b"T" + struct.pack("<i", len(text)) + text  # BINSTRING


def py2_int(number: int) -> bytes:
    if 0 <= number < 256:
        return b"K" + bytes([number])  # BININT1
    if 0 <= number < 65536:
        return b"M" + struct.pack("<H", number)  # BININT2
    return b"J" + struct.pack("<i", number)  # BININT


def py2_list(items: Sequence[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"  # EMPTY_LIST MARK ... APPENDS


def py2_array(values: NDArray[np.uint8], *, fortran: bool = False, dtype: bytes = b"u1") -> bytes:
    return b"".join(
        [
            b"cnumpy.core.multiarray\n_reconstruct\n",  # GLOBAL
            b"cnumpy\nndarray\n" + py2_int(0) + b"\x85" + py2_string(b"b") + b"\x87R",  # ... REDUCE
            b"(" + py2_int(1) + b"".join(map(py2_int, values.shape)) + b"\x86",  # MARK ... TUPLE2
            b"cnumpy\ndtype\n" + py2_string(dtype) + py2_int(0) + py2_int(1) + b"\x87R",
            b"(" + py2_int(3) + py2_string(b"|") + b"NNN" + 2 * py2_int(-1) + py2_int(0) + b"tb",
            b"\x88" if fortran else b"\x89",  # NEWTRUE, NEWFALSE
            py2_string(values.tobytes("F" if fortran else "C")) + b"tb",  # ... TUPLE BUILD
        ]
    )


def py2_dict(**items: bytes) -> bytes:
    pairs = (py2_string(key.encode()) + value for key, value in items.items())
    return b"\x80\x02}q\x01(" + b"".join(pairs) + b"u."  # PROTO, BINPUT; SETITEMS STOP


def py2_batch(data: NDArray[np.uint8], labels: Sequence[int], **how: Any) -> bytes:
    return py2_dict(
        batch_label=py2_string(b"training batch 1 of 5"),
        labels=py2_list([py2_int(label) for label in labels]),
        data=py2_array(data, **how),
        filenames=py2_list([py2_string(b"../../%d.png" % i) for i in range(len(labels))]),
    )


def py2_meta(names: Sequence[bytes] = CLASSES) -> bytes:
    return py2_dict(
        num_cases_per_batch=py2_int(10000),
        label_names=py2_list([py2_string(name) for name in names]),
        num_vis=py2_int(3072),
    )


def make_batch(number: int, n: int = 7) -> tuple[NDArray[np.uint8], list[int]]:
    random = np.random.default_rng(number)
    return random.integers(0, 256, (n, 3072), np.uint8), random.integers(0, 10, n).tolist()


NAMES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5",
         "test_batch")  # fmt: skip


@pytest.fixture
def batches(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(py2_batch(*make_batch(number)))
    (folder / "batches.meta").write_bytes(py2_meta())
    (folder / "readme.html").write_text("<meta>")
    return folder


def test_the_batches_of_this_test_are_what_plain_pickle_reads(batches: Path) -> None:
    data, labels = make_batch(3)
    content = (batches / "data_batch_4").read_bytes()
    assert {op.name for op, *_ in pickletools.genops(content)} >= {"SHORT_BINSTRING", "BINSTRING"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy.core has another name now
        batch = pickle.loads(content, encoding="bytes")
    assert list(batch) == [b"batch_label", b"labels", b"data", b"filenames"]
    np.testing.assert_array_equal(batch[b"data"], data)
    assert batch[b"data"].dtype == np.uint8
    assert batch[b"labels"] == labels


# --- the example -------------------------------------------------------------------------------


def test_as_a_newcomer_runs_it(batches: Path, tmp_path: Path) -> None:
    python = WHEELS.checked().bin / "python"
    dest = tmp_path / "cifar10"
    completed = run([python, EXAMPLE, batches, dest])
    assert completed.returncode == 0, explain(completed)
    assert completed.stdout == f"42 images in {dest}\n"
    lines = (dest / "manifest.csv").read_text().splitlines()
    assert lines[0] == "path,label,split"
    assert len(list(dest.rglob("*.png"))) == 42 == len(lines) - 1
    first = CLASSES[make_batch(0)[1][0]].decode()
    assert lines[1] == f"train/{first}/00000.png,{first},train"
    image = reference_pixels(dest / f"train/{first}/00000.png")
    red, green, blue = make_batch(0)[0][0].reshape(3, 32, 32)
    np.testing.assert_array_equal(image, np.dstack([red, green, blue]))

    ingest(dest / "manifest.csv", tmp_path / "c.h5", IngestOptions(group_by="split"), SerialComm())
    expected = [make_batch(number) for number in range(6)]
    with h5py.File(tmp_path / "c.h5") as file:
        for split, parts in (("train", expected[:5]), ("test", expected[5:])):
            group = file[split]
            pixels = np.concatenate([data for data, _ in parts]).reshape(-1, 3, 32, 32)
            np.testing.assert_array_equal(group["images"][:].transpose(0, 3, 1, 2), pixels)
            names = file.get("label_names", group.get("label_names")).asstr()[:]
            labels = [names[k].encode() for k in group["labels"]]
            assert labels == [CLASSES[k] for _, labels in parts for k in labels]


def test_other_ways_to_write_a_batch(example: ModuleType, tmp_path: Path) -> None:
    data, labels = make_batch(1)
    path = tmp_path / "data_batch_1"
    newer = {b"data": data, b"labels": labels}
    assert b"numpy._core" in pickle.dumps(newer, 4) or np.__version__ < "2"
    contents = [
        py2_batch(data, labels, fortran=True),
        pickle.dumps(newer, 3),
        pickle.dumps(newer, 4),
    ]
    for content in contents:
        path.write_bytes(content)
        images, found = example.load_batch(path, 10)
        np.testing.assert_array_equal(images.transpose(0, 3, 1, 2).reshape(-1, 3072), data)
        assert found == labels
    text = b"(dp1\nS'num_vis'\np2\nI3072\nsS'label_names'\np3\n(lp4\nS'cat'\np5\naS'dog'\np6\nas."
    path.write_bytes(text)  # protocol 0
    assert example.load_names(path) == ["cat", "dog"]


# --- harm --------------------------------------------------------------------------------------

MARK = "a pickle has been here"


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def harmful() -> dict[str, tuple[bytes, str]]:
    """By a name, what would touch the file `MARK` here if it were loaded; and what it asks for."""
    shell = f"touch '{MARK}'".encode()
    code = f"open({MARK!r}, 'w')".encode()
    found = {
        f"os.system, protocol {p}": (pickle.dumps(Calls(os.system, shell.decode()), p), "system")
        for p in range(6)
    } | {
        f"eval, protocol {p}": (pickle.dumps(Calls(eval, code.decode()), p), ".eval")
        for p in range(6)
    }
    inside = py2_dict(data=b"cos\nsystem\n" + py2_string(shell) + b"\x85R")
    python2 = b"c__builtin__\neval\n" + py2_string(code) + b"\x85R."
    return found | {
        "inside a batch": (inside, "os.system"),
        "by Python 2's name": (python2, "__builtin__.eval"),
        "INST": (b"(S\"touch '" + MARK.encode() + b"'\"\nios\nsystem\n.", "os.system"),
        "OBJ": (b"(cos\nsystem\n" + py2_string(shell) + b"o.", "os.system"),
        "NumPy's own": (b"cnumpy\nload\n" + py2_string(b"x.npy") + b"\x85R.", "numpy.load"),
        "an attribute": (
            b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", "numpy.ndarray.__class__",
        ),
        "a codec": (pickle.dumps(b"x", 2), "_codecs.encode"),
        "getattr": (b"cbuiltins\ngetattr\n(cnumpy\ndtype\nU\x08__init__tR.", "builtins.getattr"),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(harmful()))
@pytest.mark.parametrize("file", ["batches.meta", "data_batch_3"])
def test_harm_is_refused_by_name_and_not_done(
    example: ModuleType, batches: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    monkeypatch.chdir(batches)
    content, asked = harmful()[name]
    (batches / file).write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        example.convert(batches, batches / "out")
    assert str(caught.value).startswith(f"{batches / file}: not as CIFAR-10 has it: refused: ")
    assert str(caught.value).endswith(asked)
    assert not (batches / MARK).exists()
    assert not (batches / "out" / "manifest.csv").exists()


def test_these_pickles_would_do_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / MARK
    for name, (content, asked) in harmful().items():
        if asked.endswith(("system", "eval")):
            opened = pickle.loads(content)
            getattr(opened, "close", str)()
            assert mark.exists(), name
            mark.unlink()


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("batches.meta", py2_meta([b"cat", b"../dog"]), "expected names of classes"),
        ("batches.meta", py2_meta([b"cat", b""]), "expected names of classes"),
        ("batches.meta", py2_dict(num_vis=py2_int(3072)), "found None"),
        ("batches.meta", py2_list([]) + b".", "expected a dictionary, found list"),
        ("batches.meta", b"", "Ran out of input"),
        ("batches.meta", b"<html>", "invalid load key"),
        ("test_batch", py2_batch(make_batch(0)[0][:, 1:], [0] * 7), "3072 bytes"),
        ("test_batch", py2_batch(make_batch(0)[0], [0] * 6), "one label for each"),
        ("test_batch", py2_batch(make_batch(0)[0], [10] * 7), "labels from 0 to 9"),
        ("test_batch", py2_batch(make_batch(0)[0], [-1] * 7), "labels from 0 to 9"),
        ("test_batch", py2_batch(make_batch(0)[0], [0] * 7, dtype=b"f8"), r"\(u1\), found b'f8'"),
        ("test_batch", py2_batch(make_batch(0)[0], [0] * 7, dtype=b"O"), r"\(u1\), found b'O'"),
        ("test_batch", py2_batch(*make_batch(0))[:-40], "truncated|Ran out"),
        ("test_batch", py2_dict(data=py2_int(1), labels=py2_list([])), "3072 bytes"),
    ],
)
def test_what_is_not_as_it_should_be_is_said(
    example: ModuleType, batches: Path, file: str, content: bytes, problem: str
) -> None:
    (batches / file).write_bytes(content)
    with pytest.raises(SystemExit, match=problem):
        example.convert(batches, batches / "out")
    assert not (batches / "out" / "manifest.csv").exists()


def test_a_missing_batch_is_named(example: ModuleType, batches: Path) -> None:
    (batches / "data_batch_5").unlink()
    with pytest.raises(SystemExit, match="data_batch_5: no such file"):
        example.convert(batches, batches / "out")
