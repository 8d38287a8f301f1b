from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.errors import ConfigError, RunDirectoryError
from flock_ray.sweeps.point import State
from flock_ray.sweeps.processes import ProcessRunner, Share, only_sweep, shares, visible_gpus
from tests.sweeps.points import folder_of
from tests.waiting import wait_until

CORES = frozenset(os.sched_getaffinity(0))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 3))
def test_places_share_nothing_where_each_has_enough(window: int, cpus: int, gpus: int) -> None:
    devices = [f"GPU-{number}" for number in range(window * gpus + 1)]
    dealt = shares(window, cpus, gpus, devices)
    assert len(dealt) == window and all(share.cpus <= CORES for share in dealt)
    assert all(len(share.gpus) == gpus for share in dealt)
    assert len({gpu for share in dealt for gpu in share.gpus}) == window * gpus
    if len(CORES) >= window * cpus:
        assert all(len(share.cpus) >= cpus for share in dealt)
        assert sum(len(share.cpus) for share in dealt) == len(frozenset().union(*(share.cpus for share in dealt)))
    else:
        assert all(share.cpus == CORES for share in dealt)


@pytest.mark.parametrize(
    ("named", "told"), [("0,2", ("0", "2")), ("GPU-a, GPU-b", ("GPU-a", "GPU-b")), ("", ()), ("-1", ())]
)
def test_gpus_that_the_environment_names(monkeypatch: pytest.MonkeyPatch, named: str, told: tuple[str, ...]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == told


def test_a_run_is_a_process_whose_words_and_exit_code_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flock_ray.py").write_text("raise SystemExit('another package of this name')")
    folder = folder_of(tmp_path, 1, **{"training.steps": 0})
    core = min(CORES)
    running = ProcessRunner([Share(frozenset([core]), ())]).start(folder, 0)
    assert running is not None
    with folder.lock.open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    codes: list[int] = []
    wait_until(lambda: (code := running.poll()) is not None and not codes.append(code))
    assert codes == [ConfigError.exit_code]
    assert folder.ended(codes[0], 1.0, 0) is State.failed
    assert folder.outcome and folder.outcome.error == "training.steps is 0; it must be 1 or more"


def test_a_point_that_another_process_holds_is_not_started(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    with folder.lock.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert ProcessRunner([Share(CORES, ())]).start(folder, 0) is None
    assert not folder.log.read_bytes()


def test_one_sweep_at_a_time_in_a_folder(tmp_path: Path) -> None:
    with (
        only_sweep(tmp_path / "a"),
        only_sweep(tmp_path / "b"),
        pytest.raises(RunDirectoryError, match=r"another sweep plays in .*/a; wait for its end"),
        only_sweep(tmp_path / "a"),
    ):
        raise AssertionError
    with only_sweep(tmp_path / "a"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="cannot be written"), only_sweep(tmp_path / "file"):
        raise AssertionError
