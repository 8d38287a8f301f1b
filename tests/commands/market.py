"""Deployed contracts on a real anvil, with their address book, and `flock-ray` as their holders type it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from flock_ray.chain import transactions
from flock_ray.chain.abi import contract
from flock_ray.chain.address_book import AddressBook
from flock_ray.chain.anvil import AnvilProcess
from flock_ray.chain.deployment import Deployment, Settings
from flock_ray.chain.eip712 import Domain, report_digest, report_hash
from flock_ray.chain.embedded import GAS_MONEY, GENESIS_TIME
from flock_ray.chain.epoch_report import Report, ReportedSlash
from flock_ray.chain.journal import Genesis
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.rpc import RpcNode
from flock_ray.chain.values import SINK, TOKEN, TaskTerms
from flock_ray.commands.main import main
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.seed import fixed_genesis
from flock_ray.store.files import write_json
from tests.chain.world import RUN_SEED, World, spec
from tests.waiting import PATIENCE

CHAIN_ID = 4_711
DAY = 86_400
GRACE = 600
NAMES = ("creator", "relayer", *(f"member-{i}" for i in range(5)), "delegator-0", "delegator-1")
SIGNERS = {name: run_signer(RUN_SEED, name) for name in NAMES}
POOR = "delegator-1"  # has no coin
SETTINGS = Settings(
    supply=100_000 * TOKEN, treasury=SIGNERS["creator"].address, guardian=SIGNERS["relayer"].address, delay=0,
    proposers=(SIGNERS["creator"].address,), executors=(SIGNERS["creator"].address,), activation_delay=60,
    absence_bps=100, response_window=3_600, grace=GRACE, sink=SINK, evidence_window=7_200, vault_epoch=DAY,
    unbonding_epochs=7, commission_delay=8, min_delegation=10**15, daily=10**6 * TOKEN, decay_bps=100, period_days=365,
    start=GENESIS_TIME, epoch_multiple=1,
)  # fmt: skip


def environment() -> dict[str, str]:
    """Variables with everybody's key."""
    return {f"FLOCK_RAY_{name.upper().replace('-', '_')}_KEY": SIGNERS[name]._key.to_hex() for name in NAMES}


