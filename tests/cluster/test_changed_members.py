from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flock_ray.chain.keys import run_signer
from flock_ray.chain.values import TaskStatus
from flock_ray.cluster.chain_ledger import ChainLedger
from flock_ray.cluster.launch import chain_terms
from flock_ray.config import Config
from flock_ray.errors import ChainError
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.roster import Change
from flock_ray.protocol.seed import fixed_genesis

pytestmark = pytest.mark.model


def test_a_run_refuses_a_task_whose_members_changed_since_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its members are the run's own, in their order: only the changes tell that its committees are not."""
    ledger, config = ChainLedger.__new__(ChainLedger), Config(seed=1)
    ledger._config, ledger._creator = config, run_signer(1, "creator")
    ledger._accounts = {0: "0xA", 1: "0xB"}
    members = (SimpleNamespace(account="0xA"), SimpleNamespace(account="0xB"))
    view = SimpleNamespace(
        status=TaskStatus.RUNNING, members=members, changes=(Change(1, 1, 4, leaves=True),), last_settled=0
    )
    monkeypatch.setattr(ledger, "_ask", lambda method, *_: {"task_view": view}[method])
    terms: Any = SimpleNamespace(digest=lambda: keccak(b"terms"))
    task = chain_terms(config, terms.digest(), bytes(32)).task_id(ledger._creator.address, fixed_genesis(1))
    with pytest.raises(ChainError, match=f"task 0x{task.hex()} on this chain has members that left it") as refused:
        ledger.create_task(terms, bytes(32), None)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
