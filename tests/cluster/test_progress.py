from __future__ import annotations

from collections.abc import Collection

import pytest

from flock_ray.cluster import progress
from flock_ray.cluster.progress import Progress
from flock_ray.cluster.silos import HostedSilos

pytestmark = pytest.mark.model


def test_time_counted_inside_a_block_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 10.0, 20.0, 21.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    counted = Progress()
    with counted.timed("aggregate"), counted.timed("transfer"):  # 0 to 10, and in it 1 to 4
        pass
    with pytest.raises(ValueError, match="failed"), counted.timed("transfer"):
        raise ValueError("failed")
    assert counted.take_seconds() == {"aggregate": 7.0, "transfer": 4.0}
    assert counted.take_seconds() == {}


def test_units_never_pass_their_total() -> None:
    counted = Progress()
    assert counted.now == ("", 0, 0)
    counted.begin("fetch", 2)
    for _ in range(3):
        counted.step()
    assert counted.now == ("fetch", 2, 2)


def hosted(solo: bool, loaded: list[int], preload: Collection[int] = range(6)) -> HostedSilos:
    def load(silo: int) -> str:
        loaded.append(silo)
        return f"silo {silo}"

    silos = HostedSilos(load, preload, solo, 10, Progress())  # type: ignore[arg-type]
    silos.assign({0: (0, 1, 2), 1: (3, 4)})
    return silos


def test_jobs_of_a_host_share_a_cohort_up_to_the_budget() -> None:
    costs = {("score", member): 5 for member in range(5)}
    made = hosted(False, []).cohorts(costs, lambda job: job[1])
    assert sorted(sorted(job[1] for job in cohort) for cohort in made) == [[0, 1], [2], [3, 4]]
    assert hosted(True, []).cohorts(costs, lambda job: job[1]) == [[job] for job in costs]


def test_silos_are_loaded_once_and_stay() -> None:
    loaded: list[int] = []
    silos = hosted(False, loaded)
    silos.assign({1: (3, 4), 2: (5,)})
    assert loaded == [0, 1, 2, 3, 4, 5] and silos.host_of == {3: 1, 4: 1, 5: 2}
    assert silos[0] == "silo 0" and list(silos.take_opened()) == loaded and silos.take_opened() == {}


def test_silos_that_nobody_asked_for_are_not_loaded() -> None:
    loaded: list[int] = []
    silos = hosted(False, loaded, preload=[1])
    assert loaded == [1] and silos[4] == silos[4] == "silo 4" and loaded == [1, 4]
    assert list(silos.take_opened()) == [1, 4]


def test_a_silo_that_an_epoch_did_not_use_is_closed() -> None:
    loaded: list[int] = []
    silos = hosted(False, loaded, preload=[1])
    silos[4], silos[3]
    silos.end_epoch()
    silos[4]
    silos.end_epoch()
    silos[3], silos[4], silos[1]
    assert loaded == [1, 4, 3, 3]
