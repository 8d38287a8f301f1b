"""One rung of a day's race: sealed ballots of row losses, their audit, the joint scores, and who is eliminated.

Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) with a band: a submission leaves only if the seats'
median of paired differences over common rows says that it is worse than the last one kept, so that no minority of the
seats eliminates anybody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flock_ray.protocol.contest_consensus import Voice, consensus_score, lower_median
from flock_ray.protocol.contest_message import BallotBody, ContestInbox, ContestKind, RescoreBody
from flock_ray.protocol.contest_scores import WORST, Difference, Row, paired_difference, score
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.encoding import canonical_json, from_hex
from flock_ray.protocol.hashing import ZERO, keccak, sha256, tag, tagged, word
from flock_ray.protocol.message import CommitmentBody
from flock_ray.protocol.roles import Roles, draw_seats, roles
from flock_ray.protocol.seed import reveal_matches
from flock_ray.protocol.verdict import band

Column = tuple[int, ...] | None
"""A contender's losses in one ballot, micro-nats a row; None where the validator could not get its payload."""


@dataclass(frozen=True)
class Rung:
    """What a rung's validators are asked.

    Attributes:
        name: `rung_1`, …, or `final` on set B.
        seed: draws the committee.
        contenders: payloads, in the order of a ballot's columns; references of copies are among them.
        rows: in the order of a column's losses.
        places: of these rows in the day's chunk, or in set B.
        reveals: whether its ballots reveal the preimages for the next day's seed.
    """

    name: str
    seed: bytes
    contenders: tuple[bytes, ...]
    rows: tuple[Row, ...]
    places: tuple[int, ...]
    reveals: bool

    def kind(self, what: str) -> ContestKind:
        """Kind of its messages: `commitment`, `ballot` or `rescore`."""
        return ContestKind(f"{self.name}_{what}")

    def committee(self, state: ContestState) -> Roles:
        """Its validators, drawn from the slots as the contract draws the day's committee."""
        return roles(self.seed, state.scope.task, state.epoch, state.slot_owners, state.terms.num_voters, 0)


def contenders_digest(contenders: Sequence[bytes]) -> bytes:
    """What a ballot says that its columns are about."""
    return keccak(tag("flock_ray/contest/contenders/1") + b"".join(contenders))


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Root of a binary tree over leaves of 32 bytes in their order; an odd node moves up as it is; none give zero."""
    level = list(leaves)
    while len(level) > 1:
        pairs = [
            tagged("flock_ray/contest/node/1", one, other) for one, other in zip(level[::2], level[1::2], strict=False)
        ]
        level = pairs + level[2 * len(pairs) :]
    return level[0] if level else ZERO


def rows_root(columns: Sequence[Column], num_rows: int) -> bytes:
    """Merkle root of a ballot: a leaf per row with every contender's loss on it, so that single rows can be shown."""
    return merkle_root(
        [
            tagged(
                "flock_ray/contest/row/1",
                row,
                sha256(canonical_json([None if column is None else column[row] for column in columns])),
            )
            for row in range(num_rows)
        ]
    )


def rung_commitment(
    task: bytes, day: int, member: int, rung: Rung, columns: Sequence[Column], salt: bytes, reveal: bytes
) -> bytes:
    """What a validator commits to before anybody opens a ballot; `reveal` is zero where the ballot has none."""
    root = rows_root(columns, len(rung.rows))
    contenders = contenders_digest(rung.contenders)
    name = sha256(rung.name.encode())
    return tagged("flock_ray/contest/ballot/1", task, day, member, name, contenders, root, salt, reveal)


@dataclass(frozen=True)
class Eliminated:
    """Why a contender left: by how much it was worse than the last one kept, and the band, micro-nats a token."""

    difference: int
    band: int


