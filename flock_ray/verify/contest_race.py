"""The rungs of a contest's day, for the verifier: ballots that count, who is off, joint scores, eliminations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flock_ray.protocol.contest_message import BallotBody, ContestKind, RescoreBody
from flock_ray.protocol.contest_state import ContestState
from flock_ray.protocol.encoding import canonical_json, from_hex
from flock_ray.protocol.hashing import keccak, sha256, tag, tagged
from flock_ray.protocol.message import CommitmentBody
from flock_ray.verify.contest_entries import DayMessages, Field, Submission, salts_digest, stake_of
from flock_ray.verify.contest_numbers import comparison, joint_score, middle, score_of, worst
from flock_ray.verify.draw import Seats, leads_to, seats_of

Columns = tuple[tuple[int, ...] | None, ...]


@dataclass
class Rung:
    """A rung that was run.

    Attributes:
        name, seed, seats: which, what drew its committee, and the committee.
        contenders: payloads in the order of the columns; places: of its rows; lengths: (tokens, bytes) of each.
        ballots: {validator: columns} of the ballots that count; reveals: {validator: preimage}.
        complete: whether they are a quorum; without one the rest is empty.
        following: seed of what comes next.
        audited, failed, scores, eliminated: as the record has them.
    """

    name: str
    seed: bytes
    seats: Seats
    contenders: list[bytes]
    places: list[int]
    lengths: list[tuple[int, int]]
    ballots: dict[int, Columns]
    reveals: dict[int, bytes]
    complete: bool
    following: bytes
    audited: list[int] = field(default_factory=list)
    failed: dict[int, bool] = field(default_factory=dict)
    scores: dict[bytes, int] = field(default_factory=dict)
    eliminated: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def column(self, payload: bytes) -> dict[int, tuple[int, ...]]:
        """{validator: losses} of a contender, of those who have it."""
        at = self.contenders.index(payload)
        return {voter: column for voter, ballot in self.ballots.items() if (column := ballot[at]) is not None}

    def compared(self, first: bytes, second: bytes) -> tuple[int, int] | None:
        """Medians over seats of the difference and of its error; None where no quorum scored both."""
        one, other = self.column(first), self.column(second)
        seated = [voter for voter in self.seats.voters if voter in one and voter in other]
        if len(seated) < self.seats.quorum:
            return None
        tokens = [size for size, _ in self.lengths]
        pairs = {voter: comparison(one[voter], other[voter], tokens) for voter in set(seated)}
        return middle(pairs[voter][0] for voter in seated), middle(pairs[voter][1] for voter in seated)


def race(state: ContestState, sent: DayMessages, entered: Field) -> list[Rung]:
    """Run the day's rungs and write their outcome into the submissions' steps."""
    terms = state.terms
    names = [f"rung_{number}" for number, _ in enumerate(terms.rung_rows, start=1)]
    names += ["final"] if state.epoch == terms.num_epochs else []
    rungs: list[Rung] = []
    seed = entered.shuffle
    for name in names:
        racing = [one for one in entered.submissions if not one.out]
        wanted = {payload for one in racing for payload in (one.payload, one.copy_of)}
        contenders = [payload for payload in entered.payloads if payload in wanted]
        if not contenders:
            break
        rung = _count(state, sent, name, seed, contenders, entered.shuffle, reveals=name == names[-1])
        rungs.append(rung)
        if not rung.complete:
            break
        _audit(state, sent, rung)
        _score(state, rung)
        if names.index(name) < len(terms.rung_rows) - 1:
            _eliminate(state, rung, racing)
        _tell(state, rung, racing)
        seed = rung.following
    return rungs


def _rows(state: ContestState, name: str, shuffle: bytes) -> tuple[list[int], list[tuple[int, int]]]:
    """Places and lengths of a rung's rows."""
    rows = state.final_rows if name == "final" else state.rows
    places = _order_of_rows([row.num_tokens for row in rows], shuffle)
    if name != "final":
        number = int(name.removeprefix("rung_"))
        if number < len(state.terms.rung_rows):
            places = places[: state.terms.rung_rows[number - 1]]
    return places, [(rows[place].num_tokens, rows[place].num_bytes) for place in places]


