"""What the tests on network file systems share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers import hosts, network_fs
from helpers.faults import Images
from helpers.network_fs import Network

CORPORA = {"few": (24, 1), "many": (96, 6)}
"""Number of images and their scale: a file of a few blocks, and one with many for each rank."""


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    if reason := hosts.missing():
        pytest.skip(reason)
    with network_fs.start(tmp_path_factory.mktemp("network")) as started:
        yield started


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Images]:
    """To be read only."""
    return {
        name: Images.write(tmp_path_factory.mktemp(name), n, scale)
        for name, (n, scale) in CORPORA.items()
    }
