"""The coordinator dies: its epoch runs again, to the same bytes. The chain actor dies: a resumed run is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from flock_ray.alliance import Alliance
from flock_ray.errors import ChainError
from flock_ray.protocol.message import Kind
from tests.runs import Head, Run, timeless, tiny

pytestmark = pytest.mark.ray


def test_a_run_whose_coordinator_dies_goes_on_and_whose_chain_actor_dies_can_be_resumed(
    head: Head, whole_run: Run, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = Alliance.exchange
    killed = []

    def kill(self: Alliance, phase: str, kind: Kind, results: Any) -> Any:
        second = (self.journal.path / "records" / "1.json").exists()  # type: ignore[attr-defined]
        if kind is Kind.BALLOT_B and not second and not killed:
            killed.append("coordinator")
            ray.kill(ray.get_actor("coordinator"))
        elif kind is Kind.BALLOT_B and second:
            killed.append("chain")
            ray.kill(ray.get_actor("chain"))
        return exchange(self, phase, kind, results)

    with monkeypatch.context() as patched:
        patched.setattr(Alliance, "exchange", kill)
        with pytest.raises(ChainError, match=r"^the chain actor died; go on with resume=RUN_DIR$"):
            head.run(tmp_path, *tiny(tiny_model_dir))
    assert killed == ["coordinator", "chain"]
    resumed = head.resume(tmp_path / "latest")
    assert [event["epoch"] for event in resumed.events("coordinator_lost")] == [1]
    assert resumed.records() == whole_run.records()
    assert timeless(resumed.summary) == timeless(whole_run.summary)
