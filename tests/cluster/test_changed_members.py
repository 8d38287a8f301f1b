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


STAKE = 3_000 * 10**18  # of the one slot that each member has


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ({"changes": (Change(1, 1, 4, leaves=True),)}, "on this chain has members that left it, or joined it"),
        ({"last_settled": 2}, "has settled epochs on this chain already"),
        ({"status": TaskStatus.CLOSED}, "has settled epochs on this chain already"),
        ({"locked": STAKE - 1}, f"has {STAKE - 1} wei locked for task 0x.*, not the {STAKE} wei of its 1 slots"),
        ({"accounts": ("0xB", "0xA")}, "has other members than this run, or in another order"),
    ],
)
def test_a_run_refuses_a_task_that_it_cannot_count_with(
    monkeypatch: pytest.MonkeyPatch, what: dict[str, Any], match: str
) -> None:
    """Its members are the run's own, in their order, with the stakes of their slots and no epoch behind them."""
    ledger, config = ChainLedger.__new__(ChainLedger), Config(seed=1)
    ledger._config, ledger._creator = config, run_signer(1, "creator")
    ledger._accounts = {0: "0xA", 1: "0xB"}
    accounts, locked = what.pop("accounts", ("0xA", "0xB")), what.pop("locked", STAKE)
    members = tuple(
        SimpleNamespace(account=account, slots=1, stake=wei)
        for account, wei in zip(accounts, (STAKE, locked), strict=True)
    )
    view = SimpleNamespace(
        **{"status": TaskStatus.RUNNING, "members": members, "changes": (), "last_settled": 0, **what}
    )
    monkeypatch.setattr(ledger, "_ask", lambda method, *_: {"task_view": view}[method])
    terms: Any = SimpleNamespace(digest=lambda: keccak(b"terms"), min_stake=STAKE)
    task = chain_terms(config, terms.digest(), bytes(32)).task_id(ledger._creator.address, fixed_genesis(1))
    with pytest.raises(ChainError, match=match) as refused:
        ledger.create_task(terms, bytes(32), None)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value) and task.hex() in str(refused.value)
