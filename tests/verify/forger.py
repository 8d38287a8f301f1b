"""Somebody who may change anything in the folder of a run but has none of its members' keys."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from flock_ray.chain.eip712 import Domain, message_digest, report_digest, report_hash
from flock_ray.chain.epoch_report import Report, ReportedSlash
from flock_ray.chain.journal import Block
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.protocol.encoding import canonical_json, from_hex, to_hex
from flock_ray.protocol.epoch import advance, derive
from flock_ray.protocol.hashing import keccak, sha256
from flock_ray.protocol.inbox import Inbox, parse_message
from flock_ray.protocol.message import Message
from flock_ray.protocol.state import TaskState, Terms
from flock_ray.store.blob_store import BlobStore
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.genesis import TaskGenesis
from flock_ray.verify.report import SigningDomain
from flock_ray.verify.run import verify_run

ATTACKER = Signer(keccak(b"attacker"))
HASHES = ("configuration", "base_model", "model_config", "tokenizer", "start_adapter")


class Forger:
    """A copy of a run in which every unsigned hash can be made to fit again."""

    def __init__(self, run: Path, copy: Path) -> None:
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("members", "*.sqlite*", "report.html"))
        self.path = copy
        self.store = BlobStore(str(copy / "store"))
        self.task = self.read("task.json")
        self.epochs = range(1, self.task["terms"]["num_epochs"] + 1)
        contracts = self.task["contracts"]
        self.domain = Domain(self.task["chain_id"], contracts["settlement"], contracts["distributor"])
        self.run_seed = int(self.config()["seed"])

    # -- files

    def read(self, name: str) -> Any:
        return json.loads((self.path / name).read_bytes())

    def write(self, name: str, value: Any) -> None:
        (self.path / name).write_text(json.dumps(value))

    def change(self, name: str, change: Callable[[Any], None]) -> None:
        value = self.read(name)
        change(value)
        self.write(name, value)

    def config(self) -> dict[str, Any]:
        return dict(yaml.safe_load((self.path / "config.yaml").read_text()))

    def change_config(self, group: str, key: str, value: Any) -> None:
        config = self.config()
        config[group][key] = value
        (self.path / "config.yaml").write_text(yaml.safe_dump(config))

    def blob(self, digest: str) -> Path:
        return self.path / "store" / digest[2:4] / digest[2:]

    def message(self, epoch: int, kind: str, index: int = 0) -> tuple[str, Message]:
        """(name, message) number `index` of a kind."""
        names = [name for told, _, name in self.read(f"records/{epoch}.json")["messages"] if told == kind]
        return names[index], parse_message(self.blob(names[index]).read_bytes())

    # -- making it fit

    def forge_record(self, epoch: int, change: Callable[[Any], None]) -> None:
        """Change a record, and all that hangs on its hash."""
        self.change(f"records/{epoch}.json", change)
        self.reseal()

    def reseal(self) -> None:
        """Recompute what no signature protects: records' and reports' hashes, roots, receipts, the summary's totals."""
        previous_record = previous_report = to_hex(bytes(32))
        for epoch in self.epochs:
            record = self.read(f"records/{epoch}.json")
            record |= {"previous_record": previous_record, "previous_report": previous_report}
            data = canonical_json(record)
            (self.path / f"records/{epoch}.json").write_bytes(data)
            report = self.report_of(record, sha256(data))
            previous_record, previous_report = to_hex(sha256(data)), to_hex(report_hash(report))
            receipt = self.read(f"receipts/{epoch}.json")
            receipt |= {"record": previous_record, "report": report_json(report), "report_hash": previous_report}
            self.write(f"receipts/{epoch}.json", receipt)
        summary = self.read("summary.json")
        for number, (stake, _, earned, slashed, _) in self.money(record["epoch"]).items():
            summary["members"][number] |= {"stake_wei": stake, "earned_wei": earned, "slashed_wei": slashed}
        summary["final_adapter_hash"] = record["adapter"]
        self.write("summary.json", summary)

    def money(self, epoch: int) -> dict[int, list[Any]]:
        """{member: what the records up to an epoch say last of its money}."""
        rows = [row for number in range(1, epoch + 1) for row in self.read(f"records/{number}.json")["members"]]
        return {number: money for number, *money in rows}

    def leaves(self, record: Any) -> list[tuple[str, int]]:
        """(account, wei earned so far) after a record, by member."""
        money = self.money(record["epoch"] - 1) | {number: money for number, *money in record["members"]}
        earned = {number: row[2] for number, row in sorted(money.items()) if row[2]}
        return [(self.task["members"][number][0], wei) for number, wei in earned.items()]

    def report_of(self, record: Any, digest: bytes) -> Report:
        """The report that a record comes to."""
        task = from_hex(record["task"])
        tree = MerkleTree(reward_leaf(self.domain, task, account, wei) for account, wei in self.leaves(record))
        return Report(
            task=task,
            epoch=record["epoch"],
            previous_report=from_hex(record["previous_report"]),
            seed=from_hex(record["seed"]),
            reveals_digest=from_hex(record["reveals_digest"]),
            rewards_root=tree.root,
            rewards_total=sum(wei for _, wei in self.leaves(record)),
            slashes=tuple(ReportedSlash(slash["member"], slash["amount"]) for slash in record["slashes"]),
            model_hash=from_hex(record["adapter"]),
            record_hash=digest,
            relayer=self.task["relayer"],
        )

    def rederive(self, drop: Sequence[str] = ()) -> None:
        """Leave out messages, and derive everything again as the first implementation does."""
        state = self.first_state()
        for epoch in self.epochs:
            receipt = self.read(f"receipts/{epoch}.json")
            receipt["messages"] = {
                name: signature for name, signature in receipt["messages"].items() if name not in drop
            }
            self.write(f"receipts/{epoch}.json", receipt)
            messages = [parse_message(self.blob(name).read_bytes()) for name in receipt["messages"]]
            record = derive(state, Inbox([message for message in messages if state.concerns(message)]))
            (self.path / f"records/{epoch}.json").write_bytes(record.data)
            state = advance(state, record, report_hash(self.report_of(json.loads(record.data), record.digest)))
        self.reseal()

    def first_state(self) -> TaskState:
        terms = {name: value for name, value in self.task["terms"].items() if name != "schema"}
        terms |= {name: from_hex(terms[name]) for name in HASHES}
        return RunDirectory(self.path).first_state(Terms(**terms))

    def forge_terms(self, **changes: Any) -> None:
        """Change terms, and the task's id with them; config.yaml follows where it says the same."""
        for name, value in changes.items():
            self.task["terms"][name] = to_hex(value) if isinstance(value, bytes) else value
        self.write("task.json", self.task)
        state, config = self.first_state(), self.config()
        genesis = TaskGenesis(
            state, SigningDomain(0, bytes(20), bytes(20)), from_hex(self.task["creator"].lower(), 20), b"", None, None,
            None, {}, {}, config,
        )  # fmt: skip
        self.task["task"] = to_hex(genesis.task_id)
        self.write("task.json", self.task)

    # -- signatures of its own

    def replace_message(self, epoch: int, old: str, message: Message, signer: Signer | None = None) -> str:
        """Put a message in another's place, under the old signature or one of the forger's; returns its name."""
        name = to_hex(self.store.put(message.data))
        seed = from_hex(self.read(f"records/{epoch}.json")["seed"])
        digest = message_digest(self.domain, message.task, message.epoch, seed, message.kind, message.digest)

        def put(receipt: Any) -> None:
            signature = receipt["messages"].pop(old)
            receipt["messages"][name] = to_hex(signer.sign_digest(digest)) if signer else signature

        self.change(f"receipts/{epoch}.json", put)
        self.rederive()
        return name

    def sign_report(self, epoch: int) -> str:
        """The forger's signature of a report."""
        record = (self.path / f"records/{epoch}.json").read_bytes()
        report = self.report_of(json.loads(record), sha256(record))
        return to_hex(ATTACKER.sign_digest(report_digest(self.domain, report)))

    # -- the chain

    def remine(self, change: Callable[[int, bytes], Sequence[bytes]]) -> None:
        """Write the chain again, each raw transaction changed and in a block of its own.

        Creator and relayer are the forger's friends.

        It passes for anvil's, whose blocks have hashes that nobody compares.
        """
        blocks = [json.loads(line) for line in (self.path / "chain/blocks.jsonl").read_text().splitlines()]
        given = [bytes.fromhex(raw) for block in blocks for raw in block["raws"]]
        raws = [raw for number, one in enumerate(given) for raw in change(number, one)]
        start = self.read("chain/genesis.json")["timestamp"]
        mined = [Block(number, start + number, (raw,), bytes(32)) for number, raw in enumerate(raws, start=1)]
        (self.path / "chain/blocks.jsonl").write_bytes(b"".join(block.to_line() for block in mined))
        self.change("chain/genesis.json", lambda genesis: genesis.update(backend="anvil"))

    @property
    def creator(self) -> Signer:
        return run_signer(self.run_seed, "creator")

    @property
    def relayer(self) -> Signer:
        return run_signer(self.run_seed, "relayer")

    # -- and the judge

    def verify(self, anchor: str = "") -> list[str]:
        told: list[str] = []
        verify_run(RunFolder(self.path), anchor, "", told.append)
        return told


def report_json(report: Report) -> dict[str, Any]:
    """A report as receipts have it."""
    values = dict(vars(report))
    values["slashes"] = [dict(vars(slash)) for slash in report.slashes]
    return {name: to_hex(value) if isinstance(value, bytes) else value for name, value in values.items()}