class Market:
    """The contracts, a task on them, and the folder that a run would leave."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.book = folder / "address_book.json"
        alloc = {signer.address: GAS_MONEY for name, signer in SIGNERS.items() if name != POOR}
        self._process = AnvilProcess(Genesis("anvil", CHAIN_ID, GENESIS_TIME, alloc))
        self.url = self._process.url
        self.node = RpcNode(self.url)
        genesis = "0x" + self.node.genesis().hex()
        creator = SIGNERS["creator"]
        book = AddressBook(self.book, CHAIN_ID, genesis, creator.address, SETTINGS.as_json())
        Deployment(self.node, creator, SETTINGS, book, PATIENCE).execute(lambda line: None)
        self.at = {name: entry.address for name, entry in book.entries.items() if entry.address}
        named = {
            "token": self.at["FlockToken"], "task": self.at["TaskRegistry"], "settlement": self.at["EpochSettlement"]
        }  # fmt: skip
        self.world = World(replace(spec("rpc", url=self.url, chain_id=CHAIN_ID), **named), folder)
        self.world.domain = Domain(CHAIN_ID, named["settlement"], self.at["RewardDistributor"])

    def close(self) -> None:
        self.world.client.close()
        self.node.close()
        self._process.close()

    # -- commands ------------------------------------------------------------------------------------------------------

    def type(self, *words: str, key: str = "") -> tuple[int, str, str]:
        """Exit code, output and errors of a command; `key` sends."""
        contracts = [] if words[0] == "deployment" else ["--contracts", str(self.book)]
        self._capsys.readouterr()
        code = main([*words, "--rpc", self.url, *contracts, *(["--key", key] if key else [])])
        output, errors = self._capsys.readouterr()
        return code, output, errors

    def told(self, *words: str, key: str = "") -> str:
        """What a command that ends well tells."""
        code, output, errors = self.type(*words, key=key)
        assert (code, errors) == (0, ""), errors
        return output

    def facts(self, *words: str, key: str = "") -> dict[str, Any]:
        """The same, for programs."""
        return dict(json.loads(self.told(*words, "--json", key=key)))

    def refused(self, *words: str, key: str = "") -> tuple[int, str]:
        """Exit code and line of a command that fails, and sends nothing."""
        before = [self.node.nonce(signer.address) for signer in SIGNERS.values()]
        code, output, errors = self.type(*words, key=key)
        assert output == "" and len(errors.splitlines()) == 1 and errors.startswith("error: "), output + errors
        assert [self.node.nonce(signer.address) for signer in SIGNERS.values()] == before
        return code, errors.removeprefix("error: ").rstrip("\n")

    # -- the chain -----------------------------------------------------------------------------------------------------

    def wait(self, seconds: int) -> None:
        self.node._request("evm_increaseTime", [seconds])
        self.node._request("evm_mine", [])

    def give(self, **tokens: int) -> None:
        """Tokens of the creator's: `member_0=5`."""
        grants = [(SIGNERS[name.replace("_", "-")].address, amount * TOKEN) for name, amount in tokens.items()]
        self.world.do(self.world.creator, lambda s, c: transactions.transfer(s, c, grants))

    def wallet(self, name: str) -> int:
        return self.world.client.wallet_balances([SIGNERS[name].address])[SIGNERS[name].address]

    def call(self, sender: Signer, name: str, function: str, *args: object) -> None:
        data = contract(name).encode(function, *args)
        self.world.do(sender, lambda s, c: [transactions.call(s, c, self.at[name], data, 500_000)])

    # -- the task ------------------------------------------------------------------------------------------------------

    def create_task(self, members: Sequence[int], node_stake: int = 0, **changes: object) -> None:
        """A task that these members have joined with a slot each, at 3,000 tokens; no CLI is involved.

        With `node_stake` it is a contest.
        """
        fields: dict[str, object] = {
            "terms_hash": keccak(b"terms"), "model_hash": keccak(b"model"), "target_set_hash": bytes(32),
            "pool": 1_000 * TOKEN, "min_stake": 3_000 * TOKEN, "max_slots": 1, "num_voters": 3, "num_proposers": 1,
            "min_members": 4, "max_members": 5, "num_epochs": 2, "max_unsettled": 0, "max_skips": 3,
            "end_share_bps": 0, "epoch_deadline": 3_600, "join_window": 30 * DAY, "fixed_genesis": True,
        }  # fmt: skip
        terms = TaskTerms(**{**fields, **changes})  # type: ignore[arg-type]
        world, seed = self.world, fixed_genesis(RUN_SEED)
        world.do(world.creator, lambda s, c: transactions.create_task(s, c, terms, seed, node_stake))
        world.task = terms.task_id(world.creator.address, seed, node_stake)
        self.digest = terms.digest(world.creator.address, node_stake).hex()
        self.give(**{f"member_{number}": 3_000 for number in members})
        for number in members:
            world.join(world.members[number], 3_000 * TOKEN)

    # -- the run -------------------------------------------------------------------------------------------------------

    def write_task(self, base_model: bytes = bytes(32), adapter: bytes = bytes(32)) -> str:
        """The task as a run leaves it; returns the folder."""
        members = [[member.account, member.slots, to_hex(member.chain_tip), 0] for member in
                   self.world.client.task_view(self.world.task).members]  # fmt: skip
        write_json(self.folder / "task.json", {
            "chain_id": CHAIN_ID, "contract": self.at["EpochSettlement"], "task": to_hex(self.world.task),
            "members": members, "creator": self.world.creator.address,
            "terms": {"base_model": to_hex(base_model), "model_config": to_hex(bytes(32)),
                      "tokenizer": to_hex(bytes(32)), "start_adapter": to_hex(adapter)},
        })  # fmt: skip
        for name in ("records", "receipts"):
            (self.folder / name).mkdir(exist_ok=True)
        return str(self.folder)

    @property
    def id(self) -> str:
        """The task, as one types it."""
        return self.world.task.hex()

    def sign(self, earned: dict[str, int], silent: Sequence[int] = (), slashes: Sequence[ReportedSlash] = ()) -> Report:
        """The receipt and the record of the next epoch, signed by the seats that are not `silent`."""
        report, _ = self.world.report(earned, slashes)
        digest, voters = report_digest(self.world.domain, report), self.world.voters()
        signatures = {
            str(seat): to_hex(voter.sign_digest(digest)) for seat, voter in enumerate(voters) if seat not in silent
        }
        write_json(self.folder / "receipts" / f"{report.epoch}.json", {
            "epoch": report.epoch, "report": asdict(report), "report_hash": to_hex(report_hash(report)),
            "signatures": signatures,
        })  # fmt: skip
        members = [member.account for member in self.world.client.task_view(self.world.task).members]
        rows = [[members.index(account), 0, 0, wei, 0, {}] for account, wei in earned.items()]
        write_json(self.folder / "records" / f"{report.epoch}.json", {"joined": [], "members": rows})
        return report