@dataclass(frozen=True)
class RungResult:
    """What came of a rung.

    Attributes:
        rung: what was asked.
        seats: its committee.
        ballots: {validator: columns} of the ballots that count.
        reveals: {validator: preimage} of the last rung's ballots.
        complete: whether a quorum of seats counts; without one nothing below is known.
        audited: positions of the rows that the seed chose to be scored again where a ballot is off.
        failed: {validator: whether a quorum confirmed it by scoring again} of ballots outside the tolerance.
        scores: {payload: joint score} of the contenders that a quorum of seats scored.
        eliminated: {payload: why}.
        next_seed: of whatever follows.
        worst: the score of a contender without a finite loss.
    """

    rung: Rung
    seats: Roles
    ballots: Mapping[int, tuple[Column, ...]]
    reveals: Mapping[int, bytes]
    complete: bool
    next_seed: bytes
    worst: int
    audited: tuple[int, ...] = ()
    failed: Mapping[int, bool] = field(default_factory=dict)
    scores: Mapping[bytes, int] = field(default_factory=dict)
    eliminated: Mapping[bytes, Eliminated] = field(default_factory=dict)

    def columns(self, payload: bytes) -> dict[int, tuple[int, ...]]:
        """{validator: losses} of one contender."""
        at = self.rung.contenders.index(payload)
        found = {validator: columns[at] for validator, columns in self.ballots.items()}
        return {validator: column for validator, column in found.items() if column is not None}

    def finite(self, payload: bytes) -> bool:
        """Whether a quorum of seats scored a contender, and it has a finite loss."""
        return self.scores.get(payload, self.worst) < self.worst

    def held(self, validators: Sequence[int]) -> int:
        """Seats of these validators."""
        return sum(self.seats.voter_seats[validator] for validator in validators)

    def differences(self, first: bytes, second: bytes) -> list[Difference] | None:
        """Per seat, `first`'s loss minus `second`'s on the same rows; None where fewer than a quorum scored both."""
        one, other = self.columns(first), self.columns(second)
        both = sorted(one.keys() & other.keys())
        if self.held(both) < self.seats.quorum:
            return None
        compared = {
            validator: paired_difference(one[validator], other[validator], self.rung.rows) for validator in both
        }
        return [compared[validator] for validator in self.seats.voters if validator in compared]


def _counting(state: ContestState, inbox: ContestInbox, rung: Rung, seats: Roles) -> dict[int, BallotBody]:
    """{validator: ballot} of the ballots that fit the rung and open their commitment."""
    counting = {}
    expected = contenders_digest(rung.contenders)
    for validator in sorted(set(seats.voters)):
        committed = inbox.single(rung.kind("commitment"), validator)
        message = inbox.single(rung.kind("ballot"), validator)
        if committed is None or message is None:
            continue
        ballot = message.read(BallotBody)
        fits = len(ballot.columns) == len(rung.contenders) and all(
            column is None or len(column) == len(rung.rows) for column in ballot.columns
        )
        reveal = from_hex(ballot.reveal) if ballot.reveal else ZERO
        tip = state.members[validator].chain_tip
        revealed = reveal_matches(tip, state.epoch, reveal) if rung.reveals else ballot.reveal is None
        if fits and revealed and from_hex(ballot.contenders) == expected:
            commitment = rung_commitment(
                state.scope.task, state.epoch, validator, rung, ballot.columns, from_hex(ballot.salt), reveal
            )
            if from_hex(committed.read(CommitmentBody).commitment) == commitment:
                counting[validator] = ballot
    return counting


def _salts_digest(ballots: Mapping[int, BallotBody]) -> bytes:
    pairs = b"".join(word(member) + from_hex(ballots[member].salt) for member in sorted(ballots))
    return keccak(tag("flock_ray/contest/salts/1") + pairs)


