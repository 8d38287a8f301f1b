"""Starting Ray on this machine or joining a cluster, and leaving nothing behind."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flock_ray.cluster.interrupts import forget_pending, is_pending, raise_in_waiting, teardown_is_stuck
from flock_ray.cluster.placement import available_cpus
from flock_ray.config import ClusterConfig, ClusterMode
from flock_ray.errors import ClusterError, RayLostError

TEARDOWN_SECONDS = 15.0
"""What ending the actors may take: with a lost head it never ends."""
SHUTDOWN_SECONDS, LOST_SHUTDOWN_SECONDS = 60.0, 5.0
"""What ending Ray may take, and what where its head is silent: Ray kills the process after a minute of that."""
SILENCE = 10.0
"""Seconds without an answer of the head after which it is taken to be lost, once the run is over."""

_LISTENS = 10.0  # seconds for a connection to be taken; a slower host is left to Ray
_TICK = 1.0  # seconds between two looks of the watchdog
_ASK_EVERY = 3.0  # seconds between two questions to the head
_GRACE = 15.0  # seconds after which a main thread that does not wait in our loops is taken to be stuck in Ray


@contextmanager
def ray_cluster(config: ClusterConfig) -> Iterator[HeadWatchdog]:
    """Ray for the length of a block: started here (`local`) or joined (`existing`); gives the watchdog of its head.

    Raises:
        ClusterError: Ray does not start, or no cluster answers at `cluster.address`.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    try:
        if config.mode is ClusterMode.local:
            ray.init(address="local", num_cpus=available_cpus(), include_dashboard=False, **quiet)
        else:
            _require_listener(config.address)
            ray.init(address=config.address, **quiet)
    except Exception as error:  # Ray raises a bare one where its processes take longer than it waits
        what = "Ray does not start" if config.mode is ClusterMode.local else f"no Ray cluster at {config.address!r}"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ClusterError(f"{what}: {reason}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler ends the process on the spot
    watchdog = HeadWatchdog(config.head_timeout)
    try:
        yield watchdog
    finally:
        watchdog.stand_down()
        if not within(SHUTDOWN_SECONDS if watchdog.silent < SILENCE else LOST_SHUTDOWN_SECONDS, ray.shutdown):
            teardown_is_stuck()
        watchdog.stop()


@contextmanager
def ray_failures() -> Iterator[None]:
    """Around what talks to Ray: what Ray itself raises, and nobody dealt with, becomes an error of ours.

    Raises:
        ClusterError: in place of a RayError.
    """
    try:
        yield
    except RayError as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ClusterError(f"Ray failed ({type(error).__name__}: {reason}); go on with resume=RUN_DIR") from error


def _require_listener(address: str) -> None:
    """Refuse a HOST:PORT where nobody listens: Ray would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        with suppress(TimeoutError), socket.create_connection((host, int(port)), _LISTENS):
            pass


def here() -> NodeAffinitySchedulingStrategy:
    """Scheduling of an actor that belongs to the driver's own machine: it is lost with the driver only."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def within(seconds: float, call: Callable[[], object]) -> bool:
    """Whether a call whose errors do not matter any more returned in time; if not, it is left alone in its thread."""

    def run() -> None:
        with suppress(Exception):
            call()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


class HeadWatchdog:
    """Notices that Ray's head (its GCS) does not answer, or that the raylet beside this process died.

    Of the first Ray ends the process after a while without a word; of the second it does at once, or never.

    Attributes:
        silent: seconds since the last answer, not counting those in which this process was suspended.
        describe: how far the run is that ends by this, for the line that says so.

    The waiting loops raise RayLostError then. If none runs in the main thread, a second limit ends the process here.
    """

    def __init__(self, timeout: float) -> None:
        """Watch from now on.

        Args:
            timeout: seconds without an answer.
        """
        self._timeout = timeout
        context = ray.get_runtime_context()
        self._address, self._node = context.gcs_address, context.get_node_id()
        self._answers, self._alone = 0, False
        self.silent = 0.0
        self.describe: Callable[[], str] = lambda: "nothing is signed"
        self._armed = True
        self._stopped = threading.Event()
        for work in (self._ask, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def stand_down(self) -> None:
        """End no run any more: it is whole. How long the head is silent is counted on, for the teardown."""
        self._armed = False
        forget_pending()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()
        forget_pending()

    def _ask(self) -> None:
        while not self._stopped.wait(_ASK_EVERY):
            try:
                nodes = ray.nodes()
            except Exception:
                continue
            self._answers += 1
            self._alone = any(node["NodeID"] == self._node and not node["Alive"] for node in nodes)

    def _watch(self) -> None:
        raised, answers, looked = 0.0, 0, time.monotonic()
        while not self._stopped.wait(_TICK):
            now = time.monotonic()
            self.silent += min(now - looked, 2 * _TICK)
            looked = now
            if self._answers != answers:
                answers, self.silent = self._answers, 0.0
                if raised and not self._alone:
                    raised = 0.0
                    forget_pending()
            if not self._armed or not (self._alone or self.silent >= self._timeout):
                continue
            if not raised:
                raised, error = now, RayLostError(self._what_is_lost())
                raise_in_waiting(error)
            elif now > raised + _GRACE and is_pending():
                print(f"error: {error}", file=sys.stderr, flush=True)
                os._exit(error.exit_code)

    def _what_is_lost(self) -> str:
        if self._alone:
            return f"Ray's raylet on this machine died; {self.describe()}; go on with resume=RUN_DIR"
        return (
            f"Ray's head at {self._address} has not answered for {self.silent:.0f} s (cluster.head_timeout);"
            f" {self.describe()}; start it again and go on with resume=RUN_DIR"
        )


@contextmanager
def frozen_garbage_collection() -> Iterator[None]:
    """Have no garbage collection in a block look through what was loaded before it."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def head_address() -> str:
    """Where another process joins the Ray that this one belongs to: for `cluster.address`."""
    address: str = ray.get_runtime_context().gcs_address
    return address


def machines() -> list[dict[str, float]]:
    """Resources of each living machine of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
