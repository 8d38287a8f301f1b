"""The folder of a run: what is written where, and how a later run reads it back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from flock_ray.chain.eip712 import Domain, report_hash
from flock_ray.chain.values import Addresses
from flock_ray.cluster.attestation import (
    AnyRecord,
    Attestation,
    Bulletin,
    Settlement,
    has_quorum,
    report_of,
    valid_signatures,
)
from flock_ray.cluster.rules import AllianceRules, Rules
from flock_ray.config import ArenaConfig, Config
from flock_ray.errors import RunDirectoryError
from flock_ray.protocol.encoding import from_hex, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.message import MAX_BYTES, SignedMessage
from flock_ray.protocol.roster import Change
from flock_ray.protocol.state import MemberState, Scope, TaskState, Terms
from flock_ray.store.blob_store import BlobStore
from flock_ray.store.failures import run_folder_errors
from flock_ray.store.files import read_json, write_json, write_text

RUN_SCHEMA = "flock_ray/run/3"
ALLIANCE = AllianceRules()


@dataclass(frozen=True)
class SignedEpoch:
    """An epoch read back: its record, who attested it, and its settlement if there was one."""

    state: TaskState
    record: Any
    attestation: Attestation
    settlement: Settlement | None
    wall_seconds: dict[str, float]


class RunDirectory:
    """`<output_dir>/<date>/<time>/`, with `<output_dir>/latest` pointing to the newest that created its task."""

    def __init__(self, path: Path, made: Sequence[Path] = ()) -> None:
        """A folder; `made` are those above it that were made for it, and go with it if the run comes to nothing."""
        self.path, self.made = path, made
        self.store = path / "store"
        self.adapter = path / "adapter"
        self.events = path / "events.jsonl"
        self.report = path / "report.html"
        self.summary = path / "summary.json"

    @classmethod
    def create(cls, output_dir: Path, config: Config | ArenaConfig) -> RunDirectory:
        """Make the folder of a new run and write its resolved configuration.

        Raises:
            RunDirectoryError: it cannot be written, as whatever is written to it later.
        """
        made = [folder for folder in (output_dir, *output_dir.parents) if not folder.exists()]
        with run_folder_errors(output_dir):
            output_dir.mkdir(parents=True, exist_ok=True)
        now = datetime.now()
        name = now.strftime("%Y-%m-%d/%H-%M-%S")
        path, attempt = output_dir / name, 1
        while path.exists():
            attempt += 1
            path = output_dir / f"{name}-{attempt}"
        run = cls(path, made)
        try:
            with run_folder_errors(path):
                for folder in ("records", "receipts"):
                    (path / folder).mkdir(parents=True)
            write_text(path / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))
        except RunDirectoryError:
            run.discard()
            raise
        return run

    def discard(self) -> None:
        """Remove the folder of a run that came to nothing, and those above it that were made for it and are empty."""
        shutil.rmtree(self.path, ignore_errors=True)  # a dying actor may still hold it
        with suppress(OSError):
            for folder in (self.path.parent, *self.made):
                if folder.exists():
                    folder.rmdir()

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """The folder of an earlier run.

        Raises:
            RunDirectoryError: there is no run.
        """
        if not (path / "config.yaml").is_file():
            raise RunDirectoryError(f"resume={path}: this folder holds no run (config.yaml is missing)")
        return cls(path.resolve())

    @property
    def run_id(self) -> str:
        """Date and time of the run's start."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def started(self) -> bool:
        """Whether the task was created: what comes before can be done again from scratch."""
        return (self.path / "task.json").is_file()

    @property
    def whole(self) -> bool:
        """Whether nothing is left to be done: the summary was written, and it tells of no rewards to be claimed."""
        return self.summary.is_file() and "rewards_pending" not in read_json(self.summary)["chain"]

    def write_task(
        self,
        state: TaskState,
        relayer: str,
        chain: Mapping[str, Any],
        balances: Mapping[str, int],
        configuration: Mapping[str, str],
    ) -> None:
        """Write what the task was created on; point `latest` to this run.

        Args:
            state: of epoch 1.
            relayer: account that the reports name.
            chain: facts of the ledger.
            balances: {account of an owner: wei that it had before anybody staked}.
            configuration: what `state.terms.configuration` is the hash of.
        """
        scope = state.scope
        value = {
            "schema": RUN_SCHEMA,
            "terms": state.terms.json(),
            "configuration": dict(configuration),
            "chain_id": scope.chain_id,
            "contract": to_hex(scope.contract),
            "task": to_hex(scope.task),
            "seed": to_hex(state.seed),
            "members": [member.joined_row for member in state.members],
            "before_start": [list(change.row) for change in state.before_start],
            "creator": chain["creator"],
            "relayer": relayer,
            "contracts": dict(chain["contracts"]),
            "balances": dict(balances),
        }
        write_json(self.path / "task.json", value)
        output_dir = self.path.parent.parent
        link = output_dir / f".latest-{os.getpid()}"
        with run_folder_errors(link):
            link.symlink_to(self.path.relative_to(output_dir))
            link.replace(output_dir / "latest")

    def read_task(self) -> tuple[dict[str, Any], Addresses, dict[str, int]]:
        """The created task as written, its contracts, and {account of an owner: wei that it had}."""
        value = read_json(self.path / "task.json")
        return value, Addresses(**value["contracts"]), value["balances"]

    def write_epoch(
        self, record: AnyRecord, attestation: Attestation, bulletin: Bulletin, wall_seconds: Mapping[str, float]
    ) -> None:
        """Write record and receipt of a signed epoch; the receipt last, since it is what makes the epoch signed."""
        write_text(self._record(record.epoch), record.data.decode())
        report = asdict(attestation.report)
        receipt = {
            "epoch": record.epoch,
            "record": to_hex(record.digest),
            "report": report,
            "report_hash": to_hex(report_hash(attestation.report)),
            "signatures": {str(voter): to_hex(signature) for voter, signature in attestation.signatures.items()},
            "messages": {to_hex(sha256(signed.data)): to_hex(signed.signature) for signed in bulletin},
            "wall_seconds": dict(wall_seconds),
            "settlement": None,
        }
        write_json(self._receipt(record.epoch), receipt)

    def write_settlement(self, settlement: Settlement) -> None:
        """Add to a receipt how the epoch was settled."""
        receipt = read_json(self._receipt(settlement.epoch))
        receipt["settlement"] = {"transaction": settlement.transaction, "gas_used": settlement.gas_used}
        write_json(self._receipt(settlement.epoch), receipt)

    def write_abandoned(self, first: int, following: int) -> None:
        """Note that the epochs from `first` to before `following` were abandoned; what is void by that goes to `void/`.

        An epoch beyond them that had been signed as well will run again.
        """
        for folder in ("records", "receipts"):
            void = self.path / "void" / str(first) / folder
            with run_folder_errors(void):
                void.mkdir(parents=True, exist_ok=True)
                for path in (self.path / folder).glob("*.json"):
                    if int(path.stem) >= first:
                        path.replace(void / path.name)
        for epoch in range(first, following):
            write_json(self._receipt(epoch), {"epoch": epoch, "abandoned": True})

    def first_state(self, terms: Terms, rules: Rules = ALLIANCE) -> TaskState:
        """The state of epoch 1 as the task was created.

        Args:
            terms: that the configuration and what was loaded give.
            rules: of the kind of task.

        Raises:
            RunDirectoryError: the terms are others than the run's.
        """
        value, _, _ = self.read_task()
        if value.get("schema") != RUN_SCHEMA:
            raise RunDirectoryError(f"{self.path} is of an earlier version, whose tasks this one does not know")
        for name, agreed in terms.json().items():
            if value["terms"].get(name) != agreed:
                raise RunDirectoryError(
                    f"{self.path}: its members agreed on {name} = {value['terms'].get(name)}, and config.yaml with"
                    f" this model gives {agreed}"
                )
        scope = Scope(value["chain_id"], from_hex(value["contract"], 20), from_hex(value["task"]))
        members = tuple(map(MemberState.read_joined, value["members"]))
        before_start = [Change(*row) for row in value["before_start"]]
        return rules.first(terms, scope, members, from_hex(value["seed"]), before_start)

    def signed_epochs(
        self, state: TaskState, domain: Domain, relayer: str, store: BlobStore, rules: Rules = ALLIANCE
    ) -> tuple[list[SignedEpoch], TaskState]:
        """Replay every signed epoch from its messages; returns them, and the state after the last or abandoned one.

        Args:
            state: of epoch 1.
            domain: that the messages were signed in.
            relayer: that the reports name.
            store: with the messages' blobs.
            rules: of the kind of task.

        Raises:
            RunDirectoryError: a record is not what its signed messages give, or a receipt is damaged.
        """
        epochs = []
        while self._receipt(state.epoch).is_file() and not state.finished:
            receipt = read_json(self._receipt(state.epoch))
            if receipt.get("abandoned"):
                state = rules.skip(state)
                continue
            try:
                epoch = self._replay(state, receipt, domain, relayer, store, rules)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise RunDirectoryError(
                    f"{self._receipt(state.epoch)} does not read as a receipt ({type(error).__name__}: {error})"
                ) from error
            epochs.append(epoch)
            state = rules.advance(epoch.state, epoch.record, report_hash(epoch.attestation.report))
        return epochs, state

    def _replay(
        self,
        state: TaskState,
        receipt: Mapping[str, Any],
        domain: Domain,
        relayer: str,
        store: BlobStore,
        rules: Rules,
    ) -> SignedEpoch:
        bulletin = [
            SignedMessage(store.get(from_hex(digest), MAX_BYTES), from_hex(signature, 65))
            for digest, signature in receipt["messages"].items()
        ]
        state = state.changed(*self._changes(state.epoch))
        record = rules.derive(state, rules.verifier(domain).inbox(bulletin, state))
        report = report_of(record, domain, relayer)
        named = {int(voter): from_hex(signature, 65) for voter, signature in receipt["signatures"].items()}
        signatures = valid_signatures(report, named, state, domain)
        if record.data != self._record(state.epoch).read_bytes() or not has_quorum(signatures, state):
            raise RunDirectoryError(f"{self._record(state.epoch)} is not what its signed messages give")
        settled = receipt["settlement"]
        settlement = Settlement(state.epoch, settled["transaction"], settled["gas_used"]) if settled else None
        attestation = Attestation(record.data, report, signatures)
        return SignedEpoch(state, record, attestation, settlement, receipt["wall_seconds"])

    def _changes(self, epoch: int) -> tuple[list[Change], list[MemberState]]:
        """The changes of members that a record names, and those that they let in."""
        record = read_json(self._record(epoch))
        return [Change(*row) for row in record["changes"]], list(map(MemberState.read_joined, record["joined"]))

    @property
    def abandoned_epochs(self) -> list[int]:
        """Epochs that were given up on the chain, ascending."""
        receipts = {int(path.stem): read_json(path) for path in (self.path / "receipts").glob("*.json")}
        return sorted(epoch for epoch, receipt in receipts.items() if receipt.get("abandoned"))

    @property
    def num_signed(self) -> int:
        """How many epochs are signed."""
        return len(list((self.path / "records").glob("*.json")))

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """Events of one kind, oldest first; a torn last line is left out."""
        events = []
        for line in self.events.read_text().splitlines() if self.events.exists() else ():
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            if event.get("kind") == kind:
                events.append(event)
        return events

    def _record(self, epoch: int) -> Path:
        return self.path / "records" / f"{epoch}.json"

    def _receipt(self, epoch: int) -> Path:
        return self.path / "receipts" / f"{epoch}.json"


