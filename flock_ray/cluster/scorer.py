"""Held-out losses on the silos of a worker: the voters' scores, and the evaluation of the global adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from flock_ray.cluster.aggregator import Aggregator
from flock_ray.cluster.progress import Progress
from flock_ray.cluster.silos import HostedSilos
from flock_ray.cluster.update_store import UpdateStore
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.ballot import Score
from flock_ray.training.data import Example
from flock_ray.training.engine import Engine, LossJob, SequenceLoss
from flock_ray.training.evaluation import mean_loss, paired_score

_Losses = dict[tuple[int, bytes], list[SequenceLoss]]
"""{(silo, name of an adapter): loss of each held-out sequence}."""


class Scorer:
    """Measures adapters on held-out parts, each once an epoch. Voters go by the numbers of their silos."""

    def __init__(
        self,
        silos: HostedSilos,
        updates: UpdateStore,
        aggregator: Aggregator,
        engine: Engine,
        progress: Progress,
        everybody: bool,
    ) -> None:
        """Nothing measured yet.

        Args:
            silos: held-out parts.
            updates: has adapters.
            aggregator: adds single updates to the global adapter.
            engine: measures.
            progress: counts losses and time.
            everybody: whether all members evaluate each global adapter.
        """
        self._everybody = everybody
        self._silos, self._updates, self._aggregator = silos, updates, aggregator
        self._engine, self._progress = engine, progress
        self._global: dict[int, list[SequenceLoss]] = {}
        self._candidates: _Losses = {}
        self._proposals: _Losses = {}  # and several candidates

    def score_proposals(
        self, voters: Sequence[int], start: bytes, payloads: Sequence[bytes]
    ) -> dict[tuple[int, bytes], tuple[Score, ...]]:
        """{(voter, payload hash): score against the global adapter of what this update alone makes of it}.

        Always ask for all hosted voters and all that decoded at once, after `evaluate` of the global adapter.
        """
        names = {payload: (start + payload,) for payload in payloads}
        return self._scores(voters, names, lambda payload: (self._aggregator.with_one(start, payload),))

    def score_splits(
        self, voters: Sequence[int], adapters: Sequence[bytes], payloads: Sequence[bytes], num_parts: int
    ) -> dict[tuple[int, bytes], tuple[Score, ...]]:
        """{(voter, payload hash): score of a part of what the update adds to what is public, and of what enters of it}.

        Both are one measurement where nothing is public yet. Ask as in `score_proposals`.

        Args:
            voters: silos.
            adapters: hashes of the global adapters that the mechanism looks back on, the current one last.
            payloads: that decoded.
            num_parts: one of as many is added to the global adapter.
        """
        marks = (b"residual", b"entering") if len(adapters) > 1 else (b"", b"")
        names = {payload: tuple(adapters[-1] + payload + mark for mark in marks) for payload in payloads}
        return self._scores(voters, names, lambda payload: self._aggregator.with_parts(adapters, payload, num_parts))

    def _scores(
        self,
        voters: Sequence[int],
        names: Mapping[bytes, tuple[bytes, ...]],
        made: Callable[[bytes], tuple[Adapter, ...]],
    ) -> dict[tuple[int, bytes], tuple[Score, ...]]:
        """{(voter, payload hash): scores of the adapters that are made of it}.

        Args:
            voters: silos.
            names: {payload hash: names of these adapters}.
            made: makes them.
        """
        pairs = [(voter, name) for voter in voters for payload in names for name in names[payload]]
        missing = {name for voter, name in pairs if (voter, name) not in self._proposals}
        adapters = dict[bytes, Adapter]()
        for payload, of_payload in names.items():
            if missing.intersection(of_payload):
                adapters |= zip(of_payload, made(payload), strict=True)
        with self._progress.timed("vote"):
            self._measure(pairs, self._proposals, adapters.__getitem__)
        return {
            (voter, payload): tuple(paired_score(self._global[voter], self._proposals[voter, name]) for name in own)
            for voter in voters
            for payload, own in names.items()
        }

    def score_candidates(self, voters: Sequence[int], candidates: Sequence[bytes]) -> dict[tuple[int, bytes], Score]:
        """{(voter, candidate): its score against the global adapter}.

        Where everybody evaluates, all of the voters' hosts measure a single candidate in the same batches as they
        evaluate it if it becomes global. Of several the voters alone measure each, and it is evaluated anew.
        """
        silos, known = list(voters), self._proposals if len(candidates) > 1 else self._candidates
        if self._everybody and len(candidates) == 1:
            hosts = {self._silos.host_of[voter] for voter in voters}
            silos = [silo for silo in self._global if self._silos.host_of[silo] in hosts]
        with self._progress.timed("vote"):
            self._measure([(silo, one) for silo in silos for one in candidates], known, self._updates.adapter)
        return {
            (voter, one): paired_score(self._global[voter], known[voter, one]) for voter in voters for one in candidates
        }

    def evaluate(self, silos: Sequence[int], adapter: bytes) -> dict[int, float]:
        """{silo: mean held-out loss under the global adapter, nats a token}.

        Always ask for all at once, in rising order: who is measured in one batch shapes the last bits.
        """
        self._progress.begin("evaluate", len(silos))
        if not self._everybody or set(silos) != set(self._global):  # others were measured together than those now
            self._candidates.clear()
        with self._progress.timed("evaluate"):
            self._measure([(silo, adapter) for silo in silos], self._candidates, self._updates.adapter)
        self._global = {silo: self._candidates[silo, adapter] for silo in silos}
        return {silo: mean_loss(losses) for silo, losses in self._global.items()}

    def loss(self, silo: int, adapter: Adapter) -> float:
        """Mean held-out loss of a silo under any adapter, nats a token; not remembered."""
        with self._progress.timed("vote"):
            return mean_loss(self.measure(adapter, self._silos[silo].heldout))

    def measure(self, adapter: Adapter, examples: Sequence[Example]) -> list[SequenceLoss]:
        """Losses of any sequences under any adapter."""
        [losses] = self._engine.losses([LossJob(adapter, examples)])
        return losses

    def forget(self) -> None:
        """Forget all losses: others are to be measured together from now on."""
        self._candidates.clear()
        self._proposals.clear()

    def _measure(
        self, pairs: Iterable[tuple[int, bytes]], known: _Losses, adapter_of: Callable[[bytes], Adapter]
    ) -> None:
        """Held-out losses of silos under adapters, (silo, name of the adapter); those in `known` are not redone."""
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        costs = {pair: sum(len(example.input_ids) for example in self._silos[pair[0]].heldout) for pair in missing}
        for cohort in self._silos.cohorts(costs, lambda pair: pair[0]):
            jobs = [LossJob(adapter_of(name), self._silos[silo].heldout) for silo, name in cohort]
            known.update(zip(cohort, self._engine.losses(jobs, self._progress.step), strict=True))

    def end_epoch(self, adapter: bytes) -> None:
        """Forget all losses but those of the global adapter."""
        self._candidates = {key: losses for key, losses in self._candidates.items() if key[1] == adapter}
        self._proposals.clear()
