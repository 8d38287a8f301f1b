"""Whole runs for the tests: on the tiny model, in this process on a shared Ray cluster, or as a command."""

from __future__ import annotations

import ctypes
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from flock_ray.cluster.placement import make_plan
from flock_ray.cluster.run_directory import RunDirectory, load_config
from flock_ray.config import ClusterMode, Config, register, to_config
from flock_ray.session import run_alliance
from flock_ray.telemetry.table import Console
from tests.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[1]
ALLIANCE = (sys.executable, str(ROOT / "jobs" / "alliance.py"))
MARK = "FLOCK_RAY_TEST_RUN"
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
TINY = (
    "seed=8",
    "model.dtype=float32",
    "data.sequence_length=64",
    "data.heldout_tokens=512",
    "training.steps=4",
    "training.batch_size=2",
    "training.learning_rate=0.003",
    "alliance.num_epochs=2",
    "alliance.band_floor=500",
    "alliance.band_ceiling=2000",
    "alliance.band_z=1",
    "cluster.nodes=1",
    f"cluster.placement_timeout={PATIENCE:g}",
    "chain=eth_tester",
)
"""Overrides of a run of seconds, in which proposals are accepted and the adversary (member 3) proposes harm."""


def tiny(model: Path, *overrides: str) -> list[str]:
    """Overrides of a tiny run; later ones win."""
    return ["model=folder", f"model.path={model}", *TINY, *overrides]


def configure(*overrides: str) -> Config:
    """What the command line makes of these overrides."""
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return to_config(compose("config", list(overrides)))


@dataclass(frozen=True)
class Run:
    """A run that came to its end."""

    path: Path
    summary: dict[str, Any]

    @property
    def hash(self) -> str:
        return str(self.summary["final_adapter_hash"])

    def events(self, kind: str) -> list[dict[str, Any]]:
        return RunDirectory(self.path).logged(kind)

    def records(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted((self.path / "records").iterdir())}

    def receipt(self, epoch: int) -> dict[str, Any]:
        return dict(json.loads((self.path / "receipts" / f"{epoch}.json").read_text()))


class Head:
    """A Ray cluster of this machine, started with `ray start --head`."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], port: int, dashboard: int) -> None:
        self.folder, self.process = folder, process
        self.address, self.dashboard = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"

    def run(self, output: Path, *overrides: str, **options: Any) -> Run:
        """Play a run here, in this process.

        Args:
            output: `output_dir`.
            overrides: of the configuration.
            options: of `run_alliance`.
        """
        return self.play(output, configure(*overrides), **options)

    def play(self, output: Path, config: Config, **options: Any) -> Run:
        """Play the run of a configuration here, in this process."""
        here = replace(config, cluster=replace(config.cluster, mode=ClusterMode.existing, address=self.address))
        return self._play(here, RunDirectory.create(output, here), **options)

    def resume(self, path: Path) -> Run:
        """Go on with a run here, in this process."""
        config = load_config(path)
        here = replace(config.cluster, mode=ClusterMode.existing, address=self.address)
        return self._play(replace(config, cluster=here), RunDirectory.open(path))

    def _play(self, config: Config, run: RunDirectory, **options: Any) -> Run:
        summary = run_alliance(config, run, make_plan(config), Console(io.StringIO()), **options)
        return Run(run.path, summary)


@contextmanager
def ray_head() -> Iterator[Head]:
    """`ray start --head` with a dashboard on free ports, for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as name:  # sockets: short
        folder = Path(name)
        gcs, dashboard, *others = free_ports(7)
        options = dict(
            zip(
                ("ray-client-server-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
                 "runtime-env-agent-port", "metrics-export-port"),
                others, strict=True,
            ),
            **{"port": gcs, "dashboard-port": dashboard, "min-worker-port": 0, "max-worker-port": 0, "num-cpus": 2,
               "object-store-memory": 256 << 20, "temp-dir": folder, "include-dashboard": "true"},
        )  # fmt: skip
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
        with command_running([*command, *(f"--{key}={value}" for key, value in options.items())], folder) as process:
            head = Head(folder, process, gcs, dashboard)
            wait_until(lambda: answers(gcs) and answers(dashboard), process=process)
            yield head


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def command_running(command: list[str], log_folder: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output goes to `log_folder/output`; it and all that it started are gone afterwards."""
    mark = uuid.uuid4().hex
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (log_folder / "output").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "PATH": path, MARK: mark, **env},
            start_new_session=True,
            preexec_fn=end_with_the_tests,
        )
    process.mark = mark  # type: ignore[attr-defined]
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
        for pid in processes(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def end_with_the_tests() -> None:
    """Have the kernel send SIGTERM to this process when the one that started it is gone."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def processes(mark: str) -> dict[int, str]:
    """{pid: command line} of every living process that carries a mark in its environment."""
    found = {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(folder.name)] = command
    return found


def read_summary(run: Path) -> Run:
    return Run(run, json.loads((run / "summary.json").read_text()))


def timeless(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary without what depends on the clock or on where it ran."""
    facts = {key: value for key, value in summary["run"].items() if key not in ("load_seconds", "placement")}
    clocked = ("wall_seconds", "training")
    epochs = [{key: value for key, value in epoch.items() if key not in clocked} for epoch in summary["epochs"]]
    rest = {key: value for key, value in summary.items() if key not in ("run_id", "epochs", "run")}
    return {**rest, "epochs": epochs, "run": facts}
