"""What a run leaves behind, and how it ends when Ray's head does not answer."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from flock_ray.cluster.interrupts import check_interrupted, forget_pending, is_pending, raise_in_waiting
from flock_ray.cluster.runtime import within
from flock_ray.errors import RayLostError

pytestmark = pytest.mark.ray  # it imports it


def test_a_call_that_does_not_return_in_time_is_left_alone() -> None:
    release = threading.Event()
    assert not within(0.05, release.wait)
    release.set()
    assert within(60.0, lambda: None)


def test_what_a_teardown_raises_does_not_matter() -> None:
    assert within(60.0, lambda: 1 / 0)


def test_an_error_of_another_thread_is_raised_by_the_loop_that_waits_and_by_no_later_run() -> None:
    raise_in_waiting(RayLostError("gone"))
    assert is_pending()
    with pytest.raises(RayLostError, match="gone"):
        check_interrupted()
    assert not is_pending()
    check_interrupted()
    raise_in_waiting(RayLostError("gone"))
    forget_pending()
    check_interrupted()


@pytest.mark.parametrize(("stuck", "code"), [(True, 33), (False, 33)])
def test_a_process_ends_with_its_exit_code_whether_or_not_its_teardown_is_stuck(stuck: bool, code: int) -> None:
    script = (
        "import threading\n"
        "from flock_ray.cluster import interrupts\n"
        f"threading.Thread(target=threading.Event().wait, daemon={not stuck}).start()\n"
        f"if {stuck}: interrupts.teardown_is_stuck()\n"
        "print('told')\n"
        f"interrupts.end_process({code})\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=False)
    assert (ended.returncode, ended.stdout) == (code, "told\n")
