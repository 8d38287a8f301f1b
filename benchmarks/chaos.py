"""What a run survives: one fault after the other at every phase, and what became of the run.

Each case is a whole run of `benchmarks/peers/chaos_run.py` in a process of its own, with everything real but training
and scoring, on a Ray cluster of several machines (raylets) on this one. It ends in one of these ways:

    same           exit code 0, with the adapter and the records of an undisturbed run
    said           exit code 0 with others, and an event or the table of verdicts says why
    refused        another exit code with one clear line, and `resume=` comes to the end of an undisturbed run
    broken         another exit code without that
    silent_change  exit code 0 with others, and nothing says why
    hang           nothing happened for longer than any phase, reload or wait may take
    not_injected   the fault itself did not come about: the case says nothing
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import ROOT, earlier_result, environment, result_path, store, tell
from benchmarks.peers.chaos_run import MEBIBYTE, PHASES, SMALL, Injection, Order, damage, mount, play
from flock_ray.chain.anvil import AnvilProcess, find_anvil
from flock_ray.chain.embedded import GAS_MONEY, GENESIS_TIME
from flock_ray.chain.journal import Genesis
from flock_ray.chain.keys import Signer, run_signer
from tests.chaos.proxy import Proxy

OBJECT_STORE = 80 * MEBIBYTE
SILENCE = 300.0
"""Seconds without news until a run counts as hanging: far longer than loading takes on a busy machine."""

ROUNDS = 40
EXPLAINS = ("message_dropped", "refused_to_sign", "epoch_abandoned", "sat_out")
"""Kinds of events that say why a run ended otherwise than an undisturbed one."""

AT_WORKERS = ("kill", "stop", "lose_node", "lose_folder", "damage_adapter")
"""Faults after which a group has to be built again, if they hit a worker."""

MEMBERS = 8
CHAIN_ID = 4_711
FOREVER = 10**9


@dataclass(frozen=True)
class Case:
    """A fault at a phase, or the same fault at each of several phases, an epoch each.

    Attributes:
        name: of the fault and what it hits.
        injections: what happens to the run.
        intended: outcomes that are right.
        codes: exit codes that a refusal may have; any if there are none.
        order: what differs from the usual run.
        machines: that stand beside the driver's.
        alone: the cluster does not outlive the case.
        small: what lies on a small filesystem of its own: `members`, `run`, `store` or nothing.
        between: what is done to the run's folder before it is resumed, the first time.
        unseen: a proposal that nobody could fetch explains another end.
    """

    name: str
    injections: tuple[Injection, ...]
    intended: tuple[str, ...] = ("same",)
    order: Mapping[str, Any] | None = None
    machines: int = 2
    alone: bool = False
    small: str = ""
    between: str = ""
    unseen: bool = False
    codes: tuple[int, ...] = ()

    @property
    def epochs(self) -> int:
        """Epochs of the run: two, or as many as a sweep has injections."""
        return (self.order or {}).get("epochs", max(2, len(self.injections)))

    @property
    def sweep(self) -> bool:
        """Whether the injections are cases of their own that share a run as long as it bears them."""
        return len(self.injections) > 2 and len({one.fault for one in self.injections}) == 1 and self.epochs != ROUNDS

    def right(self, verdict: Mapping[str, Any]) -> bool:
        """Whether a run ended as it should."""
        coded = verdict["outcome"] != "refused" or not self.codes or verdict["code"] in self.codes
        return verdict["outcome"] in self.intended and coded

    def parts(self) -> Iterator[Case]:
        """The cases of a sweep, each in a run of its own."""
        for injection in self.injections:
            turn = 1 if injection.phase == "begin" else 2
            yield replace(self, name=f"{self.name}, {injection.phase}", injections=(replace(injection, turn=turn),))


def sweep(fault: str, target: str, phases: Sequence[str] = PHASES) -> tuple[Injection, ...]:
    """A fault before each of these phases, in the first epoch before the first of them and so on."""
    return tuple(
        Injection(fault, phase, 1 if phase == "begin" else turn, target) for turn, phase in enumerate(phases, start=1)
    )


def cases() -> list[Case]:
    """The whole matrix."""
    worker, other = "node-0-0", "node-1-0"
    chain = "anvil" if find_anvil() else "eth_tester"
    found = [
        Case(f"{name} {verb}", sweep(fault, target))
        for verb, fault in (("killed", "kill"), ("stopped", "stop"))
        for name, target in (("worker", worker), ("coordinator", "coordinator"))
    ]
    middle = {"order": {"seconds": 0.3}}
    found += [
        Case("worker killed in the middle of training", (Injection("kill", "train", 2, after=0.4),), **middle),
        Case(
            "worker stopped in the middle of scoring", (Injection("stop", "commit_ballots_a", 2, after=0.4),), **middle
        ),
        Case("both workers killed in one epoch", (Injection("kill", "train", 2), Injection("kill", "sign", 2, other))),
        Case("worker killed twice in one epoch", (Injection("kill", "train", 2), Injection("kill", "sign", 2))),
    ]
    for verb, fault in (("killed", "kill"), ("stopped", "stop")):
        found += [
            Case(
                f"chain actor {verb}, {phase}",
                (Injection(fault, phase, turn, "chain"),),
                ("same", "refused"),
                {"chain": chain},
            )
            for phase, turn in (("begin", 1), ("advance", 1), ("sign", 2))
        ]
    lost = {"order": {"placement_timeout": 10.0}}
    found += [
        Case("machine lost, one to spare", (Injection("lose_node", "commit_ballots_a", 2),), machines=3),
        Case("machine lost while training, one to spare", (Injection("lose_node", "train", 2),), machines=3),
        Case(
            "machine lost, none to spare",
            (Injection("lose_node", "commit_ballots_a", 2),),
            ("refused",),
            **lost,
            codes=(30, 31),
        ),
        Case(
            "machine lost, none to spare, hosts may move",
            (Injection("lose_node", "commit_ballots_a", 2),),
            order={"placement_timeout": 10.0, "hosts_move": "always"},
        ),
        Case(
            "coordinator's machine lost",
            (Injection("lose_node", "reveal_ballots_a", 2, "coordinator"),),
            machines=4,
        ),
        Case("group moved without its folders, ballots A sealed", (Injection("lose_folder", "reveal_ballots_a", 2),)),
        Case("group moved without its folders, ballots B sealed", (Injection("lose_folder", "reveal_ballots_b", 2),)),
        Case("group moved without its folders, payloads committed to", (Injection("lose_folder", "publish", 2),)),
        Case(
            "head's state server killed",
            (Injection("lose_gcs", "publish", 1),),
            ("refused",),
            {"seconds": 20.0, "epochs": 3},
            alone=True,
            codes=(33,),
        ),
        Case("head's state server killed near the end", (Injection("lose_gcs", "sign", 2),), alone=True),
        Case("object store full", (Injection("fill_objects", "publish", 2),)),
        Case(
            "disk full, members' folders",
            (Injection("fill_disk", "commit_ballots_a", 2, "{run}/members"),),
            ("refused",),
            small="members",
            codes=(60,),
        ),
        Case(
            "disk full, run folder",
            (Injection("fill_disk", "sign", 2, "{run}"),),
            ("refused",),
            small="run",
            codes=(61,),
        ),
        Case(
            "disk full, store",
            (Injection("fill_disk", "publish", 2, "{folder}/store"),),
            ("refused",),
            small="store",
            codes=(60,),
        ),
        Case("global adapter corrupted", (Injection("damage_adapter", "train", 2),), ("same", "refused"), codes=(60,)),
        Case(
            "stored update corrupted",
            (Injection("damage_payload", "commit_ballots_a", 2),),
            ("same", "said"),
            unseen=True,
        ),
        Case(
            "checkpoint corrupted, record",
            (Injection("leave", "train", 2),),
            ("refused",),
            between="records/1.json",
            codes=(61,),
        ),
        Case(
            "checkpoint corrupted, receipt",
            (Injection("leave", "train", 2),),
            ("refused",),
            between="receipts/1.json",
            codes=(61,),
        ),
        Case("driver killed", (Injection("leave", "reveal_ballots_b", 2),), ("refused",)),
    ]
    if find_anvil():
        away = Injection("chain_away", "acknowledge", 1, lasts=6.0)
        found += [
            Case("RPC away for 6 s", (away,), order={"chain": "rpc", "patience": 60.0}),
            Case(
                "RPC away for good",
                (replace(away, lasts=0.0),),
                ("refused",),
                {"chain": "rpc", "patience": 5.0},
                codes=(41,),
            ),
        ]
    every_round = tuple(Injection("kill", "train", turn) for turn in range(1, ROUNDS + 1))
    found.append(Case("worker killed every round", every_round, order={"epochs": ROUNDS}))
    return found


QUICK = (
    "worker killed in the middle of training",
    "worker stopped in the middle of scoring",
    "both workers killed in one epoch",
    "group moved without its folders, ballots A sealed",
    "disk full, store",
    "checkpoint corrupted, record",
)


# -- where it plays ------------------------------------------------------------------------------------------------


class ChaosCluster:
    """A Ray cluster of one machine for the driver, without CPUs for others, and some of one CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 0, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=options)
        self.address = str(self._cluster.address)

    def have(self, machines: int) -> None:
        """Have exactly so many machines alive beside the driver's."""
        for node in list(self._cluster.worker_nodes):
            if node.dead_processes():
                node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
                self._cluster.worker_nodes.discard(node)
        while len(self._cluster.worker_nodes) > machines:
            self._cluster.remove_node(next(iter(self._cluster.worker_nodes)))
        while len(self._cluster.worker_nodes) < machines:
            self._cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)
        deadline = time.monotonic() + 60
        while sum(one["Alive"] for one in self._cluster.global_state.node_table()) != machines + 1:
            assert time.monotonic() < deadline, "the cluster does not notice that a machine is gone"
            time.sleep(0.2)

    def close(self) -> None:
        """Kill all its processes."""
        with suppress(Exception):
            self._cluster.shutdown()
        nodes = [*self._cluster.worker_nodes, *([self._cluster.head_node] if self._cluster.head_node else [])]
        for node in nodes:
            with suppress(Exception):
                node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)


