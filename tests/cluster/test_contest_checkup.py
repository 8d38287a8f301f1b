"""What a plan says of a contest that it would hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flock_ray.cluster.contest_checkup import describe_contest
from flock_ray.config import ArenaConfig

pytestmark = pytest.mark.model  # its module imports the model libraries


def test_a_line_says_what_a_contest_will_do() -> None:
    config = ArenaConfig()
    assert describe_contest(config) == (
        "3 days, 16 training nodes (6 steps each), 5 validators; rungs of 4, 8, 16 rows a day, set B of 16; metric"
        " text: the loss of each row's targets"
    )
    contest = replace(config.contest, metric="sql", submissions="/adapters", open=True)
    told = describe_contest(replace(config, contest=contest))
    assert "16 training nodes (adapters of /adapters, and whoever enters), 5 validators" in told
    assert told.endswith("a query of at most 64 tokens for each row, and it runs on 3 made-up databases")
