from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flock_ray.aggregation.aggregate import aggregate
from flock_ray.aggregation.mean import Mean
from flock_ray.aggregation.registry import RULES
from flock_ray.aggregation.rule import Rule
from flock_ray.aggregation.start import Start
from flock_ray.cluster.ballot_builder import BallotBuilder
from flock_ray.cluster.worker import Worker
from flock_ray.config import CohortScope
from flock_ray.errors import DataError, KeyMissingError, ModelError, ProtocolError, TrainingError
from flock_ray.lora.serialization import adapter_hash
from flock_ray.protocol.ballot import Check, Score
from flock_ray.protocol.epoch import opened_manifests
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.mechanisms import MECHANISMS
from flock_ray.protocol.message import Kind, Message
from flock_ray.store.blob_store import BlobStore
from flock_ray.training.stacked_engine import StackedEngine
from tests.aggregation.rules import Collected, WithoutLargest
from tests.cluster.plain_alliance import PHASES, PlainAlliance, load_node, tiny_config

pytestmark = pytest.mark.model


class Counted:
    """Jobs of the engine, counted while it works as ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained = 0
        self.evaluated: Counter[tuple[bytes, int]] = Counter()
        train, losses = StackedEngine.train, StackedEngine.losses

        def counted_train(engine: StackedEngine, jobs: Any, *args: Any) -> Any:
            self.trained += len(jobs)
            return train(engine, jobs, *args)

        def counted_losses(engine: StackedEngine, jobs: Any, *args: Any) -> Any:
            self.evaluated.update((adapter_hash(job.adapter), id(job.examples)) for job in jobs)
            return losses(engine, jobs, *args)

        monkeypatch.setattr(StackedEngine, "train", counted_train)
        monkeypatch.setattr(StackedEngine, "losses", counted_losses)


def test_an_epoch_computes_nothing_twice(alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch) -> None:
    """V x P scores, and the candidate on every member's part: the voters' hosts in ballot B, the others at the end."""
    play = alliance.found(4_000)
    counted = Counted(monkeypatch)
    record = play.epoch()
    voters, proposers = len(set(record.roles.voters)), len(record.roles.proposers)
    assert record.accepted and len(record.candidate.weights) > 1
    assert counted.trained == proposers
    assert counted.evaluated.total() == voters * proposers + len(play.state.members)
    assert set(counted.evaluated.values()) == {1}

    monkeypatch.undo()
    counted = Counted(monkeypatch)
    second = play.epoch()
    assert record.adapter not in {adapter for adapter, _ in counted.evaluated}  # known from the epoch before
    twice = {adapter for (adapter, _), times in counted.evaluated.items() if times > 1}
    assert twice <= ({second.adapter} if len(second.candidate.weights) == 1 else set())  # the next test tells why


def test_a_single_accepted_update_is_measured_as_a_candidate_too(
    alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its adapter was scored in ballot A, but in other batches: what a batch is made of shapes the last bits."""
    play = alliance.found()
    hidden = set(play.state.roles.proposers[1:])
    counted = Counted(monkeypatch)
    record = play.epoch(
        lambda phase, sent: [m for m in sent if phase != "publish" or Message.parse(m.data).member not in hidden]
    )
    assert record.accepted and len(record.candidate.weights) == 1
    assert counted.evaluated.total() == len(set(record.roles.voters)) + len(play.state.members)


@pytest.mark.parametrize(("mechanism", "scores_candidate"), [("flock", True), ("open", False)])
def test_a_mechanism_is_asked_for_no_score_that_it_does_not_need(
    alliance: PlainAlliance,
    monkeypatch: pytest.MonkeyPatch,
    mechanism: str,
    scores_candidate: bool,
) -> None:
    play = alliance.found(mechanism=mechanism)
    counted = Counted(monkeypatch)
    record = play.epoch()
    assert record.accepted
    assert not any(one.consensus for one in record.proposals)
    assert (record.candidate.consensus is not None) == scores_candidate
    assert counted.evaluated.total() == len(play.state.members)  # the evaluation, which the voters may have done