@dataclass(frozen=True)
class Played:
    """What became of a process that played a run.

    Attributes:
        told: the lines that it told.
        hung: it was ended because nothing happened any more.
        exit_code: of the process.
        error: its last line on the terminal that begins with `error: `, of a process that ended without telling more.
    """

    told: list[dict[str, Any]]
    hung: bool
    exit_code: int
    error: str = ""

    def all(self, what: str) -> list[dict[str, Any]]:
        """The lines of one kind."""
        return [line for line in self.told if line["what"] == what]

    @property
    def ended(self) -> dict[str, Any]:
        """Exit code, error, hash and records; of a process that was killed only its exit code."""
        lost = {"code": self.exit_code, "error": self.error, "hash": "", "records": {}}
        return next(iter(self.all("ended")), lost)

    @property
    def clear(self) -> bool:
        """Whether an early end was said in one line with an exit code of its own, or was what the case wanted."""
        wanted = any(one["fault"] == "leave" for one in self.all("injected"))
        return wanted or (self.ended["code"] > 1 and bool(self.ended["error"]))

    @property
    def run(self) -> Path:
        """The run's folder."""
        return Path(self.all("began")[0]["run"])

    @property
    def wall(self) -> float:
        """Seconds from the first phase to the last answer."""
        began = next(line["time"] for line in self.told if line["what"] == "asked" and line["phase"] == "begin")
        return max(line["time"] for line in self.all("answered")) - began

    def rebuilds(self) -> list[float]:
        """Seconds from each injection at a worker to its group's next answer."""
        found = []
        for injection in self.all("injected"):
            if injection["fault"] in AT_WORKERS and injection["target"].startswith("node-"):
                group, answers = int(injection["target"].split("-")[1]), self.all("answered")
                later = (one["time"] for one in answers if one["group"] == group and one["time"] > injection["time"])
                found += [first - injection["time"] for first in [next(later, None)] if first]
        return found


