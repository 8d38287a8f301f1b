"""The files of a run that commands read: its task, the receipts of its epochs, the rewards in its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from flock_ray.chain.eip712 import Domain, report_hash
from flock_ray.chain.epoch_report import Report, ReportedSlash
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.errors import RunDirectoryError
from flock_ray.protocol.encoding import from_hex
from flock_ray.store.files import read_json

T = TypeVar("T")


def read_report(value: Any) -> Report:
    """A report as receipts hold it.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    return Report(
        task=from_hex(value["task"]),
        epoch=int(value["epoch"]),
        previous_report=from_hex(value["previous_report"]),
        seed=from_hex(value["seed"]),
        reveals_digest=from_hex(value["reveals_digest"]),
        rewards_root=from_hex(value["rewards_root"]),
        rewards_total=int(value["rewards_total"]),
        slashes=tuple(ReportedSlash(int(slash["member"]), int(slash["amount"])) for slash in value["slashes"]),
        model_hash=from_hex(value["model_hash"]),
        record_hash=from_hex(value["record_hash"]),
        relayer=str(value["relayer"]),
    )


class Receipt:
    """What the committee of an epoch signed.

    Attributes:
        epoch: its number.
        report: of the epoch.
        signatures: of the report, 65 bytes each.
        settlement: hash of the transaction that settled it; None as long as the run knows none.
    """

    def __init__(self, value: dict[str, Any]) -> None:
        self.epoch = int(value["epoch"])
        self.report = read_report(value["report"])
        self.signatures = [from_hex(text, 65) for text in value["signatures"].values()]
        settlement = value.get("settlement")
        self.settlement = from_hex(settlement["transaction"]) if settlement and settlement["transaction"] else None


class RunFiles:
    """Reads a run's folder.

    Attributes:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _task_file(self) -> dict[str, Any]:
        return read_json(self.path / "task.json")

    @cached_property
    def task(self) -> bytes:
        """Id of the task."""
        return self._parsed("task.json", lambda: from_hex(self._task_file["task"]))

    @cached_property
    def chain_id(self) -> int:
        """Id of the chain that it is on."""
        return self._parsed("task.json", lambda: int(self._task_file["chain_id"]))

    @cached_property
    def settlement(self) -> str:
        """Address of the settlement contract, which members' signatures are bound to."""
        return self._parsed("task.json", lambda: str(self._task_file["contract"]))

    def expected(self) -> bytes:
        """Digest of the creator and the terms that the run's own configuration gives, with its model and adapter.

        Raises:
            RunDirectoryError: the folder is not that of a run.
        """
        from flock_ray.cluster.launch import chain_terms, terms_of  # slow: it imports torch
        from flock_ray.cluster.run_directory import load_config
        from flock_ray.cluster.spec import with_model
        from flock_ray.training.model import ModelHashes

        config = load_config(self.path)

        def digest() -> bytes:
            task, creator = self._task_file, str(self._task_file["creator"])
            named = ("base_model", "model_config", "tokenizer")
            hashes = ModelHashes(*(from_hex(task["terms"][name]) for name in named))
            terms = with_model(terms_of(config), creator, hashes, from_hex(task["terms"]["start_adapter"]))
            return chain_terms(config, terms).digest(creator)

        return self._parsed("task.json", digest)

    def receipts(self) -> Iterator[Receipt]:
        """Those of all epochs that were signed and not abandoned, in their order."""
        for path in sorted((self.path / "receipts").glob("*.json"), key=lambda path: int(path.stem)):
            value = read_json(path)
            if not value.get("abandoned"):
                yield self._parsed(f"receipts/{path.name}", partial(Receipt, value))

    def receipt(self, epoch: int) -> Receipt:
        """That of an epoch.

        Raises:
            RunDirectoryError: the run has none.
        """
        path = self.path / "receipts" / f"{epoch}.json"
        value = read_json(path) if path.is_file() else {"abandoned": True}
        if not value.get("abandoned"):
            return self._parsed(f"receipts/{path.name}", partial(Receipt, value))
        raise RunDirectoryError(f"the run in {self.path} has no signed report of epoch {epoch}")

    def report(self, digest: bytes) -> Report:
        """The report with this struct hash.

        Raises:
            RunDirectoryError: the run has none.
        """
        for receipt in self.receipts():
            if report_hash(receipt.report) == digest:
                return receipt.report
        raise RunDirectoryError(f"the run in {self.path} has no report 0x{digest.hex()}, the last one settled")

    def rewards(self, root: bytes, domain: Domain) -> dict[str, int]:
        """{account: wei earned so far} whose Merkle root is `root`, out of the run's records.

        Raises:
            RunDirectoryError: no record has it.
        """
        for table in reversed(list(self._tables())):
            if rewards_tree(table, domain, self.task).root == root:
                return table
        raise RunDirectoryError(
            f"no record in {self.path} has the rewards that are paid now (root 0x{root.hex()}); name a correction"
            " with --rewards"
        )

    def _tables(self) -> Iterator[dict[str, int]]:
        """{account: wei earned so far} after each epoch that has a record, oldest first."""
        accounts = self._parsed("task.json", lambda: [str(row[0]) for row in self._task_file["members"]])
        earned: dict[str, int] = {}
        for path in sorted((self.path / "records").glob("*.json"), key=lambda path: int(path.stem)):
            read = partial(_earned, read_json(path), accounts)
            earned |= self._parsed(f"records/{path.name}", read)
            yield {account: earned[account] for account in accounts if earned.get(account)}

    def _parsed(self, name: str, parse: Callable[[], T]) -> T:
        try:
            return parse()
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise RunDirectoryError(f"{self.path / name} is not what a run writes ({type(error).__name__})") from None


def rewards_tree(rewards: dict[str, int], domain: Domain, task: bytes) -> MerkleTree:
    """The tree of {account: wei earned so far}."""
    return MerkleTree(reward_leaf(domain, task, account, wei) for account, wei in rewards.items())


def _earned(record: dict[str, Any], accounts: list[str]) -> dict[str, int]:
    """{account: wei earned so far} of the members that a record's epoch changed; adds to `accounts` who joined."""
    accounts += [str(row[0]) for row in record["joined"]]
    return {accounts[row[0]]: int(row[3]) for row in record["members"]}
