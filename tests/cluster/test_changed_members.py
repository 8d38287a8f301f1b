from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flock_ray.chain.values import TaskStatus
from flock_ray.cluster.chain_ledger import ChainLedger
from flock_ray.errors import ChainError
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.roster import Change

pytestmark = pytest.mark.model

TASK = keccak(b"task")


def test_a_run_refuses_a_task_whose_members_changed_since_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its members are the run's own, in their order: only the changes tell that its committees are not."""
    ledger = ChainLedger.__new__(ChainLedger)
    ledger._config = SimpleNamespace(seed=1)  # type: ignore[assignment]
    ledger._accounts = {0: "0xA", 1: "0xB"}
    members = (SimpleNamespace(account="0xA"), SimpleNamespace(account="0xB"))
    view = SimpleNamespace(status=TaskStatus.RUNNING, members=members, changes=(Change(1, 1, 4, leaves=True),))
    monkeypatch.setattr(ledger, "_ask", lambda method, *_: {"task_view": view}[method])
    terms: Any = SimpleNamespace(task_id=lambda seed: TASK)
    with pytest.raises(ChainError, match=f"members joined or left task 0x{TASK.hex()} on this chain") as refused:
        ledger.create_task(terms, bytes(32), None)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
