"""One run with training and scoring simulated, under faults: `python -m benchmarks.peers.chaos_run CASE.json FOLDER`.

CASE is what `Order` has, as JSON. What happens is written to FOLDER/told.jsonl line by line, so that it is known of a
run that hangs or is killed as well: `asked` and `answered` of every phase, `injected` of every fault, and `ended` last.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray._private import state as ray_state

from benchmarks.simulated import SimulatedWorker, Simulation
from flock_ray.cluster.groups import NodeGroups
from flock_ray.cluster.placement import make_plan
from flock_ray.cluster.run_directory import RunDirectory, load_config
from flock_ray.config import (
    AdversaryConfig,
    AllianceConfig,
    ChainBackend,
    ChainConfig,
    ClusterConfig,
    ClusterMode,
    Config,
    HostsMove,
    LoraConfig,
    ModelConfig,
    StoreConfig,
    TrainingConfig,
)
from flock_ray.errors import FlockRayError
from flock_ray.protocol.hashing import sha256
from flock_ray.session import run_alliance
from flock_ray.telemetry.table import Console

PHASES = (
    "begin", "train", "acknowledge", "publish", "commit_ballots_a", "reveal_ballots_a", "commit_ballots_b",
    "reveal_ballots_b", "sign", "advance",
)  # fmt: skip
STOPPED_FLOOR, PHASE_FLOOR = 3.0, 30.0
"""`cluster.phase_floor` of runs in which a process is stopped, which only a deadline tells, and of the others."""
_BLOCK = 4_096  # of a filesystem in memory
MEBIBYTE = 1 << 20
SMALL, LARGE = 4 * MEBIBYTE, 64 * MEBIBYTE


@dataclass(frozen=True)
class Injection:
    """A fault and its moment.

    Attributes:
        fault: name of a method of `Faults`.
        phase: before which it happens; one of `PHASES`.
        turn: the how many-th time that this process asks this phase.
        target: name of an actor, or of what the fault damages.
        after: seconds into the phase; 0 for before it is asked.
        lasts: seconds, of a fault that passes.
    """

    fault: str
    phase: str
    turn: int = 1
    target: str = "node-0-0"
    after: float = 0.0
    lasts: float = 0.0


@dataclass(frozen=True)
class Order:
    """What to play.

    Attributes:
        address: of the Ray cluster.
        output: folder for the run's folder.
        resume: folder of a run to go on with, or nothing.
        epochs: of the task.
        nodes: node groups.
        seconds: that each simulated step takes.
        chain: backend.
        url: of the chain, for `rpc`.
        store: url of the store, or nothing for the run folder's.
        placement_timeout: seconds.
        patience: seconds that an outage of the chain is borne.
        small: what lies on a filesystem of a few MiB: `members`, `run` (all else in the run's folder), or nothing.
        injections: the faults.
    """

    address: str
    output: str
    resume: str = ""
    epochs: int = 2
    nodes: int = 2
    seconds: float = 0.0
    chain: str = "none"
    url: str = ""
    store: str = ""
    placement_timeout: float = 20.0
    hosts_move: str = "never"
    patience: float = 60.0
    small: str = ""
    injections: tuple[Injection, ...] = field(default_factory=tuple)

    @classmethod
    def of(cls, value: dict[str, Any]) -> Order:
        """Read JSON back."""
        return cls(**{**value, "injections": tuple(Injection(**one) for one in value["injections"])})


def configure(order: Order) -> Config:
    """Eight members, one of whom sends harm."""
    cluster = ClusterConfig(
        mode=ClusterMode.existing,
        address=order.address,
        nodes=order.nodes,
        placement_timeout=order.placement_timeout,
        phase_floor=STOPPED_FLOOR if any(injection.fault == "stop" for injection in order.injections) else PHASE_FLOOR,
        hosts_move=HostsMove(order.hosts_move),
    )
    return Config(
        seed=8,
        model=ModelConfig(source="simulated", path=Simulation(16, order.seconds).path),
        lora=LoraConfig(rank=4),
        training=TrainingConfig(steps=2, batch_size=1),
        alliance=AllianceConfig(num_epochs=order.epochs, band_floor=1, band_ceiling=1_000_000),
        adversary=AdversaryConfig(attack="sign_flip", members=[5]),
        chain=ChainConfig(backend=ChainBackend(order.chain), url=order.url, outage_patience=order.patience),
        cluster=cluster,
        store=StoreConfig(url=order.store),
    )


class Faults:
    """Injections at their moments, and notes when phases were asked and answered."""

    def __init__(self, order: Order, run: RunDirectory, folder: Path, tell: Callable[..., None]) -> None:
        self._order, self._run, self._folder, self._tell = order, run, folder, tell
        self._turns: Counter[str] = Counter()
        self._held: list[Any] = []

    def install(self) -> None:
        """Have every phase of this process pass through here."""
        plain = NodeGroups.run

        def run(groups: NodeGroups, phase: str, *args: Any) -> Iterator[tuple[int, Any]]:
            self._turns[phase] += 1
            turn = self._turns[phase]
            due = [one for one in self._order.injections if (one.phase, one.turn) == (phase, turn)]
            self._tell("asked", phase=phase, turn=turn)
            for injection in due:
                if injection.after:
                    threading.Timer(injection.after, self._inject, [injection]).start()
                else:
                    self._inject(injection)
            return self._noted(plain(groups, phase, *args), phase, turn)

        NodeGroups.run = run  # type: ignore[method-assign]

    def _noted(self, results: Iterator[tuple[int, Any]], phase: str, turn: int) -> Iterator[tuple[int, Any]]:
        for index, result in results:
            self._tell("answered", phase=phase, turn=turn, group=index)
            yield index, result

    def _inject(self, injection: Injection) -> None:
        facts = getattr(self, injection.fault)(injection) or {}
        self._tell("injected", **{**asdict(injection), **facts})

    # Processes and machines.

    def kill(self, injection: Injection) -> dict[str, Any]:
        """SIGKILL for an actor's process."""
        pid = _actor(injection.target)["Pid"]
        os.kill(pid, signal.SIGKILL)
        return {"pids": [pid]}

    def stop(self, injection: Injection) -> dict[str, Any]:
        """SIGSTOP for an actor's process, for good."""
        pid = _actor(injection.target)["Pid"]
        os.kill(pid, signal.SIGSTOP)
        return {"pids": [pid]}

    def leave(self, injection: Injection) -> None:
        """SIGKILL for the driver itself."""
        self._tell("injected", **asdict(injection))
        os.kill(os.getpid(), signal.SIGKILL)

    def lose_node(self, injection: Injection) -> dict[str, Any]:
        """SIGKILL for everything on the machine that holds an actor; on the driver's own nothing happens."""
        node = _actor(injection.target)["Address"]["NodeID"]
        if node == ray.get_runtime_context().get_node_id():
            return {"pids": [], "spared": "the driver's machine"}
        socket = next(one["RayletSocketName"] for one in ray.nodes() if one["NodeID"] == node)
        [raylet] = _processes("raylet", f"--raylet_socket_name={socket}")
        pids = [raylet, *_descendants(raylet)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return {"pids": pids, "node": node}

    def lose_gcs(self, injection: Injection) -> dict[str, Any]:
        """SIGKILL for the server that Ray's head keeps its state in."""
        session = ray._private.worker.global_worker.node.get_session_dir_path()
        [pid] = _processes("gcs_server", f"--session-dir={session}")
        os.kill(pid, signal.SIGKILL)
        return {"pids": [pid]}

    def fill_objects(self, injection: Injection) -> dict[str, Any]:
        """Objects of twice the memory that the driver's object store has, all held."""
        here = ray.get_runtime_context().get_node_id()
        room = next(one["Resources"]["object_store_memory"] for one in ray.nodes() if one["NodeID"] == here)
        count = int(2 * room / (8 * MEBIBYTE))
        self._held += [ray.put(np.zeros(8 * MEBIBYTE, np.uint8)) for _ in range(count)]
        return {"mebibytes": 8 * count}

    # Files.

    def lose_folder(self, injection: Injection) -> dict[str, Any]:
        """The private folders of a group's members are gone, and its worker with them."""
        group = int(injection.target.split("-")[1])
        for member in make_plan(configure(self._order)).nodes[group].silos:
            shutil.move(self._run.path / "members" / f"member-{member}", self._folder / "lost" / f"member-{member}")
        return self.kill(injection)

    def fill_disk(self, injection: Injection) -> dict[str, Any]:
        """A small filesystem is filled to its last byte; `target` is a folder on it.

        Members' logs are grown to the end of their last block, by an entry of another task: a line more needs a block.
        """
        folder = Path(injection.target.format(run=self._run.path, folder=self._folder))
        for log in folder.glob("*/slashing_protection.jsonl"):
            entry = ["00" * 32, 0, "00" * 32, "", ""]
            room = -(log.stat().st_size + len(json.dumps(entry)) + 1) % _BLOCK
            with log.open("a") as file:
                file.write(json.dumps([*entry[:3], "x" * room, ""]) + "\n")
        ballast = folder / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(_BLOCK))
        return {"ballast": str(ballast)}

    def damage_adapter(self, injection: Injection) -> dict[str, Any]:
        """The stored global adapter has other bytes, and the worker that remembers it is killed."""
        newest = max((self._run.path / "records").iterdir(), key=lambda path: int(path.stem))
        digest = json.loads(newest.read_bytes())["adapter"].removeprefix("0x")
        return {**damage(self._store / digest[:2] / digest, self._folder), **self.kill(injection)}

    def damage_payload(self, injection: Injection) -> dict[str, Any]:
        """The newest stored update has other bytes; its member's own copy is whole."""
        kept = self._run.path.glob("members/*/vault/*/*")
        newest = max(kept, key=lambda path: path.stat().st_mtime_ns)
        return damage(self._store / newest.parent.name / newest.name, self._folder)

    @property
    def _store(self) -> Path:
        return Path(self._order.store or self._run.store)

    # Elsewhere.

    def chain_away(self, injection: Injection) -> None:
        """Nothing here: whoever started this process takes the chain away when it reads of it."""


def damage(file: Path, folder: Path) -> dict[str, str]:
    """Put other bytes in the place of a file; returns where that is, and where the right ones are kept."""
    kept = folder / "whole" / file.name
    kept.parent.mkdir(exist_ok=True)
    data = bytearray(file.read_bytes())
    shutil.move(file, kept)  # not written over: other names of the file keep its bytes
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return {"damaged": str(file), "whole": str(kept)}


def mount(folder: Path, size: int) -> bool:
    """Put a filesystem in memory at a folder; whether this process may."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _actor(name: str) -> dict[str, Any]:
    """The living actor of this name or class, of this job."""
    job = ray.get_runtime_context().get_job_id()
    living = [one for one in ray_state.actors().values() if one["State"] == "ALIVE" and one["JobID"] == job]
    return next(one for one in living if name in (one["Name"], one["ActorClassName"].lower()))


def _processes(program: str, argument: str) -> list[int]:
    """Processes of a program with this argument in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            line = (
                (folder / "cmdline").read_bytes().decode(errors="replace").split("\0") if folder.name.isdigit() else []
            )
            if argument in line and line[0].endswith(program):
                found.append(int(folder.name))
    return found


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit():
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found, ahead = list[int](), [root]
    while ahead:
        ahead += children.get(ahead.pop(), [])
        found = sorted({*found, *ahead})
    return found


def play(order: Order, folder: Path) -> int:
    """Play a run to its end, whatever that is; returns the exit code that the main job would end with."""
    with (folder / "told.jsonl").open("a", buffering=1) as told, (folder / "output").open("a") as output:

        def tell(what: str, **facts: Any) -> None:
            told.write(json.dumps({"what": what, "time": time.time(), **facts}) + "\n")

        config = configure(order)
        if order.resume:
            run = RunDirectory.open(Path(order.resume))
            earlier = load_config(run.path)
            config = replace(
                earlier, model=config.model, cluster=config.cluster, chain=config.chain, resume=order.resume
            )
        else:
            run = RunDirectory.create(Path(order.output), config)
            if order.small:
                assert mount(run.path / "members", SMALL if order.small == "members" else LARGE)
        tell("began", run=str(run.path))
        Faults(order, run, folder, tell).install()
        code, error, final = 0, "", ""
        try:
            summary = run_alliance(config, run, make_plan(config), Console(output), worker=SimulatedWorker)
            final = summary["final_adapter_hash"]
        except FlockRayError as caught:
            code, error = caught.exit_code, str(caught)
        except KeyboardInterrupt:
            code, error = 130, "interrupted"
        except Exception as caught:
            traceback.print_exc(file=output)
            code, error = 1, f"unexpected {type(caught).__name__}: {caught}"
        records = {file.stem: sha256(file.read_bytes()).hex() for file in sorted((run.path / "records").iterdir())}
        tell("ended", code=code, error=" ".join(error.split()), hash=final, records=records)
        return code


def main(arguments: Sequence[str]) -> int:
    """Play, and print the last line that was told."""
    case, folder = Path(arguments[0]), Path(arguments[1])
    folder.mkdir(parents=True, exist_ok=True)
    code = play(Order.of(json.loads(case.read_text())), folder)
    print((folder / "told.jsonl").read_text().splitlines()[-1])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
