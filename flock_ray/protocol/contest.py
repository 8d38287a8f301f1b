"""One day of a contest as a pure function: (state, set of messages) -> record, and (state, record) -> next state.

Every signer of a day's record calls `derive_day` on the signed messages and signs only its result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flock_ray.protocol.contest_entries import SLASHED_FINDINGS, Entries, Entry, Status, Step, enter
from flock_ray.protocol.contest_message import ContestInbox, ContestKind, ContestMessage
from flock_ray.protocol.contest_race import Rung, RungResult, beats, best_first, own_scores, run_rung
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_rewards import day_budget, pay_nodes, pay_validators, pools, vesting_split
from flock_ray.protocol.contest_scores import Row
from flock_ray.protocol.contest_state import FINAL, ContestState, Earlier
from flock_ray.protocol.epoch import settle_money
from flock_ray.protocol.hashing import ZERO, tagged
from flock_ray.protocol.seed import next_seed, reveals_digest, skip_seed
from flock_ray.protocol.state import MAX_SLASHES, Slash

VESTED = "vested"
"""What a node's notes hold of its income until the contest's end, wei."""


@dataclass(frozen=True)
class Day:
    """A day before its money.

    Attributes:
        entries: what became of each submission.
        results: of the rungs that were run, in their order; the last may lack a quorum.
        ranking: nodes in the order of pay on the day's rows, best first, without unpaid copies; final_ranking: those of
            set B, on the last day.
        leader: payload of the first of them; None where nobody was ranked.
    """

    entries: Entries
    results: tuple[RungResult, ...]
    ranking: tuple[int, ...]
    final_ranking: tuple[int, ...]
    leader: bytes | None


def spread_by_length(rows: Sequence[Row], shuffle: bytes) -> list[int]:
    """Places of rows in an order of which every beginning has rows of all lengths, so that few rows tell of all.

    Systematic sampling (Cochran 1977, Sampling Techniques, chapter 8) from the rows by their target tokens, from a
    place that the shuffle draws, in van der Corput's order: a half on, a quarter on, …, each row once.
    """
    count, bits = len(rows), (len(rows) - 1).bit_length()
    sizes = [row.num_tokens for row in rows]
    by_length = sorted(range(count), key=lambda row: (sizes[row], tagged("flock_ray/contest/rows/2", shuffle, row)))
    turn = int.from_bytes(tagged("flock_ray/contest/turn/1", shuffle), "big")
    points = [int(f"{point:0{bits}b}"[::-1], 2) for point in range(1 << bits)]
    return list(dict.fromkeys(by_length[((point * count >> bits) + turn) % count] for point in points))


def rows_of_rung(state: ContestState, name: str, shuffle: bytes) -> tuple[tuple[int, ...], tuple[Row, ...]]:
    """Places and rows of a rung in the order of its columns: the first of one order, so that rungs are nested."""
    rows = state.final_rows if name == FINAL else state.rows
    order = spread_by_length(rows, shuffle)
    number = state.rungs.index(name)
    if number < len(state.terms.rung_rows) - 1:
        order = order[: state.terms.rung_rows[number]]
    return tuple(order), tuple(rows[place] for place in order)


def next_rung(state: ContestState, entries: Entries, results: Sequence[RungResult]) -> Rung | None:
    """The rung that follows these results; None after the last, without contenders, or after one without a quorum."""
    if len(results) == len(state.rungs) or (results and not results[-1].complete):
        return None
    name = state.rungs[len(results)]
    kept = {payload for entry in entries.running() for payload in (entry.payload, entry.copy_of)}
    contenders = tuple(payload for payload in entries.order if payload in kept)
    if not contenders:
        return None
    seed = results[-1].next_seed if results else entries.shuffle
    places, rows = rows_of_rung(state, name, entries.shuffle)
    return Rung(name, seed, contenders, rows, places, reveals=name == state.rungs[-1])


def note(entries: Entries, result: RungResult) -> None:
    """Write a complete rung's outcome into the submissions' states."""
    phase = f"{result.rung.name}_audit"
    for entry in entries.running():
        assert entry.payload is not None
        if entry.payload not in result.scores:
            entry.steps.append(Step("refused", phase, "unscored"))
        elif not result.finite(entry.payload):
            entry.steps.append(Step("refused", phase, "no_loss"))
        elif entry.payload in result.eliminated:
            entry.steps.append(Step("eliminated", phase, "worse"))
        else:
            entry.steps.append(Step("scored", phase))


def _order(results: Sequence[RungResult], payloads: Collection[bytes]) -> list[bytes]:
    """Payloads in the order of pay: who came furthest first, then by the joint score in the last rung of each."""
    placed: dict[bytes, None] = {}
    for result in reversed(results):
        placed |= dict.fromkeys(one for one in best_first(result, payloads) if one not in placed)
    return list(placed)


def rungs_until(state: ContestState, inbox: ContestInbox, name: str) -> tuple[list[RungResult], Rung | None]:
    """What came of the rungs before the one of this name, and what it asks; None if the race does not get there."""
    entries, results = enter(state, inbox), list[RungResult]()
    while (rung := next_rung(state, entries, results)) and rung.name != name:
        results.append(run_rung(state, inbox, rung, entries.racing()))
        if results[-1].complete:
            note(entries, results[-1])
    return results, rung


def _finish(state: ContestState, entries: Entries, results: Sequence[RungResult], phase: str) -> None:
    """Rank who was not eliminated, and say which copies are unpaid: of one original's at most the best is paid."""
    if not results:
        for entry in entries.running():
            entry.steps.append(Step("refused", phase, "no_quorum"))
        return
    left = [entry for entry in entries.all if entry.step.state != "refused"]
    standing = {entry.payload for entry in left if entry.payload}
    own = {entry.payload for entry in left if entry.payload and entry.copy_of is None}
    rewarded: set[bytes] = set()
    for payload in _order(results, standing):
        for entry in left:
            if entry.payload == payload and entry.copy_of is not None:
                entry.unpaid = entry.copy_of in rewarded or not beats(state, results, payload, entry.copy_of, own)
                if not entry.unpaid:
                    rewarded.add(entry.copy_of)
    for entry in entries.running():
        entry.steps.append(Step("ranked", phase, "copy" if entry.unpaid else ""))


