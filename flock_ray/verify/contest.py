"""One day of a contest replayed: from the state before it and its signed messages to the record and the next state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property

from flock_ray.errors import VerificationError
from flock_ray.protocol.contest_message import ContestKind, ContestMessage
from flock_ray.protocol.contest_state import ContestState, Earlier
from flock_ray.protocol.encoding import Json, canonical_json, parse_canonical, to_hex
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.message import SignedMessage
from flock_ray.protocol.state import Slash
from flock_ray.verify.accounting import Accounting, settle_accounts
from flock_ray.verify.compare import require, require_equal
from flock_ray.verify.contest_entries import DayMessages, Submission, enter_field, open_contest_message, stake_of
from flock_ray.verify.contest_numbers import faded, next_factor, product, raised, whole_weights
from flock_ray.verify.contest_race import Rung, outdoes, own_scores, race, ranked
from flock_ray.verify.draw import digest_of_reveals, seats_of, seed_after, seed_after_skip
from flock_ray.verify.payment import shares
from flock_ray.verify.report import Report, SigningDomain, merkle_root

_MOST_SLASHES = 16
_MAX_RECORD_BYTES = 1 << 26


@dataclass(frozen=True)
class DayReplay:
    """Everything that follows from the signed messages of one day."""

    state: ContestState
    messages: DayMessages
    submissions: Sequence[Submission]
    rungs: Sequence[Rung]
    ranking: Sequence[Submission]
    final_ranking: Sequence[Submission]
    validators: Mapping[int, tuple[int, int, bool]]
    rewards: Mapping[int, int]
    accounting: Accounting
    held: int

    @cached_property
    def reveals(self) -> dict[int, bytes]:
        """Preimages of the last rung."""
        return {voter: preimage for rung in self.rungs for voter, preimage in rung.reveals.items()}

    @property
    def adapter(self) -> bytes:
        """Hash of the leader's adapter; without one, of the last leader's."""
        leader = self.ranking[0].payload if self.ranking else None
        return leader or self.state.adapter

    @property
    def pool_left(self) -> int:
        """Wei of the pool, without what is held."""
        return self.accounting.pool_left - (self.held - self.state.held)

    @cached_property
    def next_seed(self) -> bytes:
        """Seed of the next day."""
        return seed_after(self.state.seed, digest_of_reveals(self.reveals))

    @cached_property
    def fields(self) -> dict[str, Json]:
        """The record as a JSON value."""
        state, money = self.state, self.accounting
        return {
            "schema": "flock_ray/contest_record/1",
            "task": to_hex(state.scope.task),
            "epoch": state.epoch,
            "seed": to_hex(state.seed),
            "next_seed": to_hex(self.next_seed),
            "previous_report": to_hex(state.previous_report),
            "previous_record": to_hex(state.previous_record),
            "changes": [[one.member, one.slots, one.epoch, one.leaves] for one in state.changes],
            "joined": [
                [member.account, member.slots, to_hex(member.chain_tip), member.stake, member.delegated]
                for member in state.members[state.num_before :]
            ],
            "voters": list(seats_of(state).voters),
            "messages": [[kind, member, to_hex(digest)] for kind, member, digest in self.messages.named],
            "submissions": [_submission(one) for one in self.submissions],
            "rungs": [_rung(rung) for rung in self.rungs],
            "ranking": [one.member for one in self.ranking],
            "final_ranking": [one.member for one in self.final_ranking],
            "validators": [[voter, *self.validators[voter]] for voter in sorted(self.validators)],
            "reveals": [[voter, to_hex(self.reveals[voter])] for voter in sorted(self.reveals)],
            "reveals_digest": to_hex(digest_of_reveals(self.reveals)),
            "adapter": to_hex(self.adapter),
            "rewards": [[member, self.rewards[member]] for member in sorted(self.rewards)],
            "slashes": [slash.json() for slash in money.slashes],
            "carried": [slash.json() for slash in money.carried],
            "removed": [[change.member, change.epoch] for change in money.removed],
            "members": [
                [number, after.stake, after.delegated, after.earned, after.slashed, dict(after.noted)]
                for number, (before, after) in enumerate(zip(state.members, money.members, strict=True))
                if after != before
            ],
            "pool_left": self.pool_left,
            "escrow": money.escrow,
            "held": self.held,
        }

    @cached_property
    def record(self) -> bytes:
        """The record's canonical bytes."""
        return canonical_json(self.fields)

    def report(self, domain: SigningDomain, relayer: bytes) -> Report:
        """The report that carries the record to the contract at `domain`; `relayer` is an account of 20 bytes."""
        state, task = self.state, self.state.scope.task
        leaves = [(member.account, member.earned) for member in self.accounting.members if member.earned]
        return Report(
            task=task,
            epoch=state.epoch,
            previous_report=state.previous_report,
            seed=state.seed,
            reveals_digest=digest_of_reveals(self.reveals),
            rewards_root=merkle_root(domain.leaf(task, account, wei) for account, wei in leaves),
            rewards_total=sum(wei for _, wei in leaves),
            slashes=tuple((slash.member, slash.amount) for slash in self.accounting.slashes),
            model_hash=self.adapter,
            record_hash=sha256(self.record),
            relayer=relayer,
        )

    def following(self, report_hash: bytes) -> ContestState:
        """The state after the day, once its report was signed."""
        money, known = self.accounting, {one.payload for one in self.state.earlier}
        gated = [one for one in self.submissions if any(state == "gated" for state, _, _ in one.steps)]
        new = []
        for one in sorted(gated, key=lambda one: one.number or 0):
            if one.payload and one.payload not in known:
                known.add(one.payload)
                new.append(Earlier(one.payload, one.member, self.state.epoch))
        return replace(
            self.state,
            members=money.members,
            epoch=self.state.epoch + 1,
            seed=self.next_seed,
            adapter=self.adapter,
            pool_left=self.pool_left,
            previous_report=report_hash,
            previous_record=sha256(self.record),
            carried=money.carried,
            roster=money.roster,
            escrow=money.escrow,
            leaving=(*self.state.leaving, *money.removed),
            changes=(),
            num_before=len(self.state.members),
            rows=(),
            final_rows=(),
            earlier=(*self.state.earlier, *new),
            held=self.held,
        )


