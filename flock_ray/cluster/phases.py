"""What all nodes of a run are asked at once: the phases of an epoch, and what comes before and after them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ray import ObjectRef

from flock_ray.chain.values import TxContext
from flock_ray.cluster.attestation import Attestation, Bulletin
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.spec import Enrolment, PhaseResult

AnyBulletin: TypeAlias = "Bulletin | ObjectRef[Bulletin]"
"""The signed messages of an epoch so far, or where they are: a large set need not come by the driver."""

Results = Iterable[tuple[int, PhaseResult]]
"""(node, its answer), in the order in which they come; of a node asked anew more than once."""


class Phases(ABC):
    """Nodes that play the phases of an epoch; see the methods of the same names of `Worker`."""

    @abstractmethod
    def run(self, method: str, *args: Any) -> Iterable[tuple[int, Any]]:
        """Ask every node; (its number, its answer) in the order in which they come.

        Raises:
            FlockRayError: what a node raised.
        """

    @abstractmethod
    def place(self, task: RunningTask) -> None:
        """Share out the logical hosts for an epoch by its roles, where they may move."""

    @abstractmethod
    def resume_from(self, task: RunningTask) -> None:
        """What a node that is lost from now on takes up first: the task as the running epoch starts from it."""

    @abstractmethod
    def epoch_signed(self) -> None:
        """An epoch was signed: failures before it no longer count."""

    # -- an epoch ----------------------------------------------------------------------------------------------------

    def begin(self, task: RunningTask) -> Results:
        """Take up a task, and measure the global adapter."""
        self.resume_from(task)
        return self.run("begin", task)

    def train(self) -> Results:
        """Proposers train, and commit to their updates."""
        return self.run("train")

    def acknowledge(self, committed: AnyBulletin) -> Results:
        """Voters list the commitments that they hold."""
        return self.run("acknowledge", committed)

    def publish(self) -> Results:
        """Proposers open what they committed to."""
        return self.run("publish")

    def commit_ballots_a(self, opened: AnyBulletin) -> Results:
        """Voters score all proposals, and commit to their ballots A."""
        return self.run("commit_ballots_a", opened)

    def reveal_ballots_a(self, sealed: AnyBulletin) -> Results:
        """Voters reveal their ballots A."""
        return self.run("reveal_ballots_a", sealed)

    def commit_ballots_b(self, scored: AnyBulletin) -> Results:
        """Voters combine and score the candidate, and commit to their ballots B."""
        return self.run("commit_ballots_b", scored)

    def reveal_ballots_b(self, sealed: AnyBulletin) -> Results:
        """Voters reveal their ballots B."""
        return self.run("reveal_ballots_b", sealed)

    def sign(self, proposed: bytes, bulletin: AnyBulletin) -> Results:
        """Voters sign the record that they derive themselves, if it is the proposed one."""
        return self.run("sign", proposed, bulletin)

    def advance(self, attestation: Attestation, bulletin: AnyBulletin) -> Results:
        """Go on to the next epoch, and measure its global adapter."""
        return self.run("advance", attestation, bulletin)

    # -- before and after ----------------------------------------------------------------------------------------------

    def probe(self, token: str) -> None:
        """Have every node read the driver's probe from the store, and write its own."""
        for _ in self.run("probe", token):
            pass

    def enrol(
        self, task: bytes, creator: str, seed: bytes, silos: Collection[int], contexts: Mapping[int, TxContext]
    ) -> dict[int, Enrolment]:
        """{silo: enrolment of its owner}, by silo; see `Worker.enrol`."""
        enrolments: dict[int, Enrolment] = {}
        for _, enrolled in self.run("enrol", task, creator, seed, frozenset(silos), dict(contexts)):
            enrolments |= enrolled
        return dict(sorted(enrolments.items()))

    def resign(self, task: bytes, contexts: Mapping[int, TxContext]) -> dict[int, tuple[bytes, ...]]:
        """{silo: its owner's signed transactions} by which members ask to leave a task."""
        return self._transactions("resign", task, dict(contexts))

    def collect_earnings(
        self,
        contexts: Mapping[int, TxContext],
        leaves: tuple[tuple[str, int], ...],
        claimed: Mapping[int, int],
        pooled: Collection[int],
        locked: Collection[int],
    ) -> dict[int, tuple[bytes, ...]]:
        """{silo: its owner's signed transactions} by which it takes what is its own; see `Worker.collect_earnings`."""
        return self._transactions(
            "collect_earnings", dict(contexts), leaves, dict(claimed), frozenset(pooled), frozenset(locked)
        )

    def answer(self, adapters: Sequence[bytes], prompts: Sequence[str], max_tokens: int) -> list[list[str]] | str:
        """Answers to each prompt under each adapter, by one node; or why there are none."""
        given = [answers for _, answers in self.run("answer", self.first, list(adapters), list(prompts), max_tokens)]
        found: list[list[str]] | str = next(answers for answers in given if answers is not None)
        return found

    @property
    def first(self) -> int:
        """Number of the first node that lives."""
        return 0

    def _transactions(self, method: str, *args: Any) -> dict[int, tuple[bytes, ...]]:
        transactions: dict[int, tuple[bytes, ...]] = {}
        for _, signed in self.run(method, *args):
            transactions |= signed
        return dict(sorted(transactions.items()))
