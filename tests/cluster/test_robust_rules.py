"""Epochs under robust rules, played on the real epoch loop with simulated training, and replayed from their records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.simulated import SimulatedWorker
from flock_ray.adversary.behaviour import Behaviour, Context
from flock_ray.adversary.registry import BEHAVIOURS
from flock_ray.aggregation import geometric_median
from flock_ray.config import AdversaryConfig, AggregationConfig, AllianceConfig, Config, LoraConfig
from flock_ray.errors import VerificationError
from flock_ray.lora.serialization import LORA_A, LORA_B, Adapter
from flock_ray.protocol.message import Message, SignedMessage
from flock_ray.protocol.record import Record
from flock_ray.verify.candidate import Payloads
from flock_ray.verify.epoch import Replay, replay
from tests.cluster.plain_alliance import PlainAlliance, Play
from tests.cluster.test_replayed_candidate import Blobs
from tests.golden import simulated_config

pytestmark = pytest.mark.model

CHEAT = 6


class Huge(Behaviour):
    """Sends an update ten thousand times as long as an honest one, the other way."""

    def update(self, context: Context, update: Adapter) -> Adapter:
        return {key: factor * (-100 if key.endswith(LORA_B) else 100) for key, factor in update.items()}


class MovesA(Behaviour):
    """Sends an update of A too."""

    def update(self, context: Context, update: Adapter) -> Adapter:
        return {key: factor + 2.0**-20 * key.endswith(LORA_A) for key, factor in update.items()}


@pytest.fixture(autouse=True)
def behaviours(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(BEHAVIOURS, "huge", Huge)
    monkeypatch.setitem(BEHAVIOURS, "moves_a", MovesA)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def made(folder: Path, rule: str, attack: str = "huge", freeze_a: bool = False, **parameters: int) -> PlainAlliance:
    config: Config = replace(
        simulated_config(),
        lora=LoraConfig(rank=4, freeze_a=freeze_a),
        alliance=AllianceConfig(
            num_members=11, num_voters=4, num_proposers=7, num_epochs=2, band_floor=1, band_ceiling=10**6, force=True
        ),
        aggregation=AggregationConfig(rule, parameters),
        adversary=AdversaryConfig(attack, members=[CHEAT]),
    )  # fmt: skip
    return PlainAlliance(folder, config, SimulatedWorker)


def with_cheat(alliance: PlainAlliance, mechanism: str = "open") -> Play:
    """A task in whose first epoch the dishonest member proposes."""
    while CHEAT not in (play := alliance.found(mechanism=mechanism)).first_roles.proposers:
        pass
    return play


def played(play: Play) -> Replay:
    """The first epoch, signed by a quorum, as the verifier derives it."""
    record, bulletin = play.until_signing()
    replayed = replay(play.state, [Message.parse(signed.data) for signed in bulletin])
    assert replayed.record == record.data
    play.attest(record, bulletin)
    return replayed


def payloads(play: Play, **terms: Any) -> Payloads:
    folder: Any = Blobs(play.alliance.specs[0].store_url)
    return Payloads(folder, replace(play.alliance.nodes[0]._spec.terms, **terms))


@pytest.mark.parametrize(
    ("rule", "parameters"),
    [
        ("krum", {}),
        ("multi_krum", {"num_malicious": 2}),
        ("geometric_median", {}),
        ("geometric_median", {"arc": 1, "nnm": 1, "num_malicious": 2}),
        ("centered_clipping", {}),
    ],
)
def test_an_epoch_under_a_rule_is_signed_by_all_and_replayed(
    tmp_path: Path, rule: str, parameters: dict[str, int]
) -> None:
    play = with_cheat(made(tmp_path, rule, **parameters))
    replayed = played(play)
    weights = dict(replayed.candidate.weights)
    assert replayed.accepted and len(weights) == 7 and replayed.candidate.adapter is not None
    heaviest = max(weights.values())
    assert weights[CHEAT] < heaviest / 50 or (rule == "centered_clipping" and weights[CHEAT] < heaviest)
    if "krum" in rule:
        assert sum(map(bool, weights.values())) == (1 if rule == "krum" else 5)
        paid = {member for member in replayed.rewards if member not in play.first_roles.voters}
        assert paid == {member for member, weight in weights.items() if weight}
    assert payloads(play).check(replayed) == 7


@pytest.mark.parametrize(
    ("rule", "terms"),
    [
        ("krum", {"rule": "multi_krum"}),
        ("multi_krum", {"rule_parameters": {"num_malicious": 2, "arc": 0, "nnm": 0}}),
        ("multi_krum", {"rule": "mean", "rule_parameters": {}}),
        ("geometric_median", {"rule": "centered_clipping"}),
        ("geometric_median", {"rule_parameters": {"num_malicious": 1, "arc": 0, "nnm": 1}}),
        ("centered_clipping", {"rule_parameters": {"num_malicious": 1, "arc": 1, "nnm": 0}}),
    ],
)
def test_weights_of_another_rule_or_parameter_are_noticed(tmp_path: Path, rule: str, terms: dict[str, Any]) -> None:
    """What the members signed was made by the rule of the terms."""
    play = with_cheat(made(tmp_path, rule))
    replayed = played(play)
    assert payloads(play).check(replayed) == 7
    changed = replace(replayed, state=replace(replayed.state, terms=replace(replayed.state.terms, **terms)))
    with pytest.raises(VerificationError, match="candidate weights"):
        payloads(play, **terms).check(changed)


def test_a_formula_that_was_changed_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play = with_cheat(made(tmp_path, "geometric_median"))
    replayed = played(play)
    monkeypatch.setattr(geometric_median, "STEPS", 1)
    with pytest.raises(VerificationError, match="candidate weights"):
        payloads(play).check(replayed)


def test_the_weights_of_one_who_sends_another_basis_are_checked_too(tmp_path: Path) -> None:
    play = with_cheat(made(tmp_path, "multi_krum"))
    replayed = played(play)
    named = replace(replayed.candidate, weights=tuple((member, 1) for member, _ in replayed.candidate.weights))
    with pytest.raises(VerificationError, match="candidate weights"):
        payloads(play).check(replace(replayed, candidate=named))


@pytest.mark.parametrize("mechanism", ["open", "flock"])
def test_with_too_few_updates_the_adapter_stays_and_the_run_goes_on(tmp_path: Path, mechanism: str) -> None:
    """Two of seven proposers open nothing: Krum with f = 2 needs all."""
    play = made(tmp_path, "krum", num_malicious=2).found(mechanism=mechanism)
    silent = set(play.first_roles.proposers[:2])

    def withheld(phase: str, messages: list[SignedMessage]) -> list[SignedMessage]:
        return [one for one in messages if phase != "publish" or Message.parse(one.data).member not in silent]

    record = play.epoch(withheld)
    statuses = {proposal.member: proposal.status for proposal in record.proposals}
    assert {member for member, status in statuses.items() if status == "accepted"} == set(statuses) - silent
    assert record.candidate.candidate is None and not record.accepted and not record.slashes
    assert record.adapter == play.first_adapter
    following: Record = play.epoch()
    assert following.accepted and following.adapter != play.first_adapter


@pytest.mark.parametrize("rule", ["coordinate_median", "trimmed_mean", "geometric_median", "mean"])
def test_with_a_frozen_only_b_travels_and_moves(tmp_path: Path, rule: str) -> None:
    play = with_cheat(made(tmp_path, rule, attack="sign_flip", freeze_a=True))
    replayed = played(play)
    assert replayed.accepted and payloads(play).check(replayed) == 7
    bench = play.alliance.nodes[0]._bench
    before, after = (bench.updates.adapter(digest) for digest in (play.first_adapter, play.state.adapter))
    for key, factor in after.items():
        assert torch.equal(factor, before[key]) == key.endswith(LORA_A)
    payload = next(one.payload for one in replayed.proposals if one.payload)
    assert b"lora_A" not in bench.updates.store.get(payload, 1 << 20)


def test_an_update_that_moves_a_frozen_a_is_malformed_and_slashed(tmp_path: Path) -> None:
    play = with_cheat(made(tmp_path, "trimmed_mean", attack="moves_a", freeze_a=True))
    replayed = played(play)
    assert {one.member: one.status for one in replayed.proposals}[CHEAT] == "malformed"
    assert [slash.member for slash in replayed.accounting.slashes] == [CHEAT]
    assert replayed.accepted and CHEAT not in dict(replayed.candidate.weights)
    assert payloads(play).check(replayed) == 6
    with pytest.raises(VerificationError, match=r"of member \d+, judged accepted, is malformed"):
        payloads(play, wire_format_parameters={"max_abs": 64}).check(replayed)
