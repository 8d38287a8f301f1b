"""Members join a task by way of the driver's ledger, many at once; its chain actor is in this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.membership import Members
from flock_ray.chain.client import ChainClient
from flock_ray.chain.keys import run_signer
from flock_ray.chain.transactions import join
from flock_ray.chain.values import TaskStatus
from flock_ray.cluster import chain_connection
from flock_ray.cluster.chain_ledger import ChainLedger
from flock_ray.config import AllianceConfig, Config
from flock_ray.errors import ChainError
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.state import TaskState
from tests.chain.world import RUN_SEED, spec

pytestmark = pytest.mark.chain

MEMBERS = 7
CONFIG = Config(seed=RUN_SEED, alliance=AllianceConfig(num_members=MEMBERS, num_epochs=1, num_proposers=1))


class Killed(Exception):
    """The run was killed."""


class Bench:
    """The driver's ledger, its chain, and its members' processes; it can be killed at a call of the chain."""

    def __init__(self, backend: str, run_dir: Path, config: Config = CONFIG) -> None:
        self.config, self._run_dir = config, run_dir
        self._spec = spec(backend, num_members=MEMBERS + config.alliance.candidates)
        self.members, self.asked, self.kill_at = Members(config), list[str](), ("", 0)
        self.open()
        self.ledger.deploy()
        info = self.client.info()
        self._spec = replace(self._spec, token=info.token, task=info.task, settlement=info.settlement)

    def open(self) -> None:
        """Start a run's processes."""
        self.client = ChainClient(self._spec, str(self._run_dir))
        self.ledger = ChainLedger.__new__(ChainLedger)
        self.ledger._config, self.ledger._accounts = self.config, self.members.accounts
        self.ledger._info, self.ledger._creator = self.client.info(), run_signer(RUN_SEED, "creator")
        self.ledger._ask = self._ask  # type: ignore[method-assign]

    def _ask(self, method: str, *args: Any) -> Any:
        names = args[2] if method == "broadcast" and len(args) > 2 else ["creator"]
        self.asked.append(f"{method} {names[0]}")
        if (self.asked[-1], self.asked.count(self.asked[-1])) == self.kill_at:
            raise Killed
        return getattr(self.client, method)(*args)

    def reopen(self) -> None:
        """Resume after a kill."""
        self.client.close()
        self.kill_at = "", 0
        self.open()

    def create_task(self) -> TaskState:
        return self.ledger.create_task(self.members.terms, self.members)

    def nonces(self) -> list[int]:
        return [context.nonce for context in self.client.contexts(list(self.members.accounts.values())).values()]


@pytest.fixture(params=["eth_tester", pytest.param("anvil", marks=pytest.mark.anvil)])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Three members at once."""
    monkeypatch.setattr(chain_connection, "_PART", 3)
    made = Bench(request.param, tmp_path)
    yield made
    made.client.close()


def test_members_join_in_the_order_of_their_numbers(bench: Bench) -> None:
    state = bench.create_task()
    assert [member.account for member in state.members] == list(bench.members.accounts.values())
    assert bench.nonces() == [3] * MEMBERS
    parts = [f"broadcast member-{number}" for number in (0, 3, 6)]
    assert [call for call in bench.asked if call.startswith("broadcast member-")] == parts * 2


@pytest.mark.parametrize(
    ("kill_at", "joined"),
    [(("broadcast member-3", 1), 0), (("broadcast member-3", 2), 3), (("broadcast creator", 4), 7)],
)
def test_a_run_that_was_killed_while_members_joined_goes_on(
    bench: Bench, kill_at: tuple[str, int], joined: int
) -> None:
    bench.kill_at = kill_at
    with pytest.raises(Killed):
        bench.create_task()
    assert len(bench.client.task_view(bench.ledger._task).members) == joined
    bench.reopen()
    state = bench.create_task()
    assert [member.account for member in state.members] == list(bench.members.accounts.values())
    assert bench.nonces() == [3] * MEMBERS  # nobody staked twice


def test_a_join_that_fails_is_told_with_its_member_and_can_be_made_good(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Members.run

    def misled(self: Members, method: str, *args: Any) -> Iterator[tuple[int, Any]]:
        for index, enrolments in run(self, method, *args):
            task, contexts = args[0], args[4]
            context = replace(contexts[4], nonce=contexts[4].nonce + 2, free_stake=2**96)
            raws = join(self.signers[4], context, task, self.terms.min_stake, keccak(b"tip"), keccak(b"another"), 1)
            kept = enrolments[4].transactions[:-1]
            yield index, {**enrolments, 4: replace(enrolments[4], transactions=(*kept, *raws))}

    with monkeypatch.context() as patch, pytest.raises(ChainError) as caught:
        patch.setattr(Members, "run", misled)
        bench.create_task()
    told = str(caught.value)
    assert told.startswith("member-4's join: transaction 0x") and "reverted: UnexpectedTerms(" in told
    view = bench.client.task_view(bench.ledger._task)
    assert (view.status, len(view.members)) == (TaskStatus.JOINING, 4)
    bench.reopen()
    state = bench.create_task()
    assert [member.account for member in state.members] == list(bench.members.accounts.values())
