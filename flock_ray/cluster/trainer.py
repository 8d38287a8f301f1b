"""Local training on the silos of a worker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from flock_ray.adversary.behaviour import Row
from flock_ray.cluster.progress import Progress
from flock_ray.cluster.silos import HostedSilos
from flock_ray.cluster.spec import GroupSpec
from flock_ray.cluster.update_store import UpdateStore
from flock_ray.errors import TrainingError
from flock_ray.lora.algebra import subtract
from flock_ray.lora.fixed_point import extremes
from flock_ray.lora.serialization import Adapter
from flock_ray.protocol.seed import local_seed
from flock_ray.training.data import IGNORED, Example, batches
from flock_ray.training.engine import Engine, MemberJob, Result
from flock_ray.training.flops import FlopCounter

RowsOf = Callable[[Sequence[Row]], Sequence[Row]]


@dataclass(frozen=True)
class LocalUpdate:
    """A proposer's training in one epoch, before it is encoded.

    Attributes:
        delta: factor deltas from the global adapter; empty once they are encoded.
        samples: the examples used, for the salted digest.
        losses: training loss of each step.
    """

    delta: Adapter
    samples: tuple[Example, ...]
    losses: tuple[float, ...]


class Trainer:
    """Trains on silos: a pure function of global adapter, silo, epoch and seed, remembered for the epoch."""

    def __init__(
        self,
        spec: GroupSpec,
        silos: HostedSilos,
        updates: UpdateStore,
        engine: Engine,
        flops: FlopCounter,
        rate: float,
        progress: Progress,
    ) -> None:
        """Nothing trained yet.

        Args:
            spec: of the node group.
            silos: data to train on.
            updates: has the global adapter.
            engine: runs the local steps.
            flops: counts their floating-point operations.
            rate: operations that matrix products do here in a second.
            progress: counts steps and time.
        """
        self._spec, self._silos, self._updates, self._engine = spec, silos, updates, engine
        self._flops, self._rate, self._progress = flops, rate, progress
        self._trained: dict[tuple[int, bytes], dict[int, LocalUpdate]] = {}

    def train(
        self, silos: Sequence[int], epoch: int, start: bytes, rows_of: Mapping[int, RowsOf] | None = None
    ) -> dict[int, LocalUpdate]:
        """The local steps on these silos in this epoch from the global adapter `start`; {silo: update}.

        Always ask for all of the epoch's hosted proposers: who trains in one batch shapes the last bits.
        `rows_of` says of dishonest owners' silos what they train on for what they drew.

        Raises:
            TrainingError: of a silo, or its update is beyond the bound of the terms.
        """
        trained = self._trained.setdefault((epoch, start), {})
        hosts = {self._silos.host_of[silo] for silo in silos if silo not in trained}
        missing = [silo for silo in silos if self._silos.host_of[silo] in hosts]
        with self._progress.timed("train"):
            jobs = {silo: self._job(silo, epoch, start, (rows_of or {}).get(silo)) for silo in missing}
            costs = {silo: _largest_step(job) for silo, job in jobs.items()}
            for cohort in self._silos.cohorts(costs, lambda silo: silo):
                results = self._engine.train([jobs[silo] for silo in cohort], self._progress.step)
                for silo, result in zip(cohort, results, strict=True):
                    trained[silo] = self._local_update(silo, jobs[silo], result)
        return {silo: trained[silo] for silo in silos}

    def try_out(self, silos: Sequence[int], epoch: int, start: bytes, steps: int | None = None) -> dict[int, Adapter]:
        """{silo: update} that honest training would give, of silos that need not train in this epoch.

        Nothing is remembered; silos that trained from `start` as they should are not trained again.

        Args:
            silos: in rising order.
            epoch: whose batches and rates they take.
            start: hash of the adapter to train from.
            steps: of local training; None for all.

        Raises:
            TrainingError: of a silo.
        """
        trained = self._trained.get((epoch, start), {}) if steps is None else {}
        found = {silo: trained[silo].delta for silo in silos if silo in trained and trained[silo].delta}
        with self._progress.timed("train"):
            jobs = {silo: self._job(silo, epoch, start, None) for silo in silos if silo not in found}
            if steps is not None:
                jobs = {silo: _shortened(job, steps) for silo, job in jobs.items()}
            costs = {silo: _largest_step(job) for silo, job in jobs.items()}
            for cohort in self._silos.cohorts(costs, lambda silo: silo):
                results = self._engine.train([jobs[silo] for silo in cohort])
                for silo, result in zip(cohort, results, strict=True):
                    found[silo] = self._local_update(silo, jobs[silo], result).delta
        return found

    def _job(self, silo: int, epoch: int, start: bytes, rows_of: RowsOf | None) -> MemberJob:
        settings = self._spec.settings.of_epoch(epoch, self._spec.num_epochs)
        seed = local_seed(self._spec.run_seed, "batches", epoch, silo)
        drawn = batches(self._silos[silo], settings.steps, settings.batch_size, seed)
        if rows_of:
            drawn = _replaced(drawn, rows_of)
        return MemberJob(self._updates.adapter(start), drawn, settings)

    def _local_update(self, silo: int, job: MemberJob, result: Result) -> LocalUpdate:
        if isinstance(result, TrainingError):
            raise TrainingError(f"silo {silo}: {result}")
        delta = subtract(result.adapter, job.adapter)
        self._check_bound(silo, delta)
        samples = tuple(example for batch in job.batches for example in batch)
        return LocalUpdate(delta, samples, tuple(result.losses))

    def _check_bound(self, silo: int, delta: Adapter) -> None:
        """An honest update beyond the terms' bound ends the run here: sent, it would cost the silo its stake."""
        largest = max(max(-low, high) for low, high in map(extremes, delta.values()))
        max_abs = self._updates.wire_format.max_abs
        if not largest <= max_abs:
            raise TrainingError(
                f"the update of silo {silo} has an entry of {largest:.3g}, above wire_format.parameters.max_abs ="
                f" {max_abs}; lower training.learning_rate"
            )

    def facts(self, updates: Collection[LocalUpdate], seconds: float) -> dict[str, float]:
        """How much was trained in so many seconds, and what this node's matrix products would do in one."""
        samples = [example for update in updates for example in update.samples]
        tokens = sum(example.num_labels for example in samples)
        flops = self._flops.training((len(example.input_ids) for example in samples), tokens)
        return {"tokens": tokens, "flops": flops, "seconds": seconds, "flops_per_second": self._rate}

    def drop_deltas(self) -> None:
        """Free the deltas of all updates: their payloads are kept."""
        for updates in self._trained.values():
            updates.update({silo: replace(update, delta={}) for silo, update in updates.items()})

    def forget(self) -> None:
        """Forget all updates: whose payloads are not kept, trains again."""
        self._trained.clear()


def _replaced(drawn: list[list[Example]], rows_of: RowsOf) -> list[list[Example]]:
    """Batches of the same sizes, of the examples that `rows_of` gives for those of `drawn`."""
    examples = [example for batch in drawn for example in batch]
    rows = [(example.input_ids.tolist(), (example.labels != IGNORED).tolist()) for example in examples]
    given = rows_of(rows)
    if given is not rows:
        assert len(given) == len(rows)
        examples = [Example.of(*row) for row in given]
    left = iter(examples)
    return [[next(left) for _ in batch] for batch in drawn]


def _shortened(job: MemberJob, steps: int) -> MemberJob:
    """A job of its first steps alone."""
    return replace(
        job, batches=job.batches[:steps], settings=replace(job.settings, steps=min(steps, job.settings.steps))
    )


def _largest_step(job: MemberJob) -> int:
    """Tokens of a silo's largest step."""
    return max(sum(len(example.input_ids) for example in batch) for batch in job.batches)