def replay_day(state: ContestState, messages: Iterable[ContestMessage]) -> DayReplay:
    """Replay the day that `state` starts.

    Args:
        state: before the day, with its rows.
        messages: whose signatures hold, in any order.
    """
    sent = DayMessages.sort(messages)
    entered = enter_field(state, sent)
    rungs = race(state, sent, entered)
    chunk = [rung for rung in rungs if rung.complete and rung.name != "final"]
    last = [rung for rung in rungs if rung.complete and rung.name == "final"]
    _finish(state, entered.submissions, chunk, f"{rungs[-1].name if rungs else 'rung_1'}_audit")
    ranking, final_ranking = _ranking(state, entered.submissions, chunk), _ranking(state, entered.submissions, last)
    validators = _validators(state, rungs)
    income, paid = _income(state, ranking, final_ranking, validators)
    slashes = _slashes(state, sent, entered.submissions, rungs)
    lost = {slash.member for slash in (*state.carried, *slashes)[:_MOST_SLASHES]}
    now, notes, held = _held_back(state, income, lost)
    rewards = {**now, **paid}
    accounting = settle_accounts(state, rewards, slashes, notes, promises_more=False)
    return DayReplay(
        state, sent, entered.submissions, rungs, ranking, final_ranking, validators, rewards, accounting, held
    )


def check_day(state: ContestState, signed: Iterable[SignedMessage], domain: SigningDomain, claimed: bytes) -> DayReplay:
    """Replay a day from what its members signed, and compare the record that is claimed of it.

    Args:
        state: before the day, with its rows.
        signed: messages and signatures.
        domain: where signatures are valid.
        claimed: the record's bytes.

    Raises:
        VerificationError: a signature does not hold, or the record says something else; the text names the first thing.
    """
    replay = replay_day(state, [open_contest_message(one, state, domain) for one in signed])
    try:
        record = parse_canonical(claimed, _MAX_RECORD_BYTES)
    except ValueError as error:
        raise VerificationError(f"day {state.epoch}: the record is not canonical: {error}") from None
    require_equal(record, replay.fields, f"day {state.epoch}: record")
    require(claimed == replay.record, f"day {state.epoch}: the record has fields that no rule gives it")
    return replay


