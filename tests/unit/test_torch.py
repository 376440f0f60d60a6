"""`ImageDataset` and `ChunkSampler` under a real DataLoader, forked and spawned."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from helpers.support import make_pixels, write_images, write_manifest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from h5ingest import ImageStore
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest


class Lazy:
    """A module that is imported when the first test asks for something of it: torch takes 2 s."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest asks, while it collects
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)


torch, data, ours = Lazy("torch"), Lazy("torch.utils.data"), Lazy("h5ingest.torch")

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None,
        reason="PyTorch is not installed (extra 'torch')",
    ),
    # A machine with fewer cores than workers is no fault of ours.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def write(
    path: Path,
    pixels: NDArray[Any],
    *,
    failed: tuple[int, ...] = (),
    labels: bool = True,
    **how: Any,
) -> Path:
    n = len(pixels)
    with h5py.File(path, "w") as file:
        file.attrs["schema"] = "h5ingest stack 1"
        file.create_dataset("images", data=pixels, **how)
        status = np.ones(n, np.uint8)
        status[list(failed)] = 2
        file["status"] = status
        file.create_dataset("paths", data=[f"{row}.png" for row in range(n)])
        if labels:
            file["labels"] = np.arange(n) * 3
    return path


def halved(image: NDArray[Any]) -> Any:
    return torch.from_numpy(image.astype(np.float32) / 2)


def negative(label: int) -> int:
    return -label


def labels_of(dataset: Any) -> list[int]:
    return [dataset[sample][1] for sample in range(len(dataset))]


# --- the dataset -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_samples_and_batches_are_channels_first(
    tmp_path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    pixels = make_pixels(7, shape, dtype)
    dataset = ours.ImageDataset(write(tmp_path / "a.h5", pixels))
    # (n, C, H, W)
    wanted = pixels.reshape(7, 5, 4, -1).transpose(0, 3, 1, 2)
    image, label = dataset[-2]
    assert (image.dtype, label) == (getattr(torch, dtype), 15)
    np.testing.assert_array_equal(image.numpy(), wanted[5])
    images, labels = dataset[[4, 1, 4]]
    np.testing.assert_array_equal(images.numpy(), wanted[[4, 1, 4]])
    assert labels.tolist() == [12, 3, 12]
    np.testing.assert_array_equal(dataset[2:4][0].numpy(), wanted[2:4])
    fetched = dataset.__getitems__([6, 0])
    assert [label for _image, label in fetched] == [18, 0]
    np.testing.assert_array_equal(fetched[0][0].numpy(), wanted[6])
    assert len(dataset) == 7


def test_a_group_has_to_be_chosen_at_once(tmp_path: Path) -> None:
    names = write_images(tmp_path, make_pixels(4, (3, 4)))
    rows = [("path", "set"), *((name, "ab"[row % 2]) for row, name in enumerate(names))]
    manifest = write_manifest(tmp_path / "m.csv", rows)
    ingest(manifest, tmp_path / "g.h5", IngestOptions(group_by="set"))
    with pytest.raises(
        UsageError, match=r"expected a group, one of a, b; got none: .*in Python group='a'"
    ):
        ours.ImageDataset(tmp_path / "g.h5")
    assert len(ours.ImageDataset(tmp_path / "g.h5", group="b")) == 2


def test_transforms_are_given_what_is_stored(tmp_path: Path) -> None:
    pixels = make_pixels(7, (5, 4, 3))
    path = write(tmp_path / "a.h5", pixels)
    dataset = ours.ImageDataset(path, transform=halved, target_transform=negative)
    image, label = dataset[3]
    np.testing.assert_array_equal(image.numpy(), pixels[3].astype(np.float32) / 2)
    assert label == -9
    images, labels = dataset[[3, 1]]
    np.testing.assert_array_equal(images.numpy(), pixels[[3, 1]].astype(np.float32) / 2)
    assert labels == [-9, -3]
    assert [label for _image, label in dataset.__getitems__([2, 5])] == [-6, -15]
    shapes = ours.ImageDataset(path, transform=np.shape)
    assert shapes[[0, 1]][0] == [(5, 4, 3)] * 2