def _audit(
    state: ContestState, inbox: ContestInbox, rung: Rung, seats: Roles, ballots: Mapping[int, BallotBody], seed: bytes
) -> tuple[tuple[int, ...], dict[int, bool]]:
    """The rows that the seed chooses, and the ballots that are off on any row.

    A loss is off if it lies further from the seats' median than the tolerance allows. It is confirmed if its row is one
    of those that the seed chose, a quorum of the day's committee scored the same cell again, and the loss is off from
    their median too.
    """
    drawn = draw_seats(
        seed, state.scope.task, state.epoch, len(rung.rows), min(len(rung.rows), state.parameter("audit_rows"))
    )
    audited = tuple(sorted(drawn))
    again = _rescored(state, inbox, rung)
    failed: dict[int, bool] = {}
    for at in range(len(rung.contenders)):
        columns = {validator: column for validator, ballot in ballots.items() if (column := ballot.columns[at])}
        if sum(seats.voter_seats[validator] for validator in columns) < seats.quorum:
            continue
        for row in range(len(rung.rows)):
            tolerance = state.parameter("audit_tolerance") * rung.rows[row].num_tokens
            middle = lower_median([columns[validator][row] for validator in seats.voters if validator in columns])
            for validator, column in columns.items():
                if abs(column[row] - middle) > tolerance:
                    truth = again.get((at, row)) if row in audited else None
                    confirmed = truth is not None and abs(column[row] - truth) > tolerance
                    failed[validator] = failed.get(validator, False) or confirmed
    return audited, dict(sorted(failed.items()))


def _rescored(state: ContestState, inbox: ContestInbox, rung: Rung) -> dict[tuple[int, int], int]:
    """{(column, row): median over seats} of the cells that a quorum of the day's committee scored again."""
    values: dict[tuple[int, int], dict[int, int]] = {}
    for voter in sorted(set(state.roles.voters)):
        if message := inbox.single(rung.kind("rescore"), voter):
            for cell in message.read(RescoreBody).cells:
                values.setdefault((cell.column, cell.row), {})[voter] = cell.loss
    agreed = {}
    for cell_at, said in values.items():
        seats = [said[voter] for voter in state.roles.voters if voter in said]
        if len(seats) >= state.roles.quorum:
            agreed[cell_at] = lower_median(seats)
    return agreed


def run_rung(state: ContestState, inbox: ContestInbox, rung: Rung, racing: Mapping[bytes, bool]) -> RungResult:
    """Count, audit and score a rung's ballots, and eliminate.

    Args:
        state: of the day.
        inbox: its messages.
        rung: what was asked.
        racing: {payload: whether it is no copy} of the submissions of the day; other contenders are mere references.
    """
    seats = rung.committee(state)
    ballots = _counting(state, inbox, rung, seats)
    following = tagged("flock_ray/contest/rung/1", rung.seed, _salts_digest(ballots))
    columns = {validator: ballot.columns for validator, ballot in ballots.items()}
    reveals = {one: from_hex(ballot.reveal) for one, ballot in ballots.items() if ballot.reveal}
    complete = sum(seats.voter_seats[validator] for validator in ballots) >= seats.quorum
    counted = RungResult(rung, seats, columns, reveals, complete, following, WORST[state.terms.scorer])
    if not complete:
        return counted
    audited, failed = _audit(state, inbox, rung, seats, ballots, following)
    scored = replace(counted, audited=audited, failed=failed, scores=_scores(state, counted))
    if rung.name in state.rungs[len(state.terms.rung_rows) - 1 :]:  # the last rung and set B rank, and eliminate nobody
        return scored
    return replace(scored, eliminated=_eliminate(state, scored, racing))


def own_scores(state: ContestState, result: RungResult, payload: bytes) -> dict[int, int]:
    """{validator: its own score} of a contender."""
    return {
        validator: score(state.terms.scorer, column, result.rung.rows)
        for validator, column in result.columns(payload).items()
    }


