"""Tasks under `marginal`, played on the real epoch loop with simulated training, and replayed from what they left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.simulated import GRID, SLOPE, START, SimulatedBench, SimulatedEngine, SimulatedJob, SimulatedWorker
from flock_ray.config import AdversaryConfig, AggregationConfig, AllianceConfig, LoraConfig, MechanismConfig
from flock_ray.errors import VerificationError
from flock_ray.lora.serialization import LORA_A
from flock_ray.protocol.message import Message
from flock_ray.training.engine import LossJob, Result, SequenceLoss, Tick, TrainOutcome, no_tick
from flock_ray.verify.candidate import Payloads
from flock_ray.verify.epoch import replay
from tests.cluster.plain_alliance import PlainAlliance, Play
from tests.cluster.test_replayed_candidate import Blobs
from tests.golden import simulated_config

pytestmark = pytest.mark.model

EPOCHS = 6
HISTORY = 2


def signs_of(factor: torch.Tensor, key: str) -> torch.Tensor:
    """1 and -1, by which an entry moves in the direction that helps."""
    return torch.randint(0, 2, factor.shape, generator=torch.Generator().manual_seed(len(key))) * 2.0 - 1


class DirectedEngine(SimulatedEngine):
    """A member goes on along the adapter so far, and moves a few entries of its own; each helps by itself."""

    def train(self, jobs: Sequence[SimulatedJob], tick: Tick = no_tick) -> list[Result]:
        results: list[Result] = []
        for job in jobs:
            random = torch.Generator().manual_seed(64 * job.member + job.epoch)
            moved = {}
            for key, factor in job.adapter.items():
                lengths = torch.randint(0, 2**10, factor.shape, generator=random) * GRID
                few = torch.rand(factor.shape, generator=random) < 0.2
                frozen = self._freeze_a and key.endswith(LORA_A)
                moved[key] = factor if frozen else 3 * factor + few * lengths * signs_of(factor, key)
            results.append(TrainOutcome(moved, [1.0] * len(job.batches), len(job.batches), 0.0))
        return results

    def losses(self, jobs: Sequence[LossJob], tick: Tick = no_tick) -> list[list[SequenceLoss]]:
        found = []
        for job in jobs:
            gain = sum(float((factor * signs_of(factor, key)).double().sum()) for key, factor in job.adapter.items())
            found.append([SequenceLoss(START - gain * (SLOPE + example.sample_id[0]), 100) for example in job.examples])
        return found


class DirectedBench(SimulatedBench):
    def _make_engine(self, rendezvous: Any) -> SimulatedEngine:
        return DirectedEngine(0.0, self.spec.lora.freeze_a)


class DirectedWorker(SimulatedWorker):
    workbench = DirectedBench


@pytest.fixture(autouse=True)
def torch_settings() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


class Pruned(Blobs):
    """A store that kept what a replay reads: no global adapter but the first."""

    def __init__(self, url: str, gone: set[bytes]) -> None:
        super().__init__(url)
        self._gone = gone

    def blob(self, digest: bytes, max_bytes: int) -> bytes | None:
        return None if digest in self._gone else super().blob(digest, max_bytes)


def begun(folder: Path, rule: str, freeze_a: bool = False, **parameters: int) -> Play:
    config = replace(
        simulated_config(),
        lora=LoraConfig(rank=4, freeze_a=freeze_a),
        alliance=AllianceConfig(num_members=12, num_voters=7, num_proposers=4, num_epochs=EPOCHS, force=True),
        mechanism=MechanismConfig(name="marginal", parameters={"history": HISTORY}),
        aggregation=AggregationConfig(rule, parameters),
        adversary=AdversaryConfig("sign_flip", members=[5]),
    )
    return PlainAlliance(folder, config, DirectedWorker).found(mechanism="marginal")


@pytest.mark.parametrize(
    ("rule", "freeze_a", "parameters"),
    [
        ("mean", False, {}),
        ("krum", False, {"num_malicious": 0}),
        ("geometric_median", False, {"arc": 1}),
        ("centered_clipping", False, {}),
        ("coordinate_median", True, {}),
        ("trimmed_mean", True, {"num_malicious": 0}),
    ],
)
def test_a_task_is_replayed_from_its_payloads(
    tmp_path: Path, rule: str, freeze_a: bool, parameters: dict[str, int]
) -> None:
    play = begun(tmp_path, rule, freeze_a, **parameters)
    gone: set[bytes] = set()
    whole: Any = Blobs(play.alliance.specs[0].store_url)
    pruned: Any = Pruned(play.alliance.specs[0].store_url, gone)
    payloads, looked_back = Payloads(pruned, play.state.terms), set[int]()
    while not play.state.finished:
        state = play.state
        record, bulletin = play.until_signing()
        replayed = replay(state, [Message.parse(signed.data) for signed in bulletin])
        assert replayed.record == record.data
        play.attest(record, bulletin)
        gone |= {play.state.adapter} - {state.terms.start_adapter}
        assert payloads.check(replayed) == sum(one.consensus is not None for one in replayed.proposals)
        assert replayed.following(play.state.previous_report) == play.state
        if replayed.accepted:
            looked_back.add(len(state.earlier_adapters))
            if state.earlier_adapters:
                forgotten = replace(replayed, state=replace(state, earlier_adapters=()))
                with pytest.raises(VerificationError, match=r"candidate (adapter|weights)"):
                    Payloads(whole, state.terms).check(forgotten)
    assert looked_back == {0, 1, 2}