def test_failed_rows_are_not_shown_to_a_model(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", make_pixels(7, (5, 4)), failed=(1, 2))
    assert labels_of(ours.ImageDataset(path)) == [0, 9, 12, 15, 18]
    assert len(ours.ImageDataset(path, failed="include")) == 7
    masking = ImageStore(path, failed="mask", masked_label=-100)
    assert labels_of(ours.ImageDataset(masking))[:4] == [0, -100, -100, 9]
    with pytest.raises(UsageError, match="group"):
        ours.ImageDataset(masking, group="train")


def test_checksums_are_compared_if_that_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", make_pixels(7, (5, 4)))
    with h5py.File(path, "r+") as file:
        file["checksums"] = np.zeros(7, np.uint64)  # which are wrong
    for dataset in (ours.ImageDataset(path), ours.ImageDataset(path, verify="never")):
        assert len(dataset[[2, 0]][0]) == 2
    dataset = pickle.loads(pickle.dumps(ours.ImageDataset(path, verify="first")))
    for index in (2, [0, 2]):
        with pytest.raises(OutputError, match="is damaged: expected checksum"):
            dataset[index]


def test_without_labels_there_are_images_only(tmp_path: Path) -> None:
    pixels = make_pixels(7, (5, 4))
    dataset = ours.ImageDataset(write(tmp_path / "a.h5", pixels, labels=False))
    np.testing.assert_array_equal(dataset[2].numpy()[0], pixels[2])
    assert dataset[[1, 2]].shape == (2, 1, 5, 4)
    (batch,) = data.DataLoader(dataset, batch_size=7)
    np.testing.assert_array_equal(batch.numpy()[:, 0], pixels)


def test_images_of_many_sizes_come_as_a_list(tmp_path: Path) -> None:
    images = [make_pixels(1, (3, k + 1))[0] for k in range(4)]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["schema"] = "h5ingest ragged 1"
        file["images/pixels"] = np.concatenate([image.ravel() for image in images])
        file["images/offsets"] = np.cumsum([0, *[image.size for image in images]])
        file["images/shapes"] = np.array([(*image.shape, 1) for image in images], np.int32)
        file["status"] = np.ones(4, np.uint8)
        file["labels"] = np.arange(4)
    dataset = ours.ImageDataset(tmp_path / "a.h5")
    found, labels = dataset[[2, 0]]
    assert labels.tolist() == [2, 0]
    assert [tuple(image.shape) for image in found] == [(1, 3, 3), (1, 3, 1)]
    np.testing.assert_array_equal(dataset[3][0].numpy()[0], images[3])


def test_a_tensor_is_no_copy_where_it_need_not_be() -> None:
    gray = make_pixels(2, (5, 4))
    assert np.shares_memory(ours.to_tensor(gray, batch=True).numpy(), gray)
    assert ours.to_tensor(gray[0]).shape == (1, 5, 4)
    assert ours.to_tensor(make_pixels(2, (5, 4, 3)), batch=True).is_contiguous()


# --- under a DataLoader ------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["none", "zstd"])
def many(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, NDArray[Any]]:
    """10,000 images, all different, their labels three times their row."""
    pixels = make_pixels(10_000, (7, 6))
    pixels[:, 0, :2] = np.arange(10_000, dtype="<u2").view(np.uint8).reshape(-1, 2)
    how = {} if request.param == "none" else dict(hdf5plugin.Zstd())
    path = tmp_path_factory.mktemp("many") / "a.h5"
    return write(path, pixels, chunks=(300, 7, 6), **how), pixels


def check_loader(loader: Any, pixels: NDArray[Any]) -> None:
    """Every image once, each with the label that goes with it."""
    seen = []
    for images, labels in loader:
        rows = labels.numpy() // 3
        np.testing.assert_array_equal(images.numpy()[:, 0], pixels[rows])
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(pixels)))