_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["benchmarks.peers.chaos_run"])


def _drive(order: Order, folder: Path, variables: Mapping[str, str]) -> None:
    """In a process that has everything imported."""
    os.environ.update(variables)
    with (folder / "output").open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.exit(play(order, folder))


def ignore(line: dict[str, Any]) -> None:
    """For who does not want to know what is told."""


def run_driver(order: Order, folder: Path, seen: Callable[[dict[str, Any]], None] = ignore) -> Played:
    """Play a run in a process of its own, and end it when nothing happens any more."""
    folder.mkdir(parents=True, exist_ok=True)
    variables = {name: value for name, value in os.environ.items() if name.startswith(("RAY_", "FLOCK_RAY_"))}
    process = _CONTEXT.Process(target=_drive, args=(order, folder, variables))
    process.start()
    told: list[dict[str, Any]] = []
    news, hung = time.monotonic(), False
    try:
        while True:
            alive = process.is_alive()
            lines = (folder / "told.jsonl").read_text().splitlines() if (folder / "told.jsonl").exists() else []
            for line in lines[len(told) :]:
                told.append(json.loads(line))
                seen(told[-1])
                news = time.monotonic()
            if not alive:
                break
            if time.monotonic() - news > SILENCE:
                hung = True
                break
            process.join(0.05)
    finally:
        process.kill()
        process.join()
        for line in told:
            for pid in line.get("pids", ()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    errors = [line for line in (folder / "output").read_text().splitlines() if line.startswith("error: ")]
    return Played(told, hung, process.exitcode or 0, errors[-1].removeprefix("error: ") if errors else "")


# -- filesystems ---------------------------------------------------------------------------------------------------


def can_mount(folder: Path) -> bool:
    """Whether this process may mount a filesystem."""
    mounted = mount(folder, SMALL)
    unmount(folder)
    return mounted


def unmount(folder: Path) -> None:
    """Take away all filesystems at and below a folder."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in sorted((one for one in points if Path(one).is_relative_to(folder)), key=len, reverse=True):
        subprocess.run(["umount", "-l", point], capture_output=True, check=False)


# -- a chain that goes away ----------------------------------------------------------------------------------------


def signer(name: str) -> Signer:
    """An account of the chain."""
    return run_signer(99, name)


class RemoteChain:
    """An anvil behind a proxy that can take it away; every run starts where its task had just been created."""

    def __init__(self) -> None:
        names = ["creator", "relayer", *(f"member-{number}" for number in range(MEMBERS))]
        for name in names:
            os.environ[f"FLOCK_RAY_{name.upper().replace('-', '_')}_KEY"] = signer(name)._key.to_hex()
        alloc = {signer(name).address: GAS_MONEY for name in names}
        self._anvil = AnvilProcess(Genesis("anvil", CHAIN_ID, GENESIS_TIME, alloc))
        self.proxy = Proxy(self._anvil.port, signer("relayer"), 0)
        self.url = self.proxy.url
        self._snapshot = ""
        self._whole: Path | None = None

    def remember(self, line: dict[str, Any]) -> None:
        """The chain's state when the first run begins its task."""
        if line["what"] == "asked" and line["phase"] == "begin" and not self._snapshot:
            self._snapshot = self.proxy.ask("evm_snapshot")

    def start_over(self, whole: Path, folder: Path) -> Path:
        """The folder of a run on the chain as it was then."""
        self.proxy.reset()
        assert self.proxy.ask("evm_revert", self._snapshot)
        self._snapshot = self.proxy.ask("evm_snapshot")
        path = folder / "runs" / "day" / "time"
        shutil.copytree(whole, path, symlinks=True)
        for gone in ("records", "receipts", "chain", "adapter"):
            shutil.rmtree(path / gone)
        for log in path.glob("members/*/slashing_protection.jsonl"):  # it joined the task, and has signed nothing yet
            lines = log.read_text().splitlines(keepends=True)
            log.write_text("".join(line for line in lines if json.loads(line)[1] == 0))
        for made in ("records", "receipts"):
            (path / made).mkdir()
        for gone in ("summary.json", "report.html", "events.jsonl"):
            (path / gone).unlink()
        return path

    def injected(self, line: dict[str, Any]) -> None:
        """Go away when a run says so."""
        if line["what"] == "injected" and line["fault"] == "chain_away":
            self.proxy.outage = FOREVER
            if line["lasts"]:
                threading.Timer(line["lasts"], self.come_back).start()

    def come_back(self) -> None:
        """Answer again."""
        self.proxy.outage = 0

    def close(self) -> None:
        """End both."""
        self.proxy.close()
        self._anvil.close()


# -- a case from beginning to end ----------------------------------------------------------------------------------


class ChaosHarness:
    """Plays cases, one after the other, on a cluster that lives as long as they let it."""

    def __init__(self, folder: Path) -> None:
        """Work in a folder with a short path: Ray's sockets lie there too."""
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ["RAY_TMPDIR"] = str(folder)
        os.environ["PYTHONPATH"] = str(ROOT)  # for the workers, and for what the drivers are forked from
        os.environ["OMP_NUM_THREADS"] = "1"
        self._folder, self._number = folder, 0
        self._stage: ChaosCluster | None = None
        self._chain: RemoteChain | None = None
        self._undisturbed: dict[tuple[Any, ...], Played] = {}
        self.mounts = can_mount(folder / "mount")

    def close(self) -> None:
        """End everything."""
        self._close_stage()
        if self._chain:
            self._chain.close()
        unmount(self._folder)

    def _close_stage(self) -> None:
        if self._stage:
            self._stage.close()
        self._stage = None

    def _on(self, machines: int) -> ChaosCluster:
        if self._stage is None:
            self._stage = ChaosCluster()
        self._stage.have(machines)
        return self._stage

    def _new_folder(self) -> Path:
        self._number += 1
        folder = self._folder / str(self._number)
        folder.mkdir()
        return folder

    def _order(self, case: Case, folder: Path) -> Order:
        changes = dict(case.order or {})
        if changes.get("chain") == "rpc":
            if self._chain is None:
                self._close_stage()  # its processes must have the keys in their environment
                self._chain = RemoteChain()
            changes["url"] = self._chain.url
        if case.small in ("run", "store"):
            changes["store"] = str(folder / "store")
        if case.small in ("members", "run"):
            changes["small"] = case.small
        cluster = self._on(case.machines)
        return Order(**{"address": cluster.address, "output": str(folder / "runs"), "epochs": case.epochs, **changes})

    def undisturbed(self, case: Case) -> Played:
        """The run that the case would be without its fault."""
        folder = self._new_folder()
        order = self._order(case, folder)
        key = (order.epochs, order.chain)  # how long its steps take changes nothing in what it signs
        if key not in self._undisturbed:
            seen = self._chain.remember if self._chain and order.chain == "rpc" else ignore
            played = run_driver(replace(order, store="", small="", seconds=0.0), folder, seen)
            said = (folder / "output").read_text()[-2000:]
            assert played.ended["code"] == 0, f"an undisturbed run failed: {played.ended['error']}\n{said}"
            self._undisturbed[key] = played
        return self._undisturbed[key]

    def play(self, case: Case) -> list[dict[str, Any]]:
        """Play a case, or those of a sweep; one row each."""
        whole = self.undisturbed(case)
        if case.small and not self.mounts:
            skipped = {"outcome": "skipped", "line": "no filesystem can be mounted here", "rebuild_seconds": []}
            return [{"case": case.name, "phase": case.injections[0].phase, **skipped}]
        folder = self._new_folder()
        try:
            row = self._play(case, whole, folder)
        finally:
            if case.alone:
                self._close_stage()
            unmount(folder)
        if not case.sweep:
            return [row]
        if row["outcome"] == "same":
            shared = {name: value for name, value in row.items() if name not in ("case", "phase")}
            shared["seconds"] /= len(case.injections)
            return [{**shared, "case": f"{case.name}, {one.phase}", "phase": one.phase} for one in case.injections]
        print(f"  {case.name}: {row['outcome']} ({row['line']}); now one by one", flush=True)
        return [found for part in case.parts() for found in self.play(part)]

    def _play(self, case: Case, whole: Played, folder: Path) -> dict[str, Any]:
        began = time.monotonic()
        order = replace(self._order(case, folder), injections=case.injections)
        seen = ignore
        if order.chain == "rpc":
            assert self._chain
            order = replace(order, resume=str(self._chain.start_over(whole.run, folder)))
            seen = self._chain.injected
        if case.small in ("run", "store"):
            assert mount(folder / ("runs" if case.small == "run" else "store"), SMALL)
        played = run_driver(order, folder, seen)
        verdict = self._verdict(case, whole, played, folder)
        injected, rebuilds = played.all("injected"), played.rebuilds()
        if verdict["outcome"] == "same" and len(injected) < len(case.injections):
            verdict["outcome"] = "not_injected"
        extra = None
        if verdict["outcome"] == "same" and injected and not (order.resume or order.seconds):
            extra = (played.wall - whole.wall - sum(rebuilds)) / len(injected)
        return {
            "case": case.name,
            "phase": case.injections[0].phase,
            **verdict,
            "intended": case.right(verdict),
            "spared": [one["spared"] for one in injected if "spared" in one],
            "rebuild_seconds": rebuilds,
            "extra_seconds_per_kill": extra,
            "served": self._served(played),
            "seconds": time.monotonic() - began,
        }

    def _verdict(self, case: Case, whole: Played, played: Played, folder: Path) -> dict[str, Any]:
        """How a run ended, its exit code and error; where it ended early, what it came to when it was resumed."""
        last, resumed = played, ""
        outcome = self._judge(case, whole, played)
        if not outcome and case.between:
            spoilt = damage(played.run / case.between, folder)
            last = self._resume(case, played, folder / "spoilt")
            shutil.move(spoilt["whole"], spoilt["damaged"])
            outcome = self._judge(case, whole, last)
        if not outcome:
            self._repair(played)
            again = self._resume(case, played, folder / "resumed")
            resumed = self._judge(case, whole, again) or again.ended["error"] or "ended early"
            outcome = "refused" if last.clear and resumed == "same" else "broken"
        return {"outcome": outcome, "code": last.ended["code"], "line": last.ended["error"], "resumed": resumed}

    def _resume(self, case: Case, played: Played, folder: Path) -> Played:
        if case.alone:
            self._close_stage()
        order = self._order(case, folder.parent)
        if order.chain == "rpc":
            assert self._chain
            self._chain.come_back()
        return run_driver(replace(order, resume=str(played.run), seconds=0.0), folder)

    def _repair(self, played: Played) -> None:
        """Put right what the fault did to files, as an operator would before resuming."""
        for injection in played.all("injected"):
            if "ballast" in injection:
                Path(injection["ballast"]).unlink(missing_ok=True)
            if "damaged" in injection:
                shutil.move(injection["whole"], injection["damaged"])

    def _judge(self, case: Case, whole: Played, played: Played) -> str:
        """How a run ended; nothing of one that ended early, which has to be resumed before it can be told."""
        if played.hung:
            return "hang"
        ended = played.ended
        if ended["code"]:
            return "" if played.all("began") else "broken"
        if (ended["hash"], ended["records"]) == (whole.ended["hash"], whole.ended["records"]):
            return "same"
        return "said" if self._explained(case, played) else "silent_change"

    def _explained(self, case: Case, played: Played) -> bool:
        """Whether an event or the table of verdicts says why this run ended otherwise."""
        events = [json.loads(line) for line in (played.run / "events.jsonl").read_text().splitlines()]
        verdicts = [
            proposal["status"]
            for record in (played.run / "records").iterdir()
            for proposal in json.loads(record.read_bytes())["proposals"]
        ]
        return any(event["kind"] in EXPLAINS for event in events) or (case.unseen and "unseen" in verdicts)

    def _served(self, played: Played) -> int:
        """Signed epochs in which every proposer was judged by its update."""
        if not played.all("began"):
            return 0
        unserved = ("missing", "unseen", "refused")
        return sum(
            all(one["status"] not in unserved for one in json.loads(record.read_bytes())["proposals"])
            for record in (played.run / "records").iterdir()
        )


# -- the result ----------------------------------------------------------------------------------------------------


def headline(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The figures that count, as far as they were measured."""
    played = [row for row in rows if row["outcome"] != "skipped"]
    figures: dict[str, float] = {
        "chaos_cases": len(played),
        "chaos_as_intended": sum(row["intended"] for row in played),
        "chaos_silent_changes": sum(row["outcome"] == "silent_change" for row in played),
        "chaos_hangs": sum(row["outcome"] == "hang" for row in played),
        "chaos_broken": sum(row["outcome"] == "broken" for row in played),
    }
    every_round = [row for row in played if row["case"] == "worker killed every round"]
    if every_round:
        figures["served_of_40_with_kills"] = every_round[0]["served"]
    kills = [row for row in played if "killed" in row["case"] and row["outcome"] == "same"]
    if rebuilds := [seconds for row in kills for seconds in row["rebuild_seconds"]]:
        figures["rebuild_seconds"] = median(rebuilds)
    extras = [row["extra_seconds_per_kill"] for row in kills if row["rebuild_seconds"]]
    if extras := [one for one in extras if one is not None]:
        figures["extra_seconds_per_kill"] = median(extras)
    return figures


@contextmanager
def chaos_harness() -> Iterator[ChaosHarness]:
    """A place for cases, for the length of a block."""
    variables = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp", ignore_cleanup_errors=True) as name:
        made = ChaosHarness(Path(name))
        try:
            yield made
        finally:
            made.close()
            os.environ.clear()
            os.environ.update(variables)


def show(row: Mapping[str, Any]) -> str:
    """A row in a line."""
    mark = "" if row.get("intended", True) else "  <-- not as intended"
    code = f" {row['code']}" if row.get("code") else ""
    line = f": {row['line']}" if row.get("line") else ""
    return f"{row['case']}: {row['outcome']}{code}, {row.get('seconds', 0):.0f} s{line[:160]}{mark}"


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Play the matrix; `only=TEXT` plays the cases whose names begin so and keeps the others of the file."""
    chosen = cases()
    earlier: list[dict[str, Any]] = []
    if quick:
        chosen = [case for case in chosen if case.name in QUICK]
    if overrides:
        only = overrides[0].removeprefix("only=")
        chosen = [case for case in chosen if case.name.startswith(only)]
        if len(overrides) > 1 or not chosen:
            raise SystemExit("error: chaos takes one override, only=CASE with the beginning of a case's name")
        if not quick and result_path("chaos", quick).exists():
            earlier = [row for row in earlier_result("chaos", quick)["rows"] if not row["case"].startswith(only)]
    rows, result = earlier, dict[str, Any]()
    began = time.monotonic()
    with chaos_harness() as harness:
        for case in chosen:
            for row in harness.play(case):
                rows.append(row)
                tell(show(row))
            result = {
                "environment": environment(),
                "seconds": time.monotonic() - began,
                "cases_of_matrix": sum(len(list(case.parts())) if case.sweep else 1 for case in cases()),
                "rows": rows,
                "headline": headline(rows),
            }
            store("chaos", result, quick)  # after each case: a matrix that is cut short is of use
    for name, value in result["headline"].items():
        print(f"{name}: {value:.3g}")
