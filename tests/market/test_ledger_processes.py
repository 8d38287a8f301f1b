"""Several gateway processes on one ledger, as they run in a deployment, and as they die."""

from __future__ import annotations

from flock_ray.market.ledger import Ledger
from flock_ray.market.ledger_values import State
from flock_ray.protocol.hashing import sha256
from tests.market.ledger_processes import STEPS, WORST, killed, lost_or_billed_twice, race
from tests.market.ledgers import USER, account


def test_64_clients_of_two_processes_race_one_budget(ledger_url: str) -> None:
    ended = race(ledger_url)
    assert ended.overspend == 0
    assert ended.charged == ended.receipts
    assert ended.refused == 64 and ended.answered >= 200
    assert ended.budget - ended.charged < WORST  # and what was reserved in vain came back
    with Ledger.open(ledger_url) as ledger:
        assert ledger.balance(account(USER)).reserved == 0
        (of_day,) = ledger.usage(account(USER))
        assert (of_day.requests, of_day.cost) == (ended.answered, ended.charged)


def test_a_process_killed_at_any_step_loses_nothing_and_bills_nothing_twice(ledger_url: str) -> None:
    ended = killed(ledger_url)
    with Ledger.open(ledger_url) as ledger:
        assert lost_or_billed_twice(ended, ledger.keys.find()[0].spent) == (0, 0)
    billed = {one.step: one.row.cost if one.row else None for one in ended}
    at_16, at_32, whole = (10 * 2 + tokens * 6 for tokens in (16, 32, 40))
    assert billed == dict(
        zip(STEPS, (None, None, 0, at_16, at_32, at_32, at_32, whole, 0), strict=True)
    )  # fmt: skip
    rows = {one.step: one.row for one in ended if one.row is not None}
    assert rows["reserved"].state is State.RELEASED and rows["released"].error == "failed"
    for step in ("progressed", "answered", "while signing"):
        assert rows[step].finish_reason == "interrupted" and rows[step].output == sha256(b"32")
    assert rows["settled"].finish_reason == "stop" and rows["settled"].output == sha256(b"40")
