"""What the README promises and can be tried: its commands, its Python, its tables, its links."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.support import (
    ROOT,
    WHEELS,
    Flavour,
    clean_environment,
    explain,
    make_pixels,
    read_file,
    run,
    write_images,
    write_manifest,
    write_png,
)

from h5ingest import ImageStore
from h5ingest.core.errors import EXIT_INTERNAL, EXIT_OK, IngestError, SamplesFailedError
from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest

README = (ROOT / "README.md").read_text()
IMAGES, READING, FORMAT, TROUBLE = (
    (ROOT / "docs" / f"{name}.md").read_text()
    for name in ("images", "reading", "format", "troubleshooting")
)
HAPPENS = TROUBLE[TROUBLE.index("## What may happen") : TROUBLE.index("## First")]
"""What may happen to a job: with commands in its sentences."""
ELSEWHERE = (
    "python examples/cifar10_to_png.py", "h5ingest cifar10/manifest.csv", "h5ingest bench",
    "h5ingest codecs",
)  # fmt: skip
"""How the commands begin that test_examples, test_bench, test_scaling and test_codecs run."""
RUN_ALL = """
import json, os, sys
import h5ingest.cli.app, h5ingest.pipeline.run, h5ingest.cli.progress
from h5ingest.cli.main import run
for words in json.load(sys.stdin):
    if words[0] in ("photos", "masks", "manifest.csv", "cifar10.csv"):
        for beside in ("", ".failed.tsv"):
            if os.path.exists(words[1] + beside):
                os.rename(words[1] + beside, "before" + beside)
    print("$ h5ingest", *words, flush=True)
    child = os.fork()
    if not child:
        os.dup2(1, 2)
        code = 1
        try:
            code = run(words)
        except SystemExit as error:
            code = error.code or 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if "--dry-run" in words:
        os.rename("before", words[1])
    print("exit code", code, flush=True)
"""
"""One start of the interpreter for all commands, each in a process of its own."""


def blocks(language: str, page: str) -> list[str]:
    """The code blocks of a page in a language; indented by nothing."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def commands() -> list[str]:
    """All command lines of h5ingest, in code blocks and in sentences, of each page in turn."""
    lines: list[str] = []
    for page in (README, IMAGES, READING, HAPPENS):
        lines += "\n".join(blocks("", page) + blocks("bash", page)).splitlines()
        lines += re.findall(r"`(h5ingest [^`]+)`", page.replace("doctor OUT", "doctor out.h5"))
    begin = ("h5ingest ", "mpirun ", "python examples")
    return list(dict.fromkeys(line for line in lines if line.startswith(begin)))