def _ranking(entries: Entries, results: Sequence[RungResult]) -> tuple[Entry, ...]:
    """Paid submissions in the order of pay; of the same bytes the one with the lowest id."""
    paid = [entry for entry in entries.all if entry.step.state in ("ranked", "eliminated") and not entry.unpaid]
    owners = {entry.payload: entry for entry in sorted(paid, key=lambda entry: -(entry.number or 0)) if entry.payload}
    return tuple(owners[payload] for payload in _order(results, owners))


def play_day(state: ContestState, inbox: ContestInbox) -> Day:
    """Entries, rungs and rankings of the day that `state` starts, from the messages received."""
    assert state.rows, "the day's rows are opened first"
    entries = enter(state, inbox)
    results: list[RungResult] = []
    while rung := next_rung(state, entries, results):
        results.append(run_rung(state, inbox, rung, entries.racing()))
        if results[-1].complete:
            note(entries, results[-1])
    complete = [result for result in results if result.complete]
    on_chunk = [result for result in complete if result.rung.name != FINAL]
    _finish(state, entries, on_chunk, f"{(results[-1].rung.name if results else state.rungs[0])}_audit")
    ranking = _ranking(entries, on_chunk)
    final = _ranking(entries, [result for result in complete if result.rung.name == FINAL])
    nodes, final_nodes = (tuple(entry.member for entry in one) for one in (ranking, final))
    return Day(entries, tuple(results), nodes, final_nodes, ranking[0].payload if ranking else None)


def statuses(state: ContestState, messages: Iterable[ContestMessage], elapsed: int) -> dict[int, Status]:
    """{node: state of its submission} at a time of the day, from the messages so far.

    Args:
        state: of the day; its rows may not be opened yet.
        messages: received so far.
        elapsed: seconds since the day's start.
    """
    inbox = ContestInbox(messages)
    entries = play_day(state, inbox).entries if state.rows else enter(state, inbox)
    return {entry.member: entry.at(state.schedule, elapsed) for entry in entries.all}


@dataclass(frozen=True)
class Performance:
    """A validator's day.

    Attributes:
        work: losses in its ballots that count, times its seats; under the rule `mean` the part of its stake that is
            the part of the losses that it was asked for.
        distance: mean distance of its scores from the joint ones, in the scorer's micro-units.
        failed: whether an audit found one of its ballots outside the tolerance: it is unpaid.
    """

    work: int
    distance: int
    failed: bool


