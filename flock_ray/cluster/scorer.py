"""Held-out losses on the silos of a worker: the voters' scores, and the evaluation of the global adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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
        self._proposals: _Losses = {}

    def score_proposals(
        self, voters: Sequence[int], start: bytes, payloads: Sequence[bytes]
    ) -> dict[tuple[int, bytes], Score]:
        """{(voter, payload hash): score against the global adapter of what this update alone makes of it}.

        Always ask for all hosted voters and all that decoded at once, after `evaluate` of the global adapter.
        """
        names = {start + payload: payload for payload in payloads}
        pairs = [(voter, name) for voter in voters for name in names]
        missing = {name for voter, name in pairs if (voter, name) not in self._proposals}
        adapters = {name: self._aggregator.with_one(start, names[name]) for name in missing}
        with self._progress.timed("vote"):
            self._measure(pairs, self._proposals, adapters.__getitem__)
        return {
            (voter, names[name]): paired_score(self._global[voter], self._proposals[voter, name])
            for voter, name in pairs
        }

    def score_candidate(self, voters: Sequence[int], candidate: bytes) -> dict[int, Score]:
        """{voter: score of the candidate against the global adapter}.

        Where everybody evaluates, all of the voters' hosts measure it in the same batches as they evaluate it if it
        becomes global.
        """
        silos = list(voters)
        if self._everybody:
            hosts = {self._silos.host_of[voter] for voter in voters}
            silos = [silo for silo in self._global if self._silos.host_of[silo] in hosts]
        with self._progress.timed("vote"):
            self._measure([(silo, candidate) for silo in silos], self._candidates, self._updates.adapter)
        return {voter: paired_score(self._global[voter], self._candidates[voter, candidate]) for voter in voters}

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
