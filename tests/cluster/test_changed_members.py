from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flock_ray.chain.keys import run_signer
from flock_ray.chain.values import TaskStatus
from flock_ray.cluster.chain_ledger import ChainLedger
from flock_ray.cluster.launch import chain_terms
from flock_ray.config import AllianceConfig, Config
from flock_ray.errors import ChainError
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.seed import fixed_genesis

pytestmark = pytest.mark.model


STAKE = 3_000 * 10**18  # of the one slot that each member has


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ({"left_at": 7}, r"on this chain started without member-1 \(0xB\)"),
        ({"last_settled": 2}, "has settled epochs on this chain already"),
        ({"status": TaskStatus.CLOSED}, "has settled epochs on this chain already"),
        ({"locked": STAKE - 1}, f"has {STAKE - 1} wei locked for task 0x.*, not the {STAKE} wei of its 1 slots"),
        ({"accounts": ("0xA", "0xC")}, r"on this chain started without member-1 \(0xB\)"),
    ],
)
def test_a_run_refuses_a_task_that_it_cannot_count_with(
    monkeypatch: pytest.MonkeyPatch, what: dict[str, Any], match: str
) -> None:
    """The run's first members are in it, with the stakes of their slots, and it has no epoch behind it."""
    ledger, config = ChainLedger.__new__(ChainLedger), Config(seed=1, alliance=AllianceConfig(num_members=2))
    ledger._config, ledger._creator = config, run_signer(1, "creator")
    ledger._accounts = {0: "0xA", 1: "0xB"}
    accounts, locked = what.pop("accounts", ("0xA", "0xB")), what.pop("locked", STAKE)
    first = SimpleNamespace(account=accounts[0], slots=1, stake=STAKE, left_at=0)
    second = SimpleNamespace(account=accounts[1], slots=1, stake=locked, left_at=what.pop("left_at", 0))
    members = (first, second)
    view = SimpleNamespace(
        **{"status": TaskStatus.RUNNING, "members": members, "changes": (), "last_settled": 0, **what}
    )
    monkeypatch.setattr(ledger, "_ask", lambda method, *_: {"task_view": view}[method])
    terms: Any = SimpleNamespace(
        digest=lambda: keccak(b"terms"), start_adapter=bytes(32), min_stake=STAKE, target_set=bytes(32), node_stake=0
    )
    task = chain_terms(config, terms).task_id(ledger._creator.address, fixed_genesis(1))
    with pytest.raises(ChainError, match=match) as refused:
        ledger.create_task(terms, None)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value) and task.hex() in str(refused.value)