@pytest.mark.parametrize(
    ("workers", "method"), [(0, None), (2, "fork"), (2, "spawn")], ids=["alone", "fork", "spawn"]
)
def test_every_sample_of_an_epoch_is_right(
    many: tuple[Path, NDArray[Any]], workers: int, method: str | None
) -> None:
    path, pixels = many
    dataset = ours.ImageDataset(path)
    for row in (0, 5000, 9999):  # the parent has read before the workers begin
        np.testing.assert_array_equal(dataset[row][0].numpy()[0], pixels[row])
    how: dict[str, Any] = {"num_workers": workers, "multiprocessing_context": method}
    check_loader(data.DataLoader(dataset, batch_size=64, shuffle=True, **how), pixels)
    if method != "spawn":  # two seconds each
        sampler = ours.ChunkSampler(dataset, window=3)
        check_loader(data.DataLoader(dataset, batch_size=64, sampler=sampler, **how), pixels)
        batches = data.BatchSampler(sampler, 64, drop_last=False)
        check_loader(data.DataLoader(dataset, sampler=batches, batch_size=None, **how), pixels)


def test_forked_workers_never_return_a_wrong_mnist_image(corpora: Path, tmp_path: Path) -> None:
    lines = (corpora / "mnist/train.csv").read_text().splitlines()[:10_001]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    options = IngestOptions(root=corpora / "mnist", compression="zstd")
    ingest(tmp_path / "m.csv", tmp_path / "m.h5", options)
    with h5py.File(tmp_path / "m.h5") as file:
        images, labels = file["images"][()], file["labels"][()]
    dataset = ours.ImageDataset(tmp_path / "m.h5")
    dataset[::500]
    order = np.random.default_rng(3).permutation(10_000).tolist()
    loader = data.DataLoader(
        dataset, batch_size=64, sampler=order, num_workers=2, multiprocessing_context="fork"
    )
    place = 0
    for found, found_labels in loader:
        rows = order[place : place + len(found)]
        np.testing.assert_array_equal(found.numpy()[:, 0], images[rows])
        assert found_labels.tolist() == labels[rows].tolist()
        place += len(found)
    assert place == 10_000


def test_a_dataset_can_be_pickled(many: tuple[Path, NDArray[Any]]) -> None:
    path, pixels = many
    dataset = ours.ImageDataset(path, target_transform=negative)
    dataset[3]
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again[17][0].numpy()[0], pixels[17])
    assert again[17][1] == -51


# --- the sampler -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    """1,000 images in chunks of 32."""
    path = tmp_path_factory.mktemp("chunked") / "a.h5"
    pixels = make_pixels(1000, (2, 2))
    return ImageStore(write(path, pixels, chunks=(32, 2, 2), compression="gzip"))


def test_each_epoch_is_another_order_the_same_for_a_seed(chunked: ImageStore) -> None:
    sampler = ours.ChunkSampler(chunked, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(1000))
    assert first != sorted(first)
    assert list(sampler) == first == list(ours.ChunkSampler(chunked, seed=1))
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(second) == sorted(first)
    assert second != first
    assert list(ours.ChunkSampler(chunked, seed=2)) != first
    assert all(type(sample) is int for sample in first)