def skipped_day(state: ContestState) -> ContestState:
    """The state after a day that was abandoned."""
    return replace(state, epoch=state.epoch + 1, seed=seed_after_skip(state.seed), rows=(), final_rows=())


def _finish(state: ContestState, submissions: Sequence[Submission], rungs: Sequence[Rung], phase: str) -> None:
    """End every submission's way; the best copy of an original is paid if it outdoes it, other copies never."""
    left = [one for one in submissions if one.payload is not None and one.steps[-1][0] != "refused"]
    places = {payload: place for place, payload in enumerate(_placed(state, left, rungs))}
    own = {one.payload for one in left if one.copy_of is None and one.payload}
    paid_copies: dict[bytes, int] = {}
    for one in sorted(left, key=lambda one: (places.get(one.payload or b"", 0), one.member)):
        if not rungs:
            one.refuse(phase, "no_quorum")
            continue
        assert one.payload is not None
        if one.copy_of is not None:
            paid = paid_copies.get(one.copy_of, 0)
            one.unpaid = paid > 0 or not outdoes(state, rungs, one.payload, one.copy_of, own)
            paid_copies[one.copy_of] = paid + (not one.unpaid)
        if not one.out:
            one.steps.append(("ranked", phase, "copy" if one.unpaid else ""))


def _placed(state: ContestState, submissions: Sequence[Submission], rungs: Sequence[Rung]) -> list[bytes]:
    """Payloads from the last rung to the first, those that are not placed yet."""
    payloads = {one.payload for one in submissions if one.payload}
    order: list[bytes] = []
    for rung in reversed(rungs):
        order += [payload for payload in ranked(state, rung, payloads) if payload not in order]
    return order


def _ranking(state: ContestState, submissions: Sequence[Submission], rungs: Sequence[Rung]) -> list[Submission]:
    """Paid submissions in the order of pay, of the same bytes the first id."""
    standing = [one for one in submissions if one.steps[-1][0] in ("ranked", "eliminated") and not one.unpaid]
    owner: dict[bytes, Submission] = {}
    for one in sorted(standing, key=lambda one: one.number or 0):
        assert one.payload is not None
        owner.setdefault(one.payload, one)
    return [owner[payload] for payload in _placed(state, standing, rungs)]


def _validators(state: ContestState, rungs: Sequence[Rung]) -> dict[int, tuple[int, int, bool]]:
    """{validator: (work, mean distance, whether unpaid)}."""
    tallies: dict[int, tuple[int, int, list[int], bool]] = {}
    for rung in (rung for rung in rungs if rung.complete):
        distances: dict[int, list[int]] = {voter: [] for voter in rung.ballots}
        for payload, joint in rung.scores.items():
            for voter, own in own_scores(state, rung, payload).items():
                distances[voter].append(abs(own - joint))
        for voter, columns in rung.ballots.items():
            done, asked, before, off = tallies.get(voter, (0, 0, [], False))
            cells = rung.seats.voters.count(voter) * len(rung.places)
            tallies[voter] = (
                done + cells * (len(columns) - columns.count(None)),
                asked + cells * len(columns),
                before + distances[voter],
                off or voter in rung.failed,
            )
    by_stake = state.terms.rule == "mean"
    return {
        voter: (
            done * stake_of(state, voter) // asked if by_stake else done,
            sum(apart) // len(apart) if apart else 0,
            off or not apart,
        )
        for voter, (done, asked, apart, off) in sorted(tallies.items())
    }