def performances(state: ContestState, results: Iterable[RungResult]) -> dict[int, Performance]:
    """{validator: performance} of everybody whose ballot counts in a rung with a quorum."""
    done, asked = dict[int, int](), dict[int, int]()
    distances: dict[int, list[int]] = {}
    failed: set[int] = set()
    for result in results:
        if result.complete:
            failed |= set(result.failed)
            for validator, columns in result.ballots.items():
                seats, rows = result.seats.voter_seats[validator], len(result.rung.rows)
                measured = sum(column is not None for column in columns)
                done[validator] = done.get(validator, 0) + seats * rows * measured
                asked[validator] = asked.get(validator, 0) + seats * rows * len(columns)
            for payload, joint in result.scores.items():
                for validator, own in own_scores(state, result, payload).items():
                    distances.setdefault(validator, []).append(abs(own - joint))
    by_stake = state.terms.rule == "mean"
    return {
        validator: Performance(
            work * state.effective_stake(state.members[validator]) // asked[validator] if by_stake else work,
            sum(distances[validator]) // len(distances[validator]) if validator in distances else 0,
            validator in failed or validator not in distances,
        )
        for validator, work in sorted(done.items())
    }


def _rewards(
    state: ContestState, day: Day, validators: Mapping[int, Performance]
) -> tuple[dict[int, int], dict[int, int]]:
    """({node: wei}, {validator: wei}) of the day, before a part of the nodes' is held."""
    budget = day_budget(state.pool_left, state.terms.end_share, state.epochs_left)
    end = min(state.terms.end_share, state.pool_left - budget) if day.final_ranking else 0
    stakes = {number: state.effective_stake(member) for number, member in enumerate(state.members)}
    node_stake = sum(stakes[number] for number, member in enumerate(state.members) if not member.slots)
    divided, at_end = (
        pools(amount, node_stake, sum(stakes.values()) - node_stake, state.parameter("pool_floor_bp"))
        for amount in (budget, end)
    )
    ratio, exponent, top = (state.parameter(name) for name in ("rank_ratio", "node_exponent_bp", "top_nodes"))
    nodes = pay_nodes(divided.nodes, day.ranking, stakes, ratio, exponent, top)
    for node, wei in pay_nodes(at_end.nodes, day.final_ranking, stakes, ratio, exponent, top).items():
        nodes[node] = nodes.get(node, 0) + wei
    paid = {validator: one for validator, one in validators.items() if not one.failed}
    return nodes, pay_validators(
        divided.validators + at_end.validators,
        {validator: one.work for validator, one in paid.items()},
        {validator: one.distance for validator, one in paid.items()},
        state.parameter("distance_rate"),
        state.parameter("validator_exponent_bp"),
        state.parameter("top_validators"),
    )