def test_a_window_touches_no_more_chunks_than_it_may(chunked: ImageStore) -> None:
    samples = np.array(list(ours.ChunkSampler(chunked, window=4)))
    chunks = samples // 32
    seen: list[int] = []
    for start in range(0, 1000, 128):  # the one short chunk may shift what comes after it
        seen += set(chunks[start : start + 128].tolist())
    assert len(seen) <= len(set(chunks.tolist())) + 8
    # within the window it does mix: neighbours seldom are of one chunk
    assert np.mean(np.diff(chunks) == 0) < 0.4
    assert np.mean(np.diff(samples) == 1) < 0.02


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    replicas=st.integers(1, 40), window=st.integers(1, 50), drop=st.booleans(),
    epoch=st.integers(0, 3),
)  # fmt: skip
def test_replicas_share_an_epoch(
    chunked: ImageStore, replicas: int, window: int, drop: bool, epoch: int
) -> None:
    shares = []
    for rank in range(replicas):
        sampler = ours.ChunkSampler(
            chunked, window=window, num_replicas=replicas, rank=rank, drop_last=drop
        )
        sampler.set_epoch(epoch)
        reference: Any = data.DistributedSampler(
            chunked,
            num_replicas=replicas,
            rank=rank,
            drop_last=drop,
        )
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) == len(reference)
    together = [sample for share in shares for sample in share]
    if drop:
        assert len(set(together)) == len(together)
        assert len(together) > 1000 - replicas
    else:
        assert set(together) == set(range(1000))
        assert len(together) < 1000 + replicas
    alone = ours.ChunkSampler(chunked, window=window)
    alone.set_epoch(epoch)
    assert together[:1000] == list(alone)[: len(together)]


def test_more_replicas_than_samples(tmp_path: Path) -> None:
    store = ImageStore(write(tmp_path / "a.h5", make_pixels(3, (2, 2))))
    shares = [list(ours.ChunkSampler(store, num_replicas=8, rank=rank)) for rank in range(8)]
    assert [len(share) for share in shares] == [1] * 8
    assert {sample for share in shares for sample in share} == {0, 1, 2}
    empty = ours.ChunkSampler(store, num_replicas=8, rank=1, drop_last=True)
    assert list(empty) == []
    assert len(empty) == 0


def test_skipped_rows_are_not_sampled(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.h5", make_pixels(20, (2, 2)), failed=(0, 5, 6, 7, 8, 9), chunks=(5, 2, 2)
    )
    dataset = ours.ImageDataset(path)
    assert sorted(ours.ChunkSampler(dataset)) == list(range(14))
    bounds = dataset.store.blocks
    assert all(a < b for a, b in pairwise(bounds.tolist()))


