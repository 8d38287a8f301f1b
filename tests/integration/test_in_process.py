"""A task in one process, without Ray and signatures, is the task that Ray plays."""

from __future__ import annotations

from pathlib import Path

import pytest

from flock_ray.errors import ConfigError
from flock_ray.in_process import play
from flock_ray.lora.serialization import adapter_hash
from flock_ray.protocol.encoding import to_hex
from tests.runs import Run, configure, timeless, tiny

pytestmark = [pytest.mark.ray, pytest.mark.model]


def test_one_process_gives_the_records_of_a_ray_run(chainless_run: Run, tiny_model_dir: Path) -> None:
    config = configure(*tiny(tiny_model_dir, "chain=none", "cluster.nodes=2"))
    first, again = play(config), play(config)  # the second one over what the first one loaded
    assert [record.data for record in first.records] == list(chainless_run.records().values())
    assert [record.data for record in again.records] == [record.data for record in first.records]
    assert to_hex(adapter_hash(first.adapter)) == chainless_run.hash
    ours, theirs = timeless(first.summary), timeless(chainless_run.summary)
    assert ours | {"answers": []} == theirs | {"answers": []}
    assert [member.earned for member in first.state.members] == [one["earned_wei"] for one in ours["members"]]


def test_what_stays_loaded_is_that_of_no_other_task(tiny_model_dir: Path) -> None:
    """Another seed has another split and other keys, also after a task of the first one."""
    of_seed = {seed: configure(*tiny(tiny_model_dir, "chain=none", f"seed={seed}")) for seed in (8, 9)}
    first, other, again = (play(of_seed[seed]) for seed in (8, 9, 8))
    assert [record.data for record in first.records] == [record.data for record in again.records]
    assert first.state.scope.task != other.state.scope.task and first.losses[0] != other.losses[0]


def test_what_needs_more_than_one_process_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"chain.backend is eth_tester; in one process it must be none"):
        play(configure(*tiny(tiny_model_dir)))
    with pytest.raises(ConfigError, match=r"training.engine must be torch"):
        play(configure(*tiny(tiny_model_dir, "chain=none", "cluster.workers_per_node=2")))
