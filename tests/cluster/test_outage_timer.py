from __future__ import annotations

import pytest

from flock_ray.cluster import outage_timer
from flock_ray.cluster.outage_timer import OutageTimer
from flock_ray.errors import ChainUnreachableError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(outage_timer.time, "monotonic", lambda: now[0])
    return now


def test_an_outage_is_told_and_borne_for_so_long(clock: list[float]) -> None:
    told: list[tuple[str, int, int]] = []
    waits = OutageTimer(60)
    waits.progress = lambda *update: told.append(update)
    waits.wait("epoch 2: its transaction is in no block yet", unreachable=False)
    clock[0] += 1_000
    waits.wait("epoch 2: no answer", unreachable=True, since=0.0)
    clock[0] += 60
    waits.wait("epoch 2: no answer", unreachable=True, since=0.0)
    clock[0] += 1
    with pytest.raises(ChainUnreachableError, match=r"epoch 2: no answer; waited for 60 s \(chain\.outage_patience\)"):
        waits.wait("epoch 2: no answer", unreachable=True, since=0.0)
    assert [phase.partition(" for ")[0][:10] for phase, _, _ in told] == ["wait", "wait since", "wait since"]
    assert all("epoch 2" in phase and (done, total) == (0, 1) for phase, done, total in told)


def test_a_chain_that_came_back_is_given_the_whole_time_again(clock: list[float]) -> None:
    told: list[tuple[str, int, int]] = []
    waits = OutageTimer(60)
    waits.progress = lambda *update: told.append(update)
    waits.over()
    assert told == []
    for _ in range(5):
        waits.wait("the chain", unreachable=True)
        clock[0] += 50
        waits.over()
    assert [done for _, done, _ in told] == [0, 1] * 5
