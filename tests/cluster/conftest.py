from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cluster.plain_alliance import PlainAlliance


@pytest.fixture(scope="package")
def alliance(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainAlliance]:
    """Loaded nodes for all tests here; each test founds a task of its own with them."""
    import torch

    from tests.cluster.plain_alliance import PlainAlliance, tiny_config

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield PlainAlliance(tmp_path_factory.mktemp("alliance"), tiny_config(tiny_model_dir))
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
