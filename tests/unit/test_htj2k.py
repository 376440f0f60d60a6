"""HTJ2K: every image comes back; what cannot be coded is refused, or kept as it is."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import imagecodecs
import numpy as np
import pytest
from helpers.pictures import drawn
from helpers.support import checkered, write_images, write_manifest
from helpers.threads import on_ranks
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from h5ingest import ImageStore, IngestOptions, ingest
from h5ingest.core.errors import OutputError, SetupError, UsageError
from h5ingest.images import htj2k
from h5ingest.inspect.verify import verify
from h5ingest.reading import coded_images
from h5ingest.reading.checks import Verify
from h5ingest.reading.tree_images import Tree
from h5ingest.storage.compress import code


@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]),
    st.sampled_from(["uint8", "uint16"]), st.sampled_from(["noise", "waves"]),
)  # fmt: skip
def test_every_image_comes_back(
    height: int, width: int, channels: int, dtype: str, kind: str
) -> None:
    image = drawn(height, width, channels, dtype, kind)
    mask, stored = code(image)
    assert len(stored) <= image.nbytes
    if mask:
        assert stored == image.tobytes()
        return
    out, again = np.empty_like(image), np.empty_like(image)
    htj2k.decode_into(stored, out)
    assert np.array_equal(out, image)
    assert coded_images._plugin() is not None, "it was to be tried here"
    coded_images.decode_into(stored, again)
    assert np.array_equal(again, image)


@pytest.mark.parametrize(("height", "width"), [(3001, 3999), (1, 4000), (4000, 1)])
def test_a_large_image_with_odd_sides_is_made_smaller(height: int, width: int) -> None:
    image = drawn(height, width, 3, "uint8", "waves")
    mask, stored = code(image)
    assert mask == 0
    assert len(stored) < image.nbytes / 2
    out = np.empty_like(image)
    htj2k.decode_into(stored, out)
    assert np.array_equal(out, image)


def test_the_size_of_a_codestream_is_known_before_it_is_decoded() -> None:
    image = drawn(40, 30, 3, "uint8", "waves")
    stored = htj2k.encode(image)
    assert stored is not None
    bomb = bytearray(stored)
    bomb[8:16] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    for wrong, out in (
        (bytes(bomb), np.empty_like(image)),
        (stored, np.empty((30, 40, 3), np.uint8)),
        (stored, np.empty((40, 30), np.uint8)),
        (stored, np.empty((40, 30, 3), np.uint16)),
        (stored[:30], np.empty_like(image)),
        (b"", np.empty_like(image)),
    ):
        for decode in (htj2k.decode_into, coded_images.decode_into):
            with pytest.raises(ValueError, match="expected"):
                decode(wrong, out)


def test_damage_is_found_before_it_is_decoded(tmp_path: Path) -> None:
    images = [drawn(40, 30, 3, "uint8", "waves") for _ in range(4)]
    out = tmp_path / "out.h5"
    ingest(manifest_of(tmp_path, images), out, IngestOptions(compression="htj2k"))
    with h5py.File(out) as file:
        chunk = file["images"].id.get_chunk_info(2)
    dice = np.random.default_rng(7)
    intact = out.read_bytes()
    for _ in range(40):
        damaged = bytearray(intact)
        damaged[chunk.byte_offset + dice.integers(chunk.size)] ^= 1 << int(dice.integers(8))
        out.write_bytes(damaged)
        with ImageStore(out) as store:
            assert np.array_equal(store[1][0], images[1])
            with pytest.raises(OutputError, match=r"chunk 2 .* is damaged"):
                store[2]
            with pytest.raises(OutputError, match=r"chunk 2 .* is damaged"):
                store[:]


def manifest_of(folder: Path, images: list[NDArray[Any]]) -> Path:
    names = write_images(folder, images)
    return write_manifest(folder / "m.txt", names)


def test_a_chunk_that_would_grow_is_stored_as_it_is(tmp_path: Path) -> None:
    noise, waves = drawn(28, 28, 1, "uint8", "noise"), drawn(28, 28, 1, "uint8", "waves")
    images = [noise, waves, noise]
    ingest(manifest_of(tmp_path, images), tmp_path / "out.h5", IngestOptions(compression="htj2k"))
    with h5py.File(tmp_path / "out.h5") as file:
        chunks = [file["images"].id.get_chunk_info(i) for i in range(3)]
        assert [chunk.filter_mask for chunk in chunks] == [1, 0, 1]
        assert [chunk.size for chunk in chunks] == [784, chunks[1].size, 784]
        assert np.array_equal(file["images"][()], np.stack(images))
    with ImageStore(tmp_path / "out.h5") as store:
        assert np.array_equal(store[:][0], np.stack(images))
        assert all(np.array_equal(store[i][0], image) for i, image in enumerate(images))
    assert verify(tmp_path / "out.h5", sources=True).ok


def test_a_tree_mixes_gray_and_rgb_of_any_size(tmp_path: Path) -> None:
    images = [
        drawn(50, 70, 3, "uint8", "waves"), drawn(64, 41, 1, "uint8", "waves"),
        drawn(33, 90, 1, "uint16", "waves"), drawn(1, 5, 3, "uint8", "noise"),
    ]  # fmt: skip
    options = IngestOptions(compression="htj2k", layout="tree")
    ingest(manifest_of(tmp_path, images), tmp_path / "out.h5", options)
    with ImageStore(tmp_path / "out.h5") as store:
        for found, image in zip(store[:][0], images, strict=True):
            assert np.array_equal(found, image)
    assert verify(tmp_path / "out.h5", sources=True).ok


@pytest.fixture
def without_plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """hdf5plugin's own decoder cannot be called beside HDF5, as with an old one."""
    with monkeypatch.context() as patched:
        patched.setattr(coded_images, "HTJ2K", -1)
        coded_images._plugin.cache_clear()
        yield
    coded_images._plugin.cache_clear()