@pytest.mark.parametrize(
    "wrong", [{"window": 0}, {"seed": -1}, {"rank": 2, "num_replicas": 2}, {"num_replicas": 0}]
)
def test_a_sampler_that_cannot_be(chunked: ImageStore, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ours.ChunkSampler(chunked, **wrong)


# --- the first hour with a file ----------------------------------------------------------------


def test_a_file_of_groups_says_at_once_which_there_are(tmp_path: Path) -> None:
    pixels = make_pixels(6, (4, 4))
    write_images(tmp_path, pixels)
    rows = [(f"{k:04}.png", "ab"[k % 2], ("train", "test")[k % 3 == 0], k) for k in range(6)]
    manifest = write_manifest(tmp_path / "m.csv", [("path", "label", "split", "age"), *rows])
    ingest(manifest, tmp_path / "out.h5", IngestOptions(group_by="split"))
    with pytest.raises(UsageError, match=r"a group, one of test, train; got none"):
        ours.ImageDataset(tmp_path / "out.h5")
    dataset = ours.ImageDataset(tmp_path / "out.h5", group="train")
    assert dataset.classes == ("a", "b")
    assert sorted(dataset.columns) == ["age", "split"]
    assert dataset.columns["age"].tolist() == [1, 2, 4, 5]


def test_a_collate_for_images_of_many_sizes(tmp_path: Path) -> None:
    images = [make_pixels(1, (3 + k, 5))[0] for k in range(5)]
    write_images(tmp_path, images)
    rows = [(f"{k:04}.png", k) for k in range(5)]
    manifest = write_manifest(tmp_path / "m.csv", [("path", "label"), *rows])
    ingest(manifest, tmp_path / "out.h5", IngestOptions(layout="ragged"))
    dataset = ours.ImageDataset(tmp_path / "out.h5")
    loader = data.DataLoader(dataset, batch_size=2, collate_fn=dataset.collate)
    seen = []
    for shown, labels in loader:
        assert labels.dtype == torch.int64
        for image, label in zip(shown, labels.tolist(), strict=True):
            np.testing.assert_array_equal(image.numpy()[0], images[label])
            seen.append(label)
    assert seen == list(range(5))
    named = ours.ImageDataset(tmp_path / "out.h5", target_transform=str)
    assert named.collate([named[0], named[3]])[1] == ["0", "3"]


@pytest.mark.parametrize("given", [0, 1, 37, 100, 101])
def test_a_sampler_goes_on_in_the_middle_of_an_epoch(tmp_path: Path, given: int) -> None:
    path = write(tmp_path / "a.h5", make_pixels(301, (2, 2)), chunks=(7, 2, 2))
    store = ImageStore(path)

    def sampler(**how: int) -> Any:
        return ours.ChunkSampler(store, window=4, seed=5, num_replicas=3, rank=1, **how)

    whole, begun = sampler(), sampler()
    for each in (whole, begun):
        each.set_epoch(2)
    expected = list(whole)
    samples = iter(begun)
    assert [next(samples) for _ in range(given)] == expected[:given]
    state = pickle.loads(pickle.dumps(begun.state_dict()))
    again = sampler()
    again.load_state_dict(state)
    again.set_epoch(again.epoch)
    assert list(again) == expected[given:]
    assert list(again) == expected, "the same epoch anew"
    again.load_state_dict(state)
    again.set_epoch(3)
    whole.set_epoch(3)
    assert list(again) == list(whole), "another epoch"
    for wrong in ({**state, "seed": 6}, {**state, "given": 102}, {**state, "epoch": -1}, {}):
        with pytest.raises(UsageError, match="state"):
            again.load_state_dict(wrong)


def rank_correlation(order: list[int]) -> float:
    """Spearman's, with the order of the file."""
    return float(np.corrcoef(np.arange(len(order)), order)[0, 1])


def test_the_order_has_little_to_do_with_that_of_the_file(tmp_path: Path) -> None:
    n, each = 20_000, 20
    path = write(tmp_path / "a.h5", make_pixels(n, (1, 1)), chunks=(each, 1, 1))
    store = ImageStore(path)
    n_blocks = n // each
    for epoch in range(5):
        sampler = ours.ChunkSampler(store, seed=1)
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(n))
        # Blocks are shuffled: four standard deviations of the correlation of 1,000 of them.
        assert abs(rank_correlation(order)) < 4 / np.sqrt(n_blocks - 1)
        # A batch of 64 mixes what lies far apart: almost each sample is of another chunk.
        batches = np.array(order[: n // 64 * 64]).reshape(-1, 64) // each
        assert np.mean([len(np.unique(batch)) for batch in batches]) > 25
        neighbours = np.abs(np.diff(order)) == 1
        assert neighbours.mean() < 0.01


@pytest.mark.skipif(
    importlib.util.find_spec("torchdata") is None, reason="torchdata is not installed"
)
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_stateful_loader_goes_on_in_the_middle_of_an_epoch(
    tmp_path: Path, n_workers: int
) -> None:
    stateful = importlib.import_module("torchdata.stateful_dataloader")
    path = write(tmp_path / "a.h5", make_pixels(50, (2, 2)), chunks=(7, 2, 2))

    def loader() -> Any:
        dataset = ours.ImageDataset(path)
        sampler = ours.ChunkSampler(dataset, window=3, seed=5)
        return stateful.StatefulDataLoader(
            dataset, batch_size=4, sampler=sampler, num_workers=n_workers
        )

    expected = [labels.tolist() for _, labels in loader()]
    begun = loader()
    batches = iter(begun)
    for _ in range(5):
        next(batches)
    state = begun.state_dict()
    again = loader()
    again.load_state_dict(state)
    assert [labels.tolist() for _, labels in again] == expected[5:]
