from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.chain.world import World, spec

settings.register_profile("chain", settings.get_profile("tests"), derandomize=True)  # a run that passes passes again
settings.load_profile("chain")


@pytest.fixture(params=["eth_tester", pytest.param("anvil", marks=pytest.mark.anvil)])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(backend: str, tmp_path: Path) -> Iterator[World]:
    """Five members and deployed contracts, no task yet."""
    made = World(spec(backend), tmp_path)
    made.deploy()
    yield made
    made.client.close()


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A running task in the in-process EVM, for tests that only read."""
    made = World(spec("eth_tester"), tmp_path_factory.mktemp("shared"))
    made.deploy()
    made.create(num_epochs=20)
    yield made
    made.client.close()
