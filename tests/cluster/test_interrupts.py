from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from flock_ray.cluster import interrupts
from flock_ray.cluster.interrupts import check_interrupted, stop_on_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interrupts._interrupted.clear()


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_that_was_swallowed_is_raised_at_the_next_look(number: signal.Signals) -> None:
    stop_on_signals()
    check_interrupted()
    with suppress(KeyboardInterrupt):
        signal.raise_signal(number)
    with pytest.raises(KeyboardInterrupt):
        check_interrupted()