def use_rule(rule: type[Rule], alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rule under the name of the mean; what earlier tasks here fetched and combined is forgotten."""
    monkeypatch.setitem(RULES, "mean", rule)
    for node in alliance.nodes:
        node._bench.end_epoch([alliance.reports[0].adapter])


@pytest.mark.parametrize("mechanism", ["open", "flock", "marginal1"])
def test_a_rule_with_a_running_sum_and_one_without_give_the_same_record(
    alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    seed = 3_000
    streamed = alliance.found(seed, mechanism).epoch()
    use_rule(Collected, alliance, monkeypatch)
    assert len(streamed.candidate.weights) > 1
    assert alliance.found(seed, mechanism).epoch().data == streamed.data


@pytest.mark.parametrize("mechanism", ["open", "flock", "marginal1"])
def test_an_update_of_weight_0_is_not_in_the_candidate_and_not_paid_for(
    alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    use_rule(WithoutLargest, alliance, monkeypatch)
    for _ in range(10):  # weights as random as these make some candidates worse than none
        play = alliance.found(mechanism=mechanism)
        record = play.epoch()
        if record.accepted and len(record.candidate.weights) > 1:
            break
    weights = dict(record.candidate.weights)
    [left_out] = [member for member, weight in weights.items() if not weight]
    assert record.accepted and record.adapter != play.first_adapter
    assert left_out not in {slash.member for slash in record.slashes}
    assert set(weights) == {proposal.member for proposal in record.proposals if proposal.status == "accepted"}
    assert set(weights) - set(record.rewards) == {left_out}


@pytest.mark.parametrize("accepted", [True, False])
def test_a_voter_does_not_sign_for_weights_that_it_did_not_compute(
    alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch, accepted: bool
) -> None:
    """A quorum that names the right candidate decides with the weights who is paid, or slashed where it is rejected."""
    play = alliance.found(mechanism="flock")
    computed = BallotBuilder.candidates

    def lying(*args: Any) -> tuple[tuple[bytes, ...], tuple[tuple[int, int], ...]]:
        candidate, ((member, _), *others) = computed(*args)
        return candidate, ((member, 0), *others)

    with monkeypatch.context() as patch:
        patch.setattr(BallotBuilder, "candidates", lying)
        patch.setattr("flock_ray.cluster.scorer.paired_score", lambda *_: Score(5 if accepted else -5, 1))
        record, bulletin = play.until_signing()
    assert record.accepted == accepted and 0 in dict(record.candidate.weights).values()
    assert bool(record.slashes) != accepted
    assert play.signatures(record, bulletin) == {}
    assert set(play.refusals().values()) == {"the candidate or its weights are not those computed here"}


def test_a_sum_that_counted_what_was_not_accepted_is_taken_again(alliance: PlainAlliance) -> None:
    """Voters of a quorum's minority saw more payloads than were accepted."""
    play = alliance.found(mechanism="open")
    node = alliance.nodes[alliance.node_of(play.state.roles.voters[0])]
    for phase in ("train", "acknowledge", "publish"):
        play.exchange(phase)
    payloads = [
        manifest.payload for manifest in opened_manifests(play.state, node._inbox(play.bulletins["publish"])).values()
    ]
    bench, start, asked = node._bench, play.state.adapters, MECHANISMS["open"]
    assert set(bench.aggregator.check_and_add(start, payloads, asked).values()) == {Check.VALID}
    fewer, weights = bench.aggregator.combine(start, payloads[:2], asked)
    updates = [update for _, update in bench.updates.updates(payloads[:2], keep=True)]
    expected = aggregate(Start(bench.updates.adapter(start[0])), Mean({}), updates)  # type: ignore[arg-type]
    assert weights == expected.weights == (1, 1) and fewer == (adapter_hash(expected.adapter),)  # type: ignore[arg-type]
    assert bench.aggregator.combine(start, [*payloads, sha256(b"nowhere")], asked) == ((), ())


def test_an_update_that_is_gone_before_it_is_summed_makes_no_candidate(
    alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule without a running sum needs the updates a second time."""
    use_rule(Collected, alliance, monkeypatch)
    play = alliance.found(mechanism="open")
    node = alliance.nodes[alliance.node_of(play.state.roles.voters[0])]
    for phase in ("train", "acknowledge", "publish", "commit_ballots_a"):
        play.exchange(phase)
    inbox = node._inbox(play.bulletins["publish"])
    payloads = [manifest.payload for manifest in opened_manifests(play.state, inbox).values()]
    blob = BlobStore(alliance.specs[0].store_url).path_of(payloads[1])
    data = blob.read_bytes()
    blob.unlink()
    assert node._bench.aggregator.combine(play.state.adapters, payloads, MECHANISMS["open"]) == ((), ())
    blob.write_bytes(data)
    candidate, weights = node._bench.aggregator.combine(play.state.adapters, payloads, MECHANISMS["open"])
    assert candidate and weights == (1, 1, 1)


def test_an_honest_update_beyond_the_bound_of_the_terms_ends_the_run(
    alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent, it would cost the member its stake."""
    trainer, start = alliance.nodes[0]._bench.trainer, alliance.reports[0].adapter
    monkeypatch.setattr(trainer._updates.wire_format, "max_abs", 1e-3)
    with pytest.raises(
        TrainingError, match=r"silo \d .* above wire_format\.parameters\.max_abs = 0\.001; lower training"
    ):
        trainer.train(alliance.specs[0].silos[:1], 77, start)
    monkeypatch.undo()
    trainer.forget()


def test_two_epochs_end_with_a_better_adapter_in_the_store(alliance: PlainAlliance) -> None:
    play = alliance.found()
    records = [play.epoch() for _ in range(2)]
    assert [record.epoch for record in records] == [1, 2] and play.state.finished and play.dropped == []
    assert set(play.losses()) == set(play.first_losses) == set(range(7))
    assert sum(play.losses().values()) < sum(play.first_losses.values())
    data = BlobStore(alliance.specs[0].store_url).get(play.state.adapter, 1 << 20)
    assert sha256(data) == play.state.adapter == records[-1].adapter


def test_the_order_of_arrival_changes_nothing(alliance: PlainAlliance) -> None:
    seed = 1_000
    plain = alliance.found(seed).epoch()
    shuffler = random.Random(3)

    def shuffle(phase: str, messages: list[Any]) -> list[Any]:
        shuffled = messages * 2  # a message may come twice
        shuffler.shuffle(shuffled)
        return shuffled

    assert alliance.found(seed).epoch(shuffle).data == plain.data


def test_one_node_or_two_give_the_same_bytes(alliance: PlainAlliance, tiny_model_dir: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_model_dir)
    alone = PlainAlliance(tmp_path, replace(config, cluster=replace(config.cluster, nodes=1)))
    assert len(alone.nodes) == 1 and len(alliance.nodes) == 2
    seed = 2_000
    ours, theirs = alone.found(seed), alliance.found(seed)
    assert [ours.epoch().data, ours.epoch().data] == [theirs.epoch().data, theirs.epoch().data]
    assert ours.state == theirs.state


class Restarted:
    """An epoch played to its end, to ask new processes about."""

    def __init__(self, alliance: PlainAlliance) -> None:
        self.alliance, self.play = alliance, alliance.found()
        self.state = self.play.state
        self.record, self.bulletin = self.play.until_signing()
        self.signatures = self.play.signatures(self.record, self.bulletin)
        self.attestation, _ = self.play.coordinator.attest(self.record, self.signatures)

    def node(self, index: int) -> Worker:
        """The node as a process started now on the same folder has it."""
        node, report = load_node(self.alliance.specs[index])
        assert report == self.alliance.reports[index]
        node.begin(replace(self.play.task, state=self.state))
        return node


@pytest.fixture(scope="module")
def restarted(alliance: PlainAlliance) -> Restarted:
    return Restarted(alliance)


@pytest.mark.parametrize("phase", PHASES)
def test_a_node_restarted_before_a_phase_gives_the_same_messages(restarted: Restarted, phase: str) -> None:
    play = restarted.play
    voter_node = restarted.alliance.node_of(restarted.state.roles.voters[0])
    proposer_node = restarted.alliance.node_of(restarted.state.roles.proposers[0])
    index = proposer_node if phase in ("train", "publish") else voter_node
    messages = getattr(restarted.node(index), phase)(*play.arguments(phase)).messages
    assert messages == play.results[phase][index].messages
    assert {Message.parse(message.data).kind for message in messages} == {PHASES[phase]}


def test_a_node_restarted_before_signing_gives_the_same_signatures_and_losses(restarted: Restarted) -> None:
    for index in range(len(restarted.alliance.nodes)):
        node = restarted.node(index)
        hosted = set(restarted.alliance.specs[index].silos)
        expected = {voter: one for voter, one in restarted.signatures.items() if voter in hosted}
        assert node.sign(restarted.record.data, restarted.bulletin).signatures == expected
        losses = node.advance(restarted.attestation, restarted.bulletin).losses
        assert set(losses) == hosted and node._state.epoch == 2


def test_a_restarted_voter_still_refuses_what_it_refused(restarted: Restarted) -> None:
    voter = restarted.state.roles.voters[0]
    node = restarted.node(restarted.alliance.node_of(voter))
    rest = tuple(m for m in restarted.bulletin if Message.parse(m.data).member != voter)
    result = node.sign(restarted.record.data, rest)
    assert result.signatures == {}
    told = [fields["why"] for kind, fields in result.events if fields["member"] == voter]
    assert told == ["the messages lack this voter's own acknowledgement"]


def test_an_attestation_without_a_quorum_moves_no_node_on(alliance: PlainAlliance) -> None:
    play = alliance.found()
    record, bulletin = play.until_signing()
    attestation, _ = play.coordinator.attest(record, play.signatures(record, bulletin))
    two = dict(list(attestation.signatures.items())[:2])
    for node in alliance.nodes:
        with pytest.raises(ProtocolError, match="epoch 1"):
            node.advance(replace(attestation, signatures=two), bulletin)
        assert node._state == play.state


def test_a_commitment_that_came_after_the_reveal_is_not_signed_for(alliance: PlainAlliance) -> None:
    """A voter that could commit late would commit to what the others revealed."""
    play = alliance.found()
    for phase in PHASES:
        play.exchange(phase)
        if phase == "commit_ballots_a":
            late = (Kind.BALLOT_A_COMMITMENT, play.state.roles.voters[0])
            seen = {m: Message.parse(m.data) for m in play.bulletins[phase]}
            play.bulletins[phase] = tuple(m for m, said in seen.items() if (said.kind, said.member) != late)
    record, bulletin = play.coordinator.tally()
    assert play.signatures(record, bulletin) == {}
    assert set(play.refusals().values()) == {"a ballot was committed to after others were revealed"}


def test_a_voter_does_not_sign_what_its_second_opinion_contradicts(
    alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake that all nodes and the committee share is seen by the other implementation."""
    play = alliance.found()
    monkeypatch.setattr("flock_ray.protocol.epoch.next_seed", lambda seed, digest: digest)
    record, bulletin = play.until_signing()
    assert play.signatures(record, bulletin) == {}
    assert set(play.refusals().values()) == {"the second opinion comes to another record"}
    assert set(play.refusals()) == set(play.state.roles.voters)


def test_the_store_probe_goes_both_ways(alliance: PlainAlliance) -> None:
    store = BlobStore(alliance.specs[0].store_url)
    store.probe_write("ab12")
    for index, node in enumerate(alliance.nodes):
        node.probe("ab12")
        store.probe_read(f"ab12{index:04x}")


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"model": {"path": "nowhere"}}, ModelError, "nowhere"),
        ({"model": {"source": "warehouse"}}, ModelError, "packaged, folder or hub"),
        ({"lora": {"target_modules": ("q_projj",)}}, ModelError, "q_projj; the model has down_proj, gate_proj"),
        ({"data": {"packages": ("json",)}}, DataError, "none for member 1"),
        ({"data": {"packages": ("json", "no_such_package", "dbm")}}, DataError, "no package 'no_such_package'"),
        ({"data": {"kind": "parquet"}}, DataError, "stdlib_code, jsonl"),
        ({"data": {"heldout_tokens": 10**9}}, DataError, "too small"),
        ({"embedded": False}, KeyMissingError, "FLOCK_RAY_MEMBER_0_KEY"),
    ],
)
def test_what_a_node_cannot_load_is_told(
    alliance: PlainAlliance, tmp_path: Path, change: dict[str, Any], error: type[Exception], told: str
) -> None:
    spec = replace(alliance.specs[0], state_dir=str(tmp_path), hosts={0: (0, 1)})
    for name, value in change.items():
        spec = replace(spec, **{name: replace(getattr(spec, name), **value) if isinstance(value, dict) else value})
    with pytest.raises(error) as caught:
        load_node(spec)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_only_rank_0_holds_keys(alliance: PlainAlliance) -> None:
    node = Worker(alliance.specs[0], 1)
    report = node.load("localhost", 0, 1)
    assert report.accounts == {} and report.adapter == alliance.reports[0].adapter


def test_cohorts_change_rounding_only(alliance: PlainAlliance, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Members that train and score alone end where those of one batch do, up to what floating point leaves."""
    config = tiny_config(tiny_model_dir)
    solo = PlainAlliance(tmp_path, replace(config, training=replace(config.training, cohort=CohortScope.solo)))
    start = alliance.reports[0].adapter
    largest = 0.0
    for ours, theirs in zip(alliance.nodes, solo.nodes, strict=True):
        members = ours._spec.silos
        together, alone = (node._bench.trainer.train(members, 9, start) for node in (ours, theirs))
        for member in members:
            for key, factor in together[member].delta.items():
                largest = max(largest, float(factor.abs().max()))
                assert torch.allclose(factor, alone[member].delta[key], atol=1e-4)
        ours_losses, theirs_losses = (node._bench.scorer.evaluate(members, start) for node in (ours, theirs))
        assert ours_losses == pytest.approx(theirs_losses, rel=1e-6)
    assert largest > 1e-2