def load_config(path: Path) -> Config:
    """The resolved configuration of an earlier run of an alliance.

    Raises:
        RunDirectoryError: the file does not read as a configuration, or is of a contest.
    """
    config = _load_config(path, (Config,))
    assert isinstance(config, Config)
    return config


def load_arena_config(path: Path) -> ArenaConfig:
    """As `load_config`, of a contest."""
    config = _load_config(path, (ArenaConfig,))
    assert isinstance(config, ArenaConfig)
    return config


def load_any_config(path: Path) -> Config | ArenaConfig:
    """As `load_config`, of an alliance or a contest."""
    return _load_config(path, (Config, ArenaConfig))


def _load_config(path: Path, schemas: Sequence[type[Config] | type[ArenaConfig]]) -> Config | ArenaConfig:
    """The configuration, which must be of one of these schemas."""
    config, of_contest = None, False
    try:
        written = OmegaConf.load(path / "config.yaml")
        of_contest = "contest" in written
        schema = ArenaConfig if of_contest else Config
        if schema in schemas:
            config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), written))
    except Exception as error:
        raise RunDirectoryError(f"{path / 'config.yaml'} is no configuration of this version: {error}") from error
    if config is None:
        kinds = ("a contest", "an alliance") if of_contest else ("an alliance", "a contest")
        command = "arena" if of_contest else "alliance"
        raise RunDirectoryError(
            f"{path} holds the run of {kinds[0]}, not of {kinds[1]}: flock-ray {command} resume={path} goes on with it"
        )
    assert isinstance(config, Config | ArenaConfig)
    return config
