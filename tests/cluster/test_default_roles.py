from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.default_experiment import SEEDS
from tests.golden import drawn
from tests.runs import configure

pytestmark = pytest.mark.model


def test_the_demonstration_shows_a_cheat_that_proposes_and_members_that_all_earn(tmp_path: Path) -> None:
    """Roles follow from the configuration: when it changes, so must the seeds of the default experiment."""
    config = configure()
    assert config.seed == SEEDS[0]
    [cheat] = config.adversary.members
    for seed in SEEDS:
        epochs = drawn(configure(f"seed={seed}"), tmp_path / str(seed))
        assert any(cheat in one.proposers for one in epochs)
        voted = {voter for one in epochs for voter in one.voters}
        assert voted >= set(range(config.alliance.num_members)) - {cheat}
