from __future__ import annotations

from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra

from flock_ray.commands.composed import conf_folder
from flock_ray.config import register


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()
