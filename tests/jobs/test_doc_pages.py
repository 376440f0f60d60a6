"""Every block of code on the pages that are meant to be typed: page by page, in their order."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers.support import ROOT, Flavour, explain, make_pixels, run, write_images, write_manifest

from h5ingest import ImageStore

NOT_HERE = {"sbatch", "docker", "datasets", "jax", "xarray", "torch"}
"""What a block may need that need not be here; `# needs:` in its first line says so."""


def script(page: str) -> tuple[str, list[str]]:
    """Return a page as a program of bash, and what its blocks need that is not here."""
    text = (ROOT / "docs" / page).read_text()
    parts, lacking = ["set -euo pipefail"], []
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language not in ("bash", "python"):
            continue
        needs = re.match(r"# needs: (\w+)\n", code)
        if needs:
            assert needs[1] in NOT_HERE
            is_there = importlib.util.find_spec(needs[1]) or shutil.which(needs[1])
            if not is_there or needs[1] in ("sbatch", "docker"):
                lacking.append(needs[1])
                continue
        runs = code if language == "bash" else f"python <<'BLOCK'\n{code}BLOCK\n"
        parts.append(f"echo '+ block {len(parts)}' >&2\n{runs}")
    return "\n".join(parts), lacking


@pytest.mark.parametrize(
    "page",
    [
        "index.md",
        pytest.param("tutorial.md", marks=pytest.mark.long),
        pytest.param("recipes.md", marks=pytest.mark.long),
    ],
)
def test_every_block_of_a_page_works(page: str, mpich: Flavour, tmp_path: Path) -> None:
    program, lacking = script(page)
    if page == "index.md":
        names = write_images(tmp_path / "photos" / "ant", make_pixels(4, (9, 9, 3)))
        rows = [(f"photos/ant/{name}", "train") for name in names]
        write_manifest(tmp_path / "train.csv", [("path", "split"), *rows])
        program = program.replace("mpirun ", shlex.join(map(str, mpich.mpirun)) + " ")
    done = run(["bash", "-c", program], cwd=tmp_path, env={
        "PATH": f"{mpich.bin}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src"),
    }, timeout_s=280)  # fmt: skip
    assert done.returncode == 0, explain(done)
    if page == "tutorial.md":
        assert not lacking
        assert "refused, with the options that help" in done.stdout
        assert (tmp_path / "bench/index.html").exists()
        assert len(ImageStore(tmp_path / "again.h5")) == 100
    if page == "recipes.md":
        assert set(lacking) <= NOT_HERE
        with ImageStore(tmp_path / "odd.h5") as store:
            assert (store.label_names, list(store.paths)) == (("cat",), ["photos/cat/0.jpg"])