def _scores(state: ContestState, result: RungResult) -> dict[bytes, int]:
    scores = {}
    for payload in result.rung.contenders:
        own = own_scores(state, result, payload)
        if result.held(sorted(own)) >= result.seats.quorum:
            voices = {
                validator: Voice(
                    value, result.seats.voter_seats[validator], state.effective_stake(state.members[validator])
                )
                for validator, value in own.items()
            }
            scores[payload] = consensus_score(voices, state.terms.rule, WORST[state.terms.scorer])
    return scores


def best_first(result: RungResult, payloads: Collection[bytes]) -> list[bytes]:
    """Payloads among these that have a loss, by ascending loss; ties in the shuffled order of the columns."""
    return sorted(
        (payload for payload in result.rung.contenders if payload in payloads and result.finite(payload)),
        key=lambda payload: result.scores[payload],
    )


def _eliminate(state: ContestState, result: RungResult, racing: Mapping[bytes, bool]) -> dict[bytes, Eliminated]:
    """The submissions that are worse, beyond the band, than the last one of those to keep.

    Copies do not count among those to keep, so that nobody crowds others out with them.
    """
    originals = best_first(result, [payload for payload, original in racing.items() if original])
    if not originals:
        return {}
    keep = max(state.parameter("top_nodes"), -(-len(originals) // state.parameter("keep_one_in")))
    last = originals[min(keep, len(originals)) - 1]
    order = best_first(result, racing)
    eliminated = {}
    for payload in order[order.index(last) + 1 :]:
        seats = result.differences(payload, last)
        if seats is not None:
            worse = lower_median([seat.value for seat in seats])
            width = band([seat.standard_error for seat in seats], state.terms)
            if worse > width:
                eliminated[payload] = Eliminated(worse, width)
    return eliminated


def usual_error(result: RungResult, reference: bytes, others: Collection[bytes]) -> int:
    """Lower median of the paired standard errors between a contender and others; 0 where there are none."""
    errors = []
    for payload in best_first(result, others):
        seats = result.differences(payload, reference) if payload != reference else None
        if seats is not None:
            errors.append(lower_median([seat.standard_error for seat in seats]))
    return lower_median(errors) if errors else 0


def beats(
    state: ContestState, results: Sequence[RungResult], copy: bytes, original: bytes, own: Collection[bytes]
) -> bool:
    """Whether a copy is better than its original in the last rung that scored both, as another's adapter must be.

    By z paired standard errors, which count as no smaller than the usual one of the original and submissions that are
    no copies: what hardly differs has a tiny error, and any change of it is better or worse for certain. And by the
    band's floor: what rounding does to equal products is alike on all rows.

    Args:
        state: of the day.
        results: of its rungs.
        copy: a submission's payload.
        original: what it is a copy of.
        own: payloads of the submissions that are no copies.
    """
    for result in reversed(results):
        if result.finite(copy) and result.finite(original):
            seats = result.differences(copy, original)
            if seats is not None:
                worse = lower_median([seat.value for seat in seats])
                error = lower_median([seat.standard_error for seat in seats])
                margin = state.parameter("copy_z_bp") * max(error, usual_error(result, original, own)) // 10_000
                return worse < -max(state.terms.band_floor, margin)
    return False


def disputed(state: ContestState, result: RungResult) -> list[tuple[int, int]]:
    """The cells (column, position of the row) that the audit asks the day's committee to score again, ascending.

    Those on the rows that the seed chose in which a ballot is outside the tolerance of the seats' median.
    """
    cells = []
    for at, payload in enumerate(result.rung.contenders):
        columns = result.columns(payload)
        if result.held(sorted(columns)) < result.seats.quorum:
            continue
        for row in result.audited:
            tolerance = state.parameter("audit_tolerance") * result.rung.rows[row].num_tokens
            middle = lower_median([columns[one][row] for one in result.seats.voters if one in columns])
            if any(abs(column[row] - middle) > tolerance for column in columns.values()):
                cells.append((at, row))
    return cells