def _slashes(state: ContestState, inbox: ContestInbox, day: Day) -> list[Slash]:
    """At most one slash per member and day, for the gravest of its offences, by ascending member.

    Nobody is slashed for a poor score, and an absence only where a quorum was there: else the day itself had trouble.
    """
    terms = state.terms
    reasons: dict[int, tuple[str, int]] = {}
    gate = set(inbox.senders(ContestKind.GATE))
    committees = [(state.roles, gate)] + [(result.seats, set(result.ballots)) for result in day.results]
    for seats, present in committees:
        if sum(held for voter, held in seats.voter_seats.items() if voter in present) >= seats.quorum:
            absent = sorted(set(seats.voters) - present)
            reasons |= dict.fromkeys(absent, ("absent", state.parameter("absence_bp")))
    for result in day.results:
        confirmed = [validator for validator, proved in result.failed.items() if proved]
        reasons |= dict.fromkeys(confirmed, ("audited", terms.slash_fraction_bp))
    for entry in day.entries.all:
        if entry.step.reason in SLASHED_FINDINGS:
            reasons[entry.member] = "malformed", terms.slash_fraction_bp
    reasons |= dict.fromkeys(inbox.equivocators, ("equivocated", terms.slash_fraction_bp))
    return [
        Slash(member, state.members[member].stake * fraction // 10_000, reason)
        for member, (reason, fraction) in sorted(reasons.items())
    ]


def _vest(
    state: ContestState, nodes: Mapping[int, int], slashed: Iterable[int]
) -> tuple[dict[int, int], dict[int, dict[str, int]], int]:
    """What nodes get now, what their notes hold after the day, and the change of all that is held.

    On the last day everything that is held is paid. Who is slashed loses what is held, to the pool.
    """
    now, notes, change = dict[int, int](), dict[int, dict[str, int]](), 0
    lost = set(slashed)
    for number, member in enumerate(state.members):
        held, income = member.noted.get(VESTED, 0), nodes.get(number, 0)
        split = vesting_split(income, 0 if state.last_day else state.parameter("vested_bp"))
        released = held if state.last_day and number not in lost else 0
        after = split.passed_on + (0 if state.last_day or number in lost else held)
        if split.kept + released:
            now[number] = split.kept + released
        if after != held:
            notes[number] = {VESTED: after} if after else {}
        change += after - held
    return now, notes, change


def derive_day(state: ContestState, messages: Iterable[ContestMessage]) -> ContestRecord:
    """The record of the day that `state` starts, from the messages received, in whatever order.

    Args:
        state: before the day, with its rows opened.
        messages: of the day; none may be of another contest or day, or from a stranger.
    """
    inbox = ContestInbox(messages)
    assert all(state.concerns(message) for message in inbox.messages)
    day = play_day(state, inbox)
    validators = performances(state, day.results)
    nodes, paid = _rewards(state, day, validators)
    due = [*state.carried, *_slashes(state, inbox, day)]
    now, notes, change = _vest(state, nodes, {slash.member for slash in due[:MAX_SLASHES]})
    rewards = dict(sorted((now | paid).items()))
    money = settle_money(state, rewards, due[:MAX_SLASHES], notes, promises_more=False)
    reveals = {member: preimage for result in day.results for member, preimage in result.reveals.items()}
    digest = reveals_digest(reveals)
    return ContestRecord(
        state=state,
        messages=tuple((str(message.kind), message.member, message.digest) for message in inbox.messages),
        entries=day.entries.all,
        results=day.results,
        ranking=day.ranking,
        final_ranking=day.final_ranking,
        validators={member: (one.work, one.distance, one.failed) for member, one in validators.items()},
        reveals=reveals,
        reveals_digest=digest,
        next_seed=next_seed(state.seed, digest),
        adapter=day.leader or state.adapter,
        rewards=rewards,
        slashes=money.slashes,
        carried=tuple(due[MAX_SLASHES:]),
        removed=money.removed,
        members=money.members,
        pool_left=money.pool_left - change,
        escrow=money.escrow,
        held=state.held + change,
    )


def advance_day(state: ContestState, record: ContestRecord, report_hash: bytes) -> ContestState:
    """The state after a day's record that a quorum signed; its rows are opened with `ContestState.opened`.

    Args:
        state: before the day.
        record: of the day.
        report_hash: EIP-712 struct hash of the report that carries the record.
    """
    assert record.epoch == state.epoch and report_hash != ZERO
    known = {earlier.payload for earlier in state.earlier}
    passed = [entry for entry in record.entries if any(step.state == "gated" for step in entry.steps)]
    earlier = list(state.earlier)
    for entry in sorted(passed, key=lambda entry: entry.number or 0):
        if entry.payload is not None and entry.payload not in known:
            known.add(entry.payload)
            earlier.append(Earlier(entry.payload, entry.member, state.epoch))
    return replace(
        state,
        members=record.members,
        epoch=state.epoch + 1,
        seed=record.next_seed,
        adapter=record.adapter,
        pool_left=record.pool_left,
        previous_report=report_hash,
        previous_record=record.digest,
        roster=state.applied,
        carried=record.carried,
        escrow=record.escrow,
        leaving=(*state.leaving, *record.removed),
        changes=(),
        num_before=len(record.members),
        rows=(),
        final_rows=(),
        earlier=tuple(earlier),
        held=record.held,
    )


def skip_day(state: ContestState) -> ContestState:
    """The state after a day that was abandoned on the chain: only the seed, the number and the rows change."""
    return replace(state, epoch=state.epoch + 1, seed=skip_seed(state.seed), rows=(), final_rows=())