def _order_of_rows(sizes: Sequence[int], shuffle: bytes) -> list[int]:
    """Rows by size on a circle, visited from a drawn one by a sequence of van der Corput's, each once."""
    circle = sorted((size, tagged("flock_ray/contest/rows/2", shuffle, row), row) for row, size in enumerate(sizes))
    start = int.from_bytes(tagged("flock_ray/contest/turn/1", shuffle), "big")
    visits, parts = [0], 1  # of the circle: 0, 1/2, 1/4, 3/4, 1/8, 5/8, 3/8, 7/8, …
    while parts < len(sizes):
        visits, parts = [2 * one for one in visits] + [2 * one + 1 for one in visits], 2 * parts
    order: list[int] = []
    for visit in visits:
        row = circle[(start + visit * len(sizes) // parts) % len(sizes)][2]
        if row not in order:
            order.append(row)
    return order


def _count(
    state: ContestState,
    sent: DayMessages,
    name: str,
    seed: bytes,
    contenders: list[bytes],
    shuffle: bytes,
    reveals: bool,
) -> Rung:
    seats = seats_of(replace(state, seed=seed))
    places, lengths = _rows(state, name, shuffle)
    about = keccak(tag("flock_ray/contest/contenders/1") + b"".join(contenders))
    ballots: dict[int, BallotBody] = {}
    for voter in sorted(set(seats.voters)):
        sealed = sent.only(ContestKind(f"{name}_commitment"), voter)
        opened = sent.only(ContestKind(f"{name}_ballot"), voter)
        if sealed is None or opened is None:
            continue
        ballot = opened.read(BallotBody)
        preimage = from_hex(ballot.reveal) if ballot.reveal else bytes(32)
        if (
            from_hex(ballot.contenders) != about
            or len(ballot.columns) != len(contenders)
            or any(column is not None and len(column) != len(places) for column in ballot.columns)
            or (ballot.reveal is not None) != reveals
            or (reveals and not leads_to(state.members[voter].chain_tip, preimage, state.epoch))
        ):
            continue
        words = (state.scope.task, state.epoch, voter, sha256(name.encode()), about, _rows_root(ballot, len(places)))
        commitment = tagged("flock_ray/contest/ballot/1", *words, from_hex(ballot.salt), preimage)
        if commitment == from_hex(sealed.read(CommitmentBody).commitment):
            ballots[voter] = ballot
    salts = salts_digest((voter, from_hex(ballots[voter].salt)) for voter in sorted(ballots))
    return Rung(
        name,
        seed,
        seats,
        contenders,
        places,
        lengths,
        {voter: ballot.columns for voter, ballot in ballots.items()},
        {voter: from_hex(ballot.reveal) for voter, ballot in ballots.items() if ballot.reveal},
        seats.held_by(ballots) >= seats.quorum,
        tagged("flock_ray/contest/rung/1", seed, salts),
    )


def _rows_root(ballot: BallotBody, num_rows: int) -> bytes:
    """Merkle root over a ballot's rows in their order; a last odd node moves up alone."""
    rows = ([column[row] if column is not None else None for column in ballot.columns] for row in range(num_rows))
    level = [tagged("flock_ray/contest/row/1", row, sha256(canonical_json(losses))) for row, losses in enumerate(rows)]
    while len(level) > 1:
        above = [tagged("flock_ray/contest/node/1", *level[place : place + 2]) for place in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


def _drawn(state: ContestState, seed: bytes, size: int, count: int) -> list[int]:
    """`count` of 0..size-1 by a Fisher-Yates shuffle, ascending."""
    numbers = list(range(size))
    for place in range(count):
        draw = int.from_bytes(tagged("flock_ray/roles/1", seed, state.scope.task, state.epoch, place), "big")
        other = place + draw % (size - place)
        numbers[place], numbers[other] = numbers[other], numbers[place]
    return sorted(numbers[:count])


def _audit(state: ContestState, sent: DayMessages, rung: Rung) -> None:
    parameters, size = state.terms.mechanism_parameters, len(rung.places)
    rung.audited = _drawn(state, rung.following, size, min(size, parameters["audit_rows"]))
    day = seats_of(state)
    again: dict[tuple[int, int], list[int]] = {}
    for voter in day.voters:
        if message := sent.only(ContestKind(f"{rung.name}_rescore"), voter):
            for cell in message.read(RescoreBody).cells:
                again.setdefault((cell.column, cell.row), []).append(cell.loss)
    failed: dict[int, bool] = {}
    for at, payload in enumerate(rung.contenders):
        column = rung.column(payload)
        seated = [voter for voter in rung.seats.voters if voter in column]
        if len(seated) < rung.seats.quorum:
            continue
        for row, (tokens, _) in enumerate(rung.lengths):
            allowed = parameters["audit_tolerance"] * tokens
            centre = middle(column[voter][row] for voter in seated)
            retold = again.get((at, row), []) if row in rung.audited else []
            for voter in column:
                if abs(column[voter][row] - centre) > allowed:
                    proved = len(retold) >= day.quorum and abs(column[voter][row] - middle(retold)) > allowed
                    failed[voter] = proved or failed.get(voter, False)
    rung.failed = {voter: failed[voter] for voter in sorted(failed)}


def own_scores(state: ContestState, rung: Rung, payload: bytes) -> dict[int, int]:
    """{validator: its own score} of a contender."""
    return {voter: score_of(state.terms.scorer, column, rung.lengths) for voter, column in rung.column(payload).items()}


def _score(state: ContestState, rung: Rung) -> None:
    for payload in rung.contenders:
        own = own_scores(state, rung, payload)
        if rung.seats.held_by(own) >= rung.seats.quorum:
            said = [(own[voter], rung.seats.voters.count(voter), stake_of(state, voter)) for voter in own]
            rung.scores[payload] = joint_score(state.terms.rule, said, worst(state.terms.scorer))


def ranked(state: ContestState, rung: Rung, payloads: Collection[bytes]) -> list[bytes]:
    """Payloads with a finite joint score, the best first; ties as in the columns."""
    none = worst(state.terms.scorer)
    scored = [(rung.scores[one], place, one) for place, one in enumerate(rung.contenders) if one in rung.scores]
    return [payload for score, _, payload in sorted(scored) if score < none and payload in payloads]


def _eliminate(state: ContestState, rung: Rung, racing: Sequence[Submission]) -> None:
    """Eliminate whoever is worse than the last of the best originals; copies take nobody's place."""
    terms = state.terms
    own = ranked(state, rung, {one.payload for one in racing if one.payload and one.copy_of is None})
    part = terms.mechanism_parameters["keep_one_in"]
    kept = own[: max(terms.mechanism_parameters["top_nodes"], (len(own) + part - 1) // part)]
    order = ranked(state, rung, {one.payload for one in racing if one.payload})
    behind = order[order.index(kept[-1]) + 1 :] if kept else []
    for payload in behind:
        compared = rung.compared(payload, kept[-1])
        if compared is not None:
            band = max(terms.band_floor, min(terms.band_ceiling, terms.band_z_bp * compared[1] // 10_000))
            if compared[0] > band:
                rung.eliminated[payload] = compared[0], band


def _tell(state: ContestState, rung: Rung, racing: Sequence[Submission]) -> None:
    phase, none = f"{rung.name}_audit", worst(state.terms.scorer)
    for one in racing:
        assert one.payload is not None
        score = rung.scores.get(one.payload)
        if score is None:
            one.refuse(phase, "unscored")
        elif score >= none:
            one.refuse(phase, "no_loss")
        elif one.payload in rung.eliminated:
            one.steps.append(("eliminated", phase, "worse"))
        else:
            one.steps.append(("scored", phase, ""))


def outdoes(state: ContestState, rungs: Sequence[Rung], copy: bytes, original: bytes, own: Collection[bytes]) -> bool:
    """Whether a copy beat its original by the margin that one of the day's own submissions needs, where scored last."""
    none = worst(state.terms.scorer)
    for rung in reversed(rungs):
        scores: Mapping[bytes, int] = rung.scores
        if max(scores.get(copy, none), scores.get(original, none)) < none:
            compared = rung.compared(copy, original)
            if compared is not None:
                pairs = [rung.compared(one, original) for one in ranked(state, rung, own) if one != original]
                errors = [pair[1] for pair in pairs if pair is not None]
                error = max(compared[1], middle(errors)) if errors else compared[1]
                needed = state.terms.mechanism_parameters["copy_z_bp"] * error // 10_000
                return compared[0] + needed < 0 and compared[0] + state.terms.band_floor < 0
    return False
