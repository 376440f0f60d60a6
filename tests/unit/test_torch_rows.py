"""Image and mask as a PyTorch dataset: dicts of tensors, cut alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.street import CLASSES, Street, draw_street
from helpers.support import FLAVOURS, run

from h5ingest.core.options import IngestOptions
from h5ingest.pipeline.run import ingest

torch = pytest.importorskip("torch")
from torch.utils.data import DataLoader  # noqa: E402

from h5ingest.torch import ImageDataset  # noqa: E402

LOOP = """
import torch
from torch.utils.data import BatchSampler, DataLoader
from h5ingest.torch import ChunkSampler, ImageDataset

dataset = ImageDataset("street.h5")
batches = BatchSampler(ChunkSampler(dataset), batch_size=8, drop_last=False)
model = torch.nn.Conv2d(3, 8, kernel_size=3, padding=1)
optimizer = torch.optim.Adam(model.parameters())
for images, _ in DataLoader(dataset, sampler=batches, batch_size=None, num_workers=2):
    scores, classes = model(images["images"] / 255), images["mask"][:, 0].long()
    loss = torch.nn.functional.cross_entropy(scores, classes, ignore_index=255)
    optimizer.zero_grad(), loss.backward(), optimizer.step()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


@pytest.fixture(scope="module")
def street(folder: Path) -> Street:
    made = draw_street(folder / "street")
    options = IngestOptions(image=("mask:raw",), fit="cover", size=(32, 32), compression="zstd:1")
    ingest(made.manifest, folder / "street.h5", options)
    ragged = IngestOptions(image=("mask:raw",), layout="ragged")
    ingest(made.manifest, folder / "ragged.h5", ragged)
    return made


def test_the_loop_of_the_readme(street: Street, folder: Path) -> None:
    done = run([FLAVOURS["mpich"].bin / "python", "-c", LOOP], cwd=folder, timeout_s=120)
    assert done.returncode == 0, done.stderr


def test_samples_and_batches(street: Street, folder: Path) -> None:
    dataset = ImageDataset(folder / "street.h5")
    batch, labels = dataset[[3, 1, 4]]
    assert {name: tuple(images.shape) for name, images in batch.items()} == {
        "images": (3, 3, 32, 32),
        "mask": (3, 1, 32, 32),
    }
    assert set(torch.unique(batch["mask"]).tolist()) <= set(CLASSES)
    for place, row in enumerate((3, 1, 4)):
        one, label = dataset[row]
        assert label == labels[place]
        for name, image in one.items():
            assert torch.equal(image, batch[name][place])
    (images, _), *_ = DataLoader(dataset, batch_size=4)
    assert images["mask"].shape == (4, 1, 32, 32)
    ragged = ImageDataset(folder / "ragged.h5")
    several, _ = ragged[[0, 5]]
    for place, row in enumerate((0, 5)):
        np.testing.assert_array_equal(several["mask"][place][0].numpy(), street.masks[row])


def test_a_transform_is_given_both(street: Street, folder: Path) -> None:
    def corner(images: dict[str, Any]) -> dict[str, Any]:
        return {name: torch.from_numpy(image[:8, :8].copy()) for name, image in images.items()}

    cut = ImageDataset(folder / "street.h5", transform=corner)
    whole = ImageDataset(folder / "street.h5")
    batch, _ = cut[0:4]
    assert batch["images"].shape == (4, 8, 8, 3)
    assert torch.equal(batch["mask"], whole[0:4][0]["mask"][:, 0, :8, :8])
    assert torch.equal(cut[2][0]["mask"], batch["mask"][2])
    ragged = ImageDataset(folder / "ragged.h5", transform=corner)
    assert [one["mask"].shape for one in ragged[[0, 1]][0]] == [(8, 8), (8, 8)]