def run_all(mpich: Flavour, folder: Path, jobs: list[list[str]]) -> list[int]:
    """Run h5ingest with each of these arguments; return the exit codes."""
    completed = subprocess.run(
        [mpich.bin / "python", "-c", RUN_ALL], input=json.dumps(jobs), cwd=folder, text=True,
        env=clean_environment(), capture_output=True, timeout=200, check=False,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    codes = [int(code) for code in re.findall(r"^exit code (-?\d+)$", completed.stdout, re.M)]
    assert len(codes) == len(jobs), completed.stdout + completed.stderr
    assert not any(codes), completed.stdout
    return codes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands name: a manifest as it is shown, and folders of images."""
    folder = tmp_path_factory.mktemp("readme")
    names = write_images(folder / "cats", make_pixels(60, (12, 10, 3)))
    header, *_ = next(
        text for text in blocks("", IMAGES) if text.startswith("path,label")
    ).splitlines()
    rows = [
        (f"cats/{name}", ("cat", "dog")[row % 2], ("train", "validation")[row % 3 == 0], row)
        for row, name in enumerate(names)
    ]
    write_manifest(folder / "manifest.csv", [tuple(header.split(",")), *rows])
    write_manifest(folder / "manifest.txt", [path for path, *_ in rows])
    for place in (
        "photos/ant", "masks", "cifar10/train/cat", "cifar10/test/dog", "stacks/1", "stacks/2",
        "pairs/images", "pairs/masks", "june/bee",
    ):  # fmt: skip
        write_images(folder / place, make_pixels(4, (4, 4, 3)))
    return folder


# --- commands -----------------------------------------------------------------------------------


def test_every_command_works(mpich: Flavour, folder: Path) -> None:
    here, launched = [], []
    for line in commands():
        if line.startswith(ELSEWHERE):
            continue
        words = shlex.split(line, comments=True)
        if words[0] == "mpirun":
            launched.append(words[words.index("h5ingest") + 1 :])
        else:
            here.append(words[1:])
    assert len(here) >= 24
    assert len(launched) >= 2
    run_all(mpich, folder, here)
    for words in launched:  # on fewer ranks
        if (folder / words[1]).is_file():  # OUT, which another command has made
            (folder / words[1]).unlink()
        completed = mpich.run(2, *words, cwd=folder)
        assert completed.returncode == 0, explain(completed)
    assert len(ImageStore(folder / "out.h5")) == 60
    assert len(ImageStore(folder / "cifar10.h5", group="train")) == 4
    for picture in ("sheet.png", "out-layers-7.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_every_way_out_for_images_that_do_not_fit_together(mpich: Flavour, tmp_path: Path) -> None:
    (table,) = re.findall(r"\| your images \| options \|\n(.*?)\n\n", IMAGES, re.DOTALL)
    kinds: dict[str, list[Any]] = {  # shapes of uint8, or depths
        "gray and colour mixed": [(6, 5), (6, 5, 3)],
        "many sizes": [(230, 240, 3), (240, 230, 3)],
        "8 and 16 bits": ["uint8", "uint16"],
        "label masks": [(6, 5), (6, 5)],
        "train, validation, test": [(6, 5), (7, 8, 3)],
        "one dataset per image wanted": [(6, 5), (7, 8, 3)],
        "the files themselves wanted": [(6, 5), (7, 8, 3)],
        "the fewest bytes wanted": [(6, 5), (7, 8, 3)],
    }
    jobs: list[list[str]] = []
    n_ways = {}
    for line in table.splitlines()[1:]:
        what, ways = (cell.strip() for cell in line.strip("| ").split("|"))
        manifest = [("path", "split")]
        for number, kind in enumerate(kinds.pop(what)):
            shape, dtype = ((6, 5), kind) if isinstance(kind, str) else (kind, "uint8")
            name = f"{what}-{number}.png"
            write_png(tmp_path / name, make_pixels(1, shape, dtype)[0])
            manifest.append((f'"{name}"', ("train", "test")[number]))
        write_manifest(tmp_path / f"{what}.csv", manifest)
        options = [way for way in re.findall(r"`([^`]+)`", ways) if not way.startswith("/")]
        first = options[0].split()[0] if options else ""
        n_ways[what] = len(options)
        for way in options or [""]:  # nothing to do
            words = shlex.split(way if not way or way.startswith("--") else f"{first} {way}")
            jobs.append([f"{what}.csv", f"{len(jobs)}.h5", *words])
    assert kinds == {}, "a row is missing"
    assert n_ways["many sizes"] == 4
    run_all(mpich, tmp_path, jobs)
    for number in range(len(jobs)):
        with h5py.File(tmp_path / f"{number}.h5") as file:
            assert file.attrs["status"] == "complete"


def test_every_compression_that_is_named_gives_the_pixels_back(folder: Path) -> None:
    (section,) = re.findall(r"## Compression\n(.*)", IMAGES, re.DOTALL)
    sentence = section[: section.index("and `--shuffle`")]
    names = [name.removeprefix("--compression ") for name in re.findall(r"`([^`]+)`", sentence)]
    assert len(names) == 11
    for name in names:
        out = folder / "compressed.h5"
        options = IngestOptions(compression=name, overwrite=True, shuffle=name != "htj2k")
        if name.startswith(("blosc", "bitshuffle")):  # which shuffle by themselves
            options = IngestOptions(compression=name, overwrite=True)
        ingest(folder / "manifest.csv", out, options)
        np.testing.assert_array_equal(ImageStore(out)[:][0], make_pixels(60, (12, 10, 3)))


def test_the_demo_and_what_it_says_to_type_next(tmp_path: Path) -> None:
    """But for the making of the virtual environment, which the tests themselves need."""
    WHEELS.checked()
    told = run(["make", "--no-print-directory", "-n", "demo", f"DEMO={tmp_path}"], cwd=ROOT).stdout
    recipe = told.replace("scripts/venv.sh wheels", ":")
    done = run(["bash", "-euc", recipe], cwd=ROOT)
    assert done.returncode == 0, explain(done)
    assert len(ImageStore(tmp_path / "digits.h5")) == 1797
    typed = [line.strip() for line in done.stdout.partition("Next,")[2].splitlines()[1:]]
    typed = [line for line in typed if "YOUR" not in line]
    assert len(typed) == 4
    done = run(["bash", "-euc", "\n".join(typed)], cwd=ROOT)
    assert done.returncode == 0, explain(done)
    assert (tmp_path / "digits.png").exists()


# --- Python -------------------------------------------------------------------------------------


def test_every_block_of_python_works(mpich: Flavour, folder: Path, tmp_path: Path) -> None:
    codes = blocks("python", README) + blocks("python", READING)
    assert len(codes) == 7
    for number, code in enumerate(codes):
        if "torch" in code and importlib.util.find_spec("torch") is None:
            continue  # it is the extra 'torch'
        grouped = "group=" in re.sub("#.*", "", code)
        options = IngestOptions(group_by="split" if grouped else None, compression="zstd:3")
        (tmp_path / str(number)).mkdir()
        ingest(folder / "manifest.csv", tmp_path / str(number) / "out.h5", options)
        code = code.replace("num_workers=2", "num_workers=1").replace("range(10)", "range(2)")
        completed = run([mpich.bin / "python", "-c", code], cwd=tmp_path / str(number))
        assert completed.returncode == 0, explain(completed)
        if code.startswith("import h5py"):
            assert completed.stdout == "cats/0042.png (12, 10, 3) 0\n"


def test_a_file_with_another_filter_than_hdf5s_own_wants_hdf5plugin(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("gzip", "zstd"):
        options = IngestOptions(compression=f"{name}:3")
        ingest(folder / "manifest.csv", tmp_path / f"{name}.h5", options)
    read = "import sys, h5py; h5py.File(sys.argv[1])['images'][0]"
    codes = [
        run([WHEELS.checked().bin / "python", "-c", code, tmp_path / f"{name}.h5"]).returncode
        for code, name in ((read, "gzip"), (read, "zstd"), (f"import hdf5plugin; {read}", "zstd"))
    ]
    assert codes == [0, 1, 0]
    assert "import hdf5plugin  # only for --compression other than gzip" in README


# --- the file -----------------------------------------------------------------------------------


def test_a_file_holds_what_the_tree_shows(folder: Path, tmp_path: Path) -> None:
    (tree,) = (text for text in blocks("", FORMAT) if text.startswith("/  "))
    ingest(folder / "manifest.csv", tmp_path / "out.h5", IngestOptions(fit="pad"))
    stored = read_file(tmp_path / "out.h5")
    shown = re.findall(r"^/(\w[\w/*]*) +\(([^)]*)\)", tree, re.MULTILINE)
    names = {name.replace("columns/*", "columns/age") for name, _ in shown}
    assert names | {"columns/split"} == stored.arrays.keys()
    sizes = {"N": 60, "K": 2, "H": 12, "W": 10, "2": 2}
    for name, shape in shown:
        given = tuple(sizes[word] for word in shape.replace(",", " ").split())
        assert stored.arrays[name.replace("*", "age")].shape[: len(given)] == given, name
    attributes = re.findall(r"\w+", tree[tree.index("attributes:") + 11 : tree.index(", ...")])
    assert len(attributes) >= 11
    assert set(attributes) <= stored.attrs.keys()


def test_messages_name_the_line_that_an_editor_shows(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "manifest.csv").read_text().splitlines()
    manifest = folder / "gone.csv"
    gone = [line.replace("cats/", "gone/") if i in (4, 40, 60) else line
            for i, line in enumerate(lines)]  # fmt: skip
    manifest.write_bytes(b"\xef\xbb\xbf\r\n" + "\r\n \r\n".join(gone).encode())
    with pytest.raises(SamplesFailedError) as caught:
        ingest(manifest, tmp_path / "out.h5")
    named = re.findall(r"line (\d+): (\S+): ", str(caught.value))
    shown = manifest.read_text().split("\n")
    assert [path for _, path in named] == [gone[i].partition(",")[0] for i in (4, 40, 60)]
    assert all(shown[int(number) - 1].startswith(path) for number, path in named)


def test_rows_are_numbered_as_it_says(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "manifest.csv").read_text().splitlines()
    text = "\n\n".join(lines[:5]) + "\n" + "\n".join(lines[5:])  # blank lines do not count
    manifest = folder / "blank-lines.csv"
    manifest.write_text(text)
    for name, group_by in (("plain", None), ("groups", "split")):
        ingest(manifest, tmp_path / f"{name}.h5", IngestOptions(group_by=group_by))
    with h5py.File(tmp_path / "plain.h5") as file:
        assert [line.partition(",")[0] for line in lines[1:]] == file["paths"].asstr()[:].tolist()
    with h5py.File(tmp_path / "groups.h5") as file:
        for group in file.values():
            if "samples" in group:
                paths, samples = group["paths"].asstr()[:], group["samples"][:]
                assert [lines[1 + i].partition(",")[0] for i in samples] == paths.tolist()
                assert (np.diff(samples) > 0).all()


# --- words --------------------------------------------------------------------------------------


def test_every_option_extra_target_and_link_exists(mpich: Flavour) -> None:
    verbs = ("ingest", "manifest", "verify", "show", "recompress", "export", "codecs", "doctor",
             "bench storage", "bench read", "bench scaling")  # fmt: skip
    code = f"""
import os, sys
from h5ingest.cli.main import run
for words in {[[*verb.split(), "--help"] for verb in verbs]!r}:
    if not os.fork():
        run(words)
    os.wait()
"""
    helped = run([mpich.bin / "python", "-c", code])
    known = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", helped.stdout))
    assert "--compression" in known, explain(helped)
    others = {"--kill-on-bad-exit", "--mpi", "--nodes", "--ntasks-per-node", "--time",
              "--mem-per-cpu", "--no-cache-dir", "--no-binary", "--no-build-isolation", "--no-deps",
              "--help"}  # fmt: skip
    pages = README + IMAGES + READING + HAPPENS
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", pages))
    assert named - others - known == set()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pages += (ROOT / "docs/benchmarks.md").read_text()
    extras = set(re.findall(r"pip install '[^\[']*\[(\w+)\]'", pages))
    assert {"bench", "torch"} == extras <= project["optional-dependencies"].keys()
    assert "pip install 'h5ingest" not in README, "there is no release yet"

    targets = set(re.findall(r"make (\w[\w-]*)[`\n]", README))
    assert {"demo", "test", "docs"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert {target for target in targets if f"\n{target}:" not in makefile} == set()

    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_exit_codes_are_those_of_the_errors() -> None:
    (table,) = re.findall(r"\| code \| meaning \|\n(.*?)\n\n", TROUBLE, re.DOTALL)
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    raised = {cls.exit_code for cls in IngestError.__subclasses__()}
    assert codes == sorted({EXIT_OK, EXIT_INTERNAL, *raised})


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1200
