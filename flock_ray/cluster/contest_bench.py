"""What a worker of a contest computes with: the resident base model, the rows, training nodes' adapters, payloads.

Every result is a pure function of configuration and signed messages, remembered while a day lasts: each (adapter, row)
is measured once for all validators that the worker hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from flock_ray.cluster.contest_spec import ContestSpec
from flock_ray.cluster.progress import Progress
from flock_ray.errors import DataError
from flock_ray.lora.algebra import initial_adapter
from flock_ray.lora.foreign import read_foreign, with_rank
from flock_ray.lora.gate import inspect
from flock_ray.lora.peft_io import adapter_shapes, shortest_targets
from flock_ray.lora.serialization import Adapter, canonical_bytes, layout
from flock_ray.lora.sketch import Sketcher, earliest_within
from flock_ray.protocol.contest_message import Finding
from flock_ray.protocol.contest_race import Column, Rung, RungResult
from flock_ray.protocol.contest_state import FINAL, ContestState
from flock_ray.protocol.seed import local_seed
from flock_ray.store.blob_store import BlobCorruptedError, BlobMissingError, BlobStore, BlobTooLargeError
from flock_ray.training.cohort import cohorts
from flock_ray.training.contest import RowScorer, train_snapshots
from flock_ray.training.contest_data import node_batches, read_contest, read_training
from flock_ray.training.contest_losses import ContestLosses
from flock_ray.training.contest_sql import num_telling
from flock_ray.training.device import set_deterministic
from flock_ray.training.engine import MemberJob
from flock_ray.training.model import load_base


class ContestBench:
    """Loads model and rows.

    Attributes:
        progress: of the phase that runs.
        base: the base model.
        data: the contest's rows.
        num_training: rows that training nodes learn from.
        num_telling: rows that can tell a wrong query, under `sql`; None under another metric.
        store: of payloads.
        targets: names of the layers that adapters may have.
    """

    def __init__(self, spec: ContestSpec, progress: Progress) -> None:
        """Load; errors as in `ContestWorker.load`."""
        torch.set_num_threads(spec.threads)
        set_deterministic(spec.deterministic)
        self._spec, self.progress = spec, progress
        self.base = load_base(spec.model)
        self.data = read_contest(spec.data, self.base.tokenizer)
        self.num_telling = self._require_telling() if spec.data.metric == "sql" else None
        self._training = [] if spec.submissions else read_training(spec.data, self.base.tokenizer, self.data)
        self.num_training = len(self._training)
        self.shapes = adapter_shapes(self.base.model, spec.target_modules, spec.rank)
        self.targets = shortest_targets(self.base.model, spec.target_modules)
        self.store = BlobStore(spec.store_url)
        self._scorer = RowScorer(self.base, spec.target_modules, spec.max_rank, spec.cohort_tokens)
        self._losses = ContestLosses(
            self._scorer, self.base.tokenizer, spec.data.metric, spec.answer_tokens, spec.data.template_date
        )
        self._snapshots: dict[int, list[Adapter]] = {}
        self._inspected: dict[bytes, tuple[Finding, Adapter | None]] = {}
        if spec.submissions:
            self._read_submissions()

    def _require_telling(self) -> int:
        """Rows under `sql` that can tell wrong queries from gold ones; a day of others would rank by chance.

        Raises:
            DataError: a day, or set B, has none.
        """
        found = 0
        for chunk in (*self.data.chunks, self.data.final):
            telling = num_telling([one.question for one in chunk if one.question])
            if not telling:
                raise DataError(
                    f"contest.data: none of the {len(chunk)} rows of a day can tell a wrong query from the gold one; a"
                    " gold query must return something, and two queries like it something else"
                )
            found += telling
        return found

    def _read_submissions(self) -> None:
        """Read the folders of the training nodes here, so that a bad one is refused before anything starts."""
        spec = self._spec
        for member in self._nodes:
            folder = Path(spec.submissions[member - spec.num_validators])
            self._snapshots[member] = [read_foreign(folder, self.shapes, spec.max_rank)] * spec.num_epochs

    @property
    def _nodes(self) -> list[int]:
        """Training nodes that are hosted here."""
        return sorted(member for member in self._spec.silos if member >= self._spec.num_validators)

    def nothing(self) -> bytes:
        """Hash of the adapter that does nothing, put into the store: a contest's model before its first day."""
        return self.store.put(canonical_bytes(initial_adapter(self.shapes, local_seed(self._spec.run_seed, "adapter"))))

    # -- training nodes ----------------------------------------------------------------------------------------------

    def own_adapter(self, node: int, day: int) -> Adapter:
        """What a hosted training node has trained by a day, or has on disk.

        Raises:
            TrainingError: it cannot train.
        """
        if node not in self._snapshots:
            with self.progress.timed("train"):
                self._train()
        return self._snapshots[node][day - 1]

    def _train(self) -> None:
        """Train all nodes here, those of a logical host in one batch, and keep what each day takes of it."""
        spec, days = self._spec, self._spec.num_epochs
        after = [spec.settings.steps * day // days for day in range(1, days + 1)]
        self.progress.begin("train", len(self._nodes) * spec.settings.steps)
        for members in spec.hosts.values():
            nodes = [member for member in members if member >= spec.num_validators]
            jobs = [self._job(node) for node in nodes]
            costs = [max(sum(len(one.input_ids) for one in batch) for batch in job.batches) for job in jobs]
            for cohort in cohorts(costs, spec.cohort_tokens):
                kept = train_snapshots(self._scorer, [jobs[at] for at in cohort], after, self.progress.step)
                self._snapshots |= {nodes[at]: snapshots for at, snapshots in zip(cohort, kept, strict=True)}

    def _job(self, node: int) -> MemberJob:
        spec, seed = self._spec, self._spec.run_seed
        start = initial_adapter(with_rank(self.shapes, spec.rank), local_seed(seed, "node", node))
        settings = spec.settings
        batches = node_batches(self._training, node, settings.steps, settings.batch_size, local_seed(seed, "node rows"))
        return MemberJob(start, batches, settings)

    # -- payloads ----------------------------------------------------------------------------------------------------

    def inspected(self, payload: bytes) -> tuple[Finding, Adapter | None]:
        """What the gate finds of a payload, and the adapter if it is valid."""
        if payload not in self._inspected:
            with self.progress.timed("transfer"):
                self._inspected[payload] = self._fetch(payload)
        return self._inspected[payload]

    def _fetch(self, payload: bytes) -> tuple[Finding, Adapter | None]:
        most = layout(with_rank(self.shapes, self._spec.max_rank)).size
        try:
            return inspect(self.store.get(payload, most), self.shapes, self._spec.max_rank)
        except BlobTooLargeError:
            return Finding.TOO_LARGE, None
        except (BlobMissingError, BlobCorruptedError):
            return Finding.UNAVAILABLE, None

    def originals(self, state: ContestState, shuffle: bytes, payloads: Sequence[bytes]) -> dict[bytes, bytes]:
        """{payload: the earliest submission within the copy distance}, of those that have one.

        Args:
            state: of the day.
            shuffle: the day's.
            payloads: of the day, in the order of their ids.
        """
        sketcher = Sketcher(self.shapes, shuffle)
        line = list(dict.fromkeys([*(one.payload for one in state.earlier), *payloads]))
        adapters = {payload: self.inspected(payload)[1] for payload in line}
        with self.progress.timed("gate"):
            sketches = {name: sketcher.sketch(adapter) for name, adapter in adapters.items() if adapter is not None}
            found = {}
            for payload in payloads:
                before = [one for one in line[: line.index(payload)] if one in sketches]
                if payload in sketches:
                    limit = state.parameter("copy_distance")
                    near = earliest_within(sketches[payload], [sketches[one] for one in before], limit)
                    if near is not None:
                        found[payload] = before[near]
        return found

    # -- scores ------------------------------------------------------------------------------------------------------

    def columns(self, state: ContestState, earlier: Sequence[RungResult], rung: Rung) -> list[Column]:
        """Losses of a rung's contenders on its rows; None of a contender whose payload could not be had.

        What earlier rungs measured is not measured again; a worker that was rebuilt measures it as it was then, so that
        every loss comes out of the same batches.
        """
        rungs = (*(result.rung for result in earlier), rung)
        for each in rungs:
            self._measure(state.epoch, rungs[0].seed, each)
        return [
            self._losses.column(rung.name == FINAL, payload, rung.places)
            if self.inspected(payload)[1] is not None
            else None
            for payload in rung.contenders
        ]

    def _measure(self, day: int, shuffle: bytes, rung: Rung) -> None:
        final = rung.name == FINAL
        inspected = {payload: self.inspected(payload)[1] for payload in rung.contenders}
        adapters = {payload: adapter for payload, adapter in inspected.items() if adapter is not None}
        groups = self._losses.missing(final, adapters, rung.places)
        self.progress.begin("score", sum(len(together) for _, together in groups))
        with self.progress.timed("score"):
            self._losses.measure(shuffle, final, groups, self.data.of(day, final), self.progress.step)

    def again(
        self, day: int, shuffle: bytes, rung: Rung, cells: Sequence[tuple[int, int]]
    ) -> list[tuple[int, int, int]]:
        """Disputed cells of a rung, (column, position), measured anew: (column, position, micro-nats), ascending."""
        rows = self.data.of(day, rung.name == FINAL)
        asked: dict[int, list[int]] = {}
        for column, position in cells:
            asked.setdefault(column, []).append(position)
        alike: dict[tuple[int, ...], dict[bytes, Adapter]] = {}  # adapters that are asked for on the same rows
        for column, positions in asked.items():
            adapter = self.inspected(rung.contenders[column])[1]
            if adapter is not None:
                alike.setdefault(tuple(positions), {})[rung.contenders[column]] = adapter
        self.progress.begin("audit", sum(map(len, alike.values())))
        found = []
        with self.progress.timed("audit"):
            for same, adapters in sorted(alike.items(), key=lambda one: one[0]):
                own = [rows[rung.places[position]] for position in same]
                for payload, losses in self._losses.of(shuffle, adapters, own, rows, self.progress.step).items():
                    column = rung.contenders.index(payload)
                    found += [(column, position, loss) for position, loss in zip(same, losses, strict=True)]
        return sorted(found)

    def end_day(self) -> None:
        """Forget losses and payloads of the day."""
        self._losses.forget()
        self._inspected.clear()