def _income(
    state: ContestState,
    ranking: Sequence[Submission],
    final_ranking: Sequence[Submission],
    validators: Mapping[int, tuple[int, int, bool]],
) -> tuple[dict[int, int], dict[int, int]]:
    """({node: wei}, {validator: wei}) of the day."""
    terms, values = state.terms, state.terms.mechanism_parameters
    reserve = terms.pool * values["end_share_bp"] // 10_000
    budget = max(0, state.pool_left - reserve) // (terms.num_epochs - state.epoch + 1)
    end = min(reserve, state.pool_left - budget) if final_ranking else 0
    by_nodes = sum(stake_of(state, number) for number, one in enumerate(state.members) if one.slots == 0)
    by_all = sum(stake_of(state, number) for number in range(len(state.members)))

    def part(amount: int, stake: int) -> int:
        floor_bp = values["pool_floor_bp"]
        return amount * (floor_bp * by_all + (10_000 - 2 * floor_bp) * stake) // (10_000 * by_all) if by_all else 0

    income: dict[int, int] = {}
    for amount, order in ((budget, ranking), (end, final_ranking)):
        for node, wei in shares(part(amount, by_nodes), _by_rank(state, order)).items():
            income[node] = income.get(node, 0) + wei
    weights = whole_weights(
        {
            voter: product(faded(values["distance_rate"], distance), raised(work, values["validator_exponent_bp"]))
            for voter, (work, distance, unpaid) in validators.items()
            if not unpaid
        }
    )
    best = sorted(weights, key=lambda voter: (-weights[voter], voter))[: values["top_validators"]]
    for_validators = part(budget, by_all - by_nodes) + part(end, by_all - by_nodes)
    return income, shares(for_validators, {voter: weights[voter] for voter in best})


def _by_rank(state: ContestState, order: Sequence[Submission]) -> dict[int, int]:
    values = state.terms.mechanism_parameters
    factor, weights = Decimal(1), {}
    for one in order[: values["top_nodes"]]:
        weights[one.member] = product(factor, raised(stake_of(state, one.member), values["node_exponent_bp"]))
        factor = next_factor(factor, values["rank_ratio"])
    return whole_weights(weights)


def _slashes(
    state: ContestState, sent: DayMessages, submissions: Sequence[Submission], rungs: Sequence[Rung]
) -> list[Slash]:
    full, small = state.terms.slash_fraction_bp, state.terms.mechanism_parameters["absence_bp"]
    why: dict[int, tuple[str, int]] = {}
    gate = {member for member in sent.members(ContestKind.GATE) if sent.only(ContestKind.GATE, member)}
    for seats, present in [(seats_of(state), gate), *((rung.seats, set(rung.ballots)) for rung in rungs)]:
        if seats.held_by(present) >= seats.quorum:
            why |= {voter: ("absent", small) for voter in seats.voters if voter not in present}
    why |= {voter: ("audited", full) for rung in rungs for voter, proved in rung.failed.items() if proved}
    why |= {one.member: ("malformed", full) for one in submissions if one.steps[-1][2] in ("malformed", "not_finite")}
    why |= {member: ("equivocated", full) for member in sent.contradicting}
    return [
        Slash(member, state.members[member].stake * why[member][1] // 10_000, why[member][0]) for member in sorted(why)
    ]


def _held_back(
    state: ContestState, income: Mapping[int, int], lost: set[int]
) -> tuple[dict[int, int], dict[int, dict[str, int]], int]:
    """({node: wei paid now}, changed notes, wei held in all after the day)."""
    last = state.epoch == state.terms.num_epochs
    now, notes, in_all = {}, {}, state.held
    for number, member in enumerate(state.members):
        before, earned = member.noted.get("vested", 0), income.get(number, 0)
        back = 0 if last else earned * state.terms.mechanism_parameters["vested_bp"] // 10_000
        kept = 0 if number in lost else before
        paid = earned - back + (kept if last else 0)
        after = back + (0 if last else kept)
        if paid:
            now[number] = paid
        if after != before:
            notes[number] = {"vested": after} if after else {}
        in_all += after - before
    return now, notes, in_all


def _submission(one: Submission) -> Json:
    return {
        "member": one.member,
        "number": one.number,
        "payload": to_hex(one.payload) if one.payload else None,
        "copy_of": to_hex(one.copy_of) if one.copy_of else None,
        "unpaid": one.unpaid,
        "steps": [list(step) for step in one.steps],
    }


def _rung(rung: Rung) -> Json:
    return {
        "name": rung.name,
        "seed": to_hex(rung.seed),
        "voters": list(rung.seats.voters),
        "contenders": [to_hex(payload) for payload in rung.contenders],
        "rows": rung.places,
        "counted": sorted(rung.ballots),
        "complete": rung.complete,
        "audited": rung.audited,
        "failed": [[voter, proved] for voter, proved in rung.failed.items()],
        "scores": [[to_hex(payload), score] for payload, score in rung.scores.items()],
        "eliminated": [[to_hex(payload), *why] for payload, why in rung.eliminated.items()],
    }