@pytest.mark.parametrize(
    ("verify", "layout"), checkered(["auto", "first"], ["stack", "stack, by slice", "tree"])
)
def test_several_threads_decode_at_once(
    layout: str, verify: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, _, by_slice = layout.partition(", ")
    images = [drawn(700, 600, 3, "uint8", "waves") + np.uint8(k) for k in range(5)]
    options = IngestOptions(compression="htj2k", layout=layout)
    ingest(manifest_of(tmp_path, images), tmp_path / "out.h5", options)
    decode, together = coded_images.decode_into, threading.Barrier(2)
    names: list[str] = []

    def waiting(data: bytes, out: NDArray[Any]) -> None:
        """Go on only when another thread is here, too: so none has HDF5's lock."""
        names.append(threading.current_thread().name)
        together.wait(timeout=30)
        decode(data, out)

    order = [0, 1, 2, 3]  # two and two
    with ImageStore(tmp_path / "out.h5", threads=2, verify=verify) as store:
        monkeypatch.setattr(coded_images, "decode_into", waiting)
        found = store[:4][0] if by_slice else store[order][0]
    for image, row in zip(found, order, strict=True):
        assert np.array_equal(image, images[row])
    assert len({name for name in names if name.startswith("h5ingest-decode")}) == 2


def test_who_decodes_a_large_image_of_a_tree_looks_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So others decode meanwhile; small ones are looked up at once, which takes less time."""
    looked_up: list[str] = []
    look_up = Tree._look_up

    def noting(self: Tree, *asked: Any) -> Any:
        looked_up.append(threading.current_thread().name.rpartition("_")[0])
        return look_up(self, *asked)

    monkeypatch.setattr(Tree, "_look_up", noting)
    for side, in_threads in ((700, 3), (70, 0)):
        images = [drawn(side, side - 9, 3, "uint8", "waves") + np.uint8(k) for k in range(4)]
        out = tmp_path / f"{side}.h5"
        options = IngestOptions(compression="htj2k", layout="tree")
        ingest(manifest_of(tmp_path, images), out, options)
        with ImageStore(out, threads=2) as store:
            assert all(map(np.array_equal, store[:][0], images))
        assert looked_up.count("h5ingest-decode") == in_threads
        assert len(looked_up) == 4
        looked_up.clear()


def test_the_filter_is_called_as_several_threads_ask_for_it() -> None:
    """Each in memory of its own: all at once, and one that fails among them."""
    images = [drawn(90 + k, 70, 3, "uint8", "waves") for k in range(8)]
    coded = [htj2k.encode(image) for image in images]
    failed = []

    def decode(k: int) -> None:
        data, image = coded[k % 8], images[k % 8]
        assert data is not None
        out = np.zeros_like(image)
        try:
            coded_images.decode_into(data if k % 5 else data[:120], out)
        except ValueError:
            failed.append(k)
            return
        assert np.array_equal(out, image), k

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decode, range(200)))
    assert sorted(failed) == list(range(0, 200, 5))


@pytest.mark.usefixtures("without_plugin")
@pytest.mark.parametrize("layout", ["stack", "tree", "encoded"])
def test_without_the_filter_imagecodecs_decodes(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [drawn(50, 70, 3, "uint8", "waves") + np.uint8(k) for k in range(5)]
    how = {"recode": "htj2k"} if layout == "encoded" else {"compression": "htj2k"}
    options = IngestOptions(layout=layout, **how)  # type: ignore[arg-type]
    ingest(manifest_of(tmp_path, images), tmp_path / "out.h5", options)
    decode, n_decoded = htj2k.decode_into, [0]

    def counting(data: bytes, out: NDArray[Any]) -> None:
        n_decoded[0] += 1
        decode(data, out)

    monkeypatch.setattr(htj2k, "decode_into", counting)
    with ImageStore(tmp_path / "out.h5") as store:
        for found, image in zip(store[:][0], images, strict=True):
            assert np.array_equal(found, image)
    assert n_decoded == [5]


@pytest.mark.usefixtures("without_plugin")
@pytest.mark.parametrize("layout", ["stack", "tree"])
@pytest.mark.parametrize("old", [False, True])
def test_without_a_decoder_of_its_own_it_leaves_that_to_hdf5(
    layout: str, old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [drawn(50, 70, 3, "uint8", "waves") + np.uint8(k) for k in range(5)]
    options = IngestOptions(compression="htj2k", layout=layout)
    manifest = manifest_of(tmp_path, images)
    ingest(manifest, tmp_path / "out.h5", options)

    def refuse(data: bytes, out: NDArray[Any]) -> None:
        raise AssertionError("imagecodecs has no HTJ2K")

    monkeypatch.setattr(htj2k, "decode_into", refuse)
    absent = None if old else SimpleNamespace(available=False)  # an old one has no such name
    monkeypatch.setattr(imagecodecs, "HTJ2K", absent)
    with ImageStore(tmp_path / "out.h5") as store:
        for found, image in zip(store[:][0], images, strict=True):
            assert np.array_equal(found, image)
    with pytest.raises(SetupError, match=r"imagecodecs \S+ comes without HTJ2K; a newer"):
        ingest(manifest, tmp_path / "other.h5", options)


@pytest.mark.parametrize(
    ("options", "channels", "reason"),
    [
        ({}, 4, "gray and RGB images only; the images are RGBA uint8.*--channels rgb"),
        ({"layout": "tree"}, 4, "gray and RGB images only; .*0.png"),
        ({"chunk_rows": 2}, 3, "--chunk: expected 1"),
        ({"layout": "ragged"}, 3, r"--layout tree \(any sizes\)"),
        ({"shuffle": True}, 3, "without --shuffle"),
    ],
)
def test_what_it_cannot_hold_is_refused(
    options: dict[str, Any], channels: int, reason: str, tmp_path: Path
) -> None:
    images = [drawn(20, 30, channels, "uint8", "noise") for _ in range(3)]
    manifest = manifest_of(tmp_path, images)
    htj2k, out = {"compression": "htj2k", **options}, tmp_path / "out.h5"
    with pytest.raises(UsageError, match=reason):
        ingest(manifest, out, IngestOptions(**htj2k))
    if options.get("layout") != "ragged" and "shuffle" not in options:  # else no job begins
        with pytest.raises(UsageError, match=reason) as caught:
            on_ranks(2, lambda comm: ingest(manifest, out, IngestOptions(**htj2k), comm))
        assert caught.value.agreed, "no rank fails alone"
    assert not list(tmp_path.glob("out*"))


def test_reading_takes_no_new_memory_for_each_photograph(tmp_path: Path) -> None:
    """The page faults of what a decoder needs and frees take as long as decoding (glibc)."""
    images = [drawn(700, 600, 3, "uint8", "waves") + np.uint8(k) for k in range(2)]
    for layout in ("tree", "stack"):
        out = tmp_path / f"{layout}.h5"
        ingest(
            manifest_of(tmp_path, images), out, IngestOptions(compression="htj2k", layout=layout)
        )
        program = f"""
import resource
from h5ingest import ImageStore
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
with ImageStore({str(out)!r}, threads=1) as store:
    for row in (0, 1, 0, 1): store[row]
    before = faults()
    for row in [0, 1] * 8: store[row]
    print((faults() - before) / 16)
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
        )
        pages = images[0].nbytes / 4096
        assert float(done.stdout) < pages / 4, layout  # of the image alone
