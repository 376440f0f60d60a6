"""Palettes are expanded by libpng: not by one that is known to be unsafe on this machine."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import png
import pytest
from helpers.support import ROOT, read_file, write_manifest, write_png
from packaging.requirements import Requirement

from h5ingest.core.errors import SamplesFailedError
from h5ingest.core.options import IngestOptions
from h5ingest.diagnostics.advice import advise
from h5ingest.diagnostics.doctor import describe
from h5ingest.diagnostics.facts import Facts
from h5ingest.diagnostics.libraries import Libraries, import_here
from h5ingest.images import libpng
from h5ingest.pipeline.run import ingest

ARM = "aarch64"
COLOURS = [(10, 20, 30), (200, 100, 0), (0, 0, 255), (7, 7, 7)]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """An RGB image and two of palettes."""
    write_png(tmp_path / "rgb.png", np.full((3, 4, 3), 9, np.uint8))
    for n in range(2):
        with open(tmp_path / f"{n}.png", "wb") as file:
            png.Writer(4, 3, palette=COLOURS).write(file, [[n, 1, 2, 3]] * 3)
    return write_manifest(tmp_path / "m.txt", ["rgb.png", "0.png", "1.png"])


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> None:
    if libpng.problem(ARM, libpng.version()) == "":
        pytest.skip(f"libpng {libpng.version()} is safe everywhere")
    monkeypatch.setattr(libpng, "MACHINE", ARM)


def test_which_libpng_is_unsafe_where() -> None:
    for machine in ("aarch64", "arm64", "armv7l"):
        for unsafe in ("1.6.55", "1.6.9", "1.5.30", ""):
            found = libpng.problem(machine, unsafe)
            assert f"libpng {unsafe} on {machine}" in found
            assert "CVE-2026-33636" in found
        for safe in ("1.6.56", "1.6.100", "1.7.0", "2.0"):
            assert libpng.problem(machine, safe) == ""
    for machine in ("x86_64", "ppc64le", "riscv64", "s390x"):
        assert libpng.problem(machine, "1.6.55") == ""
    assert doctest.testmod(libpng).failed == 0


def test_a_run_refuses_palettes_where_they_are_unsafe(
    manifest: Path, tmp_path: Path, arm: None
) -> None:
    out = tmp_path / "out.h5"
    with pytest.raises(SamplesFailedError, match="CVE-2026-33636") as caught:
        ingest(manifest, out)
    assert [failure.path for failure in caught.value.failures] == ["0.png", "1.png"]
    assert {failure.kind for failure in caught.value.failures} == {"unsupported"}
    for words in ("libpng 1.6.", ARM, "Python 3.12", "imagecodecs 2026.10.10", "--trust-palettes"):
        assert words in str(caught.value)
    assert not out.exists()
    with_blanks = ingest(manifest, out, IngestOptions(on_error="blank"))
    assert len(with_blanks.failures) == 2


def test_unless_it_is_told_to_or_expands_none(manifest: Path, tmp_path: Path, arm: None) -> None:
    ingest(manifest, tmp_path / "trusted.h5", IngestOptions(trust_palettes=True))
    expected = [np.full((3, 4, 3), 9), *(np.array([[COLOURS[k] for k in (n, 1, 2, 3)]] * 3)
                                         for n in range(2))]  # fmt: skip
    np.testing.assert_array_equal(read_file(tmp_path / "trusted.h5").arrays["images"], expected)
    ingest(manifest, tmp_path / "encoded.h5", IngestOptions(layout="encoded"))
    with pytest.raises(SamplesFailedError, match="CVE-2026-33636"):  # palettes are expanded
        ingest(manifest, tmp_path / "r.h5", IngestOptions(layout="encoded", recode="jxl"))
    masks = write_manifest(tmp_path / "masks.txt", ["0.png", "1.png"])
    ingest(masks, tmp_path / "raw.h5", IngestOptions(samples="raw"))
    stored = read_file(tmp_path / "raw.h5").arrays["images"]
    np.testing.assert_array_equal(stored, [[[n, 1, 2, 3]] * 3 for n in range(2)])


def test_a_palette_that_comes_after_the_header_was_read_is_refused_too(
    manifest: Path, tmp_path: Path, arm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from h5ingest.pipeline import look_at_images as steps

    probe_images = vars(steps)["probe_images"]

    def swapping(*arguments: object) -> object:
        probed: object = probe_images(*arguments)
        (tmp_path / "rgb.png").write_bytes((tmp_path / "0.png").read_bytes())
        return probed

    monkeypatch.setattr(steps, "probe_images", swapping)
    one = write_manifest(tmp_path / "one.txt", ["rgb.png"])
    with pytest.raises(SamplesFailedError, match="CVE-2026-33636"):
        ingest(one, tmp_path / "out.h5", IngestOptions(cache_bytes=0))


def test_doctor_names_libpng_and_warns_where_it_is_unsafe() -> None:
    here = import_here()
    assert here.libpng == libpng.version()
    assert f"libpng {here.libpng}" in describe(Facts(libraries=here))
    unsafe = Libraries(libpng="1.6.55")
    (found,) = (
        one for one in advise(Facts(libraries=unsafe, machine=ARM)) if "libpng" in one.problem
    )
    assert "CVE-2026-33636" in found.problem
    assert "Python 3.12" in found.remedy
    assert not found.fatal
    for machine, libraries in (("x86_64", unsafe), (ARM, Libraries(libpng="1.6.59"))):
        told = advise(Facts(libraries=libraries, machine=machine))
        assert not [one for one in told if "libpng" in one.problem]


def test_each_python_gets_the_newest_imagecodecs_that_it_can_have() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line.startswith("imagecodecs")]
    for python, expected in (("3.11", "2026.3.6"), ("3.12", "2026.10.10"), ("3.13", "2026.10.10")):
        chosen = [
            str(pin.specifier)
            for pin in pins
            if pin.marker is None or pin.marker.evaluate({"python_version": python})
        ]
        assert chosen == [f"=={expected}"], python
