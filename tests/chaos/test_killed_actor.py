"""The committee or the chain actor dies: the run ends with a clear line, and a resume comes to the same end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from flock_ray.alliance import Alliance
from flock_ray.errors import ChainError, FlockRayError, ProtocolError
from flock_ray.protocol.message import Kind
from tests.runs import Head, Run, timeless, tiny

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(("victim", "error"), [("committee", ProtocolError), ("chain", ChainError)])
def test_a_run_whose_actor_died_can_be_resumed(
    head: Head,
    whole_run: Run,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    victim: str,
    error: type[FlockRayError],
) -> None:
    exchange = Alliance._exchange

    def kill_in_the_second_epoch(self: Alliance, kind: Kind, *args: Any) -> Any:
        if kind is Kind.BALLOT_B and (self.run_directory.path / "records" / "1.json").exists():
            ray.kill(self.committee if victim == "committee" else ray.get_actor("chain"))
        return exchange(self, kind, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Alliance, "_exchange", kill_in_the_second_epoch)
        with pytest.raises(error, match=rf"^the {victim} actor died; go on with resume=RUN_DIR$"):
            head.run(tmp_path, *tiny(tiny_model_dir))
    resumed = head.resume(tmp_path / "latest")
    assert resumed.records() == whole_run.records()
    assert timeless(resumed.summary) == timeless(whole_run.summary)
