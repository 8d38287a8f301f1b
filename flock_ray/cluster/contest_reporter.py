"""From a contest's records to what people see: the views of its days, and members' totals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flock_ray.cluster.attestation import Settlement
from flock_ray.cluster.observer import Observer
from flock_ray.cluster.run_directory import SignedEpoch
from flock_ray.cluster.running_task import RunningTask
from flock_ray.config import ArenaConfig, named_behaviours
from flock_ray.protocol.contest_record import ContestRecord
from flock_ray.protocol.contest_state import FINAL
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.roster import Change
from flock_ray.protocol.state import TaskState
from flock_ray.telemetry.contest_views import ContestTotal, DayView, SubmissionView, ValidatorView, show_day
from flock_ray.telemetry.events import EventLog
from flock_ray.telemetry.table import Console


class ContestReporter(Observer):
    """Sees everything that the loop does, tells console and event log, and keeps the views of the days."""

    def __init__(self, config: ArenaConfig, console: Console, events: EventLog) -> None:
        """Nothing yet; `records` are those of the days that stand."""
        self._config, self._console, self._events = config, console, events
        self._adversaries = {one: name for one, name in named_behaviours(config.adversary).items() if name != "none"}
        self.views: list[DayView] = []
        self.records: list[ContestRecord] = []
        self.load_seconds = 0.0

    def line(self, message: str) -> None:
        """One line for people."""
        self._console.line(message)

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        """Log a fact, and tell it if people should know at once."""
        self._events.emit(kind, **fields)
        if kind == "sat_out":
            self._console.line(f"member {fields['member']} sits day {fields['epoch']} out: {fields['why']}")
        elif kind == "refused_to_sign":
            self._console.line(f"member {fields['member']} did not sign day {fields['epoch']}: {fields['why']}")
        elif kind == "repeated":
            what = f"another {fields['message']} than it signed before"
            self._console.line(f"member {fields['member']} computed {what}; the signed one stands")

    def epoch_begins(self, state: TaskState) -> None:
        """Log the committee."""
        self._events.emit("day_begins", epoch=state.epoch, committee=state.roles.voters)

    def epoch_ends(self, record: Any, losses: dict[int, float], wall_seconds: Mapping[str, float]) -> None:
        """Show the tables of a signed day."""
        seconds = dict(wall_seconds) | ({"load": self.load_seconds} if record.epoch == 1 else {})
        view = self._view(record, seconds)
        self.views.append(view)
        self.records.append(record)
        self._events.emit("day", epoch=record.epoch, adapter=record.adapter, wall_seconds=seconds)
        show_day(self._console, view, self._config.contest.days)

    def members_changed(self, task: RunningTask, changes: Sequence[Change]) -> None:
        """Validators left or joined, nodes entered."""
        state = task.state
        for number, member in enumerate(state.members[state.num_before :], start=state.num_before):
            what = "validator" if member.slots else "node"
            self._events.emit("member_joined", epoch=state.epoch, member=number, account=member.account)
            self._console.line(f"{what} {number} ({member.account}) takes part from day {state.epoch} on")
        for change in [one for one in changes if one.leaves]:
            self._events.emit("member_left", epoch=task.state.epoch, member=change.member)
            self._console.line(f"validator {change.member} leaves before day {task.state.epoch}")

    def settled(self, settlement: Settlement) -> None:
        """A day's receipt came."""
        self.views = [
            replace(view, settlement_tx=settlement.transaction, gas_used=settlement.gas_used)
            if view.day == settlement.epoch
            else view
            for view in self.views
        ]
        self._events.emit(
            "settled", epoch=settlement.epoch, transaction=settlement.transaction, gas_used=settlement.gas_used
        )
        if settlement.transaction is not None and settlement.gas_used is not None:
            told = f"transaction {settlement.transaction}, gas {settlement.gas_used:,}"
            self._console.line(f"day {settlement.epoch} settled: {told}")

    def abandoned(self, first: int, following: int) -> None:
        """Days were given up on the chain; views from `first` on are void."""
        self.views = [view for view in self.views if view.day < first]
        self.records = [record for record in self.records if record.epoch < first]
        for day in range(first, following):
            self._events.emit("epoch_abandoned", epoch=day)
            self._console.line(f"day {day} was abandoned on the chain: what was signed from it on is void")

    def finished(self, state: TaskState) -> None:
        """Tell why the contest ended, if it was before its last day."""
        if state.epochs_left > 0:
            self._console.line(
                f"The contest closed after day {state.epoch - 1} of {state.terms.num_epochs}: the validators that are"
                f" left have {len(state.slot_owners)} slots, too few for {state.terms.num_voters} seats"
            )

    def recall(self, days: Sequence[SignedEpoch]) -> None:
        """Rebuild the views of days that an earlier run signed, from its records."""
        for signed in days:
            self.views.append(self._view(signed.record, signed.wall_seconds))
            self.records.append(signed.record)
            if signed.settlement:
                settled = signed.settlement
                self.views[-1] = replace(self.views[-1], settlement_tx=settled.transaction, gas_used=settled.gas_used)

    def totals(self, final: TaskState, end: Mapping[str, int]) -> list[ContestTotal]:
        """Every member over the contest; `end` are {account: wei} after the pay-out."""
        return [
            ContestTotal(
                member=number,
                account=member.account,
                role="validator" if member.slots else "node",
                adversary=self._adversaries.get(number, ""),
                earned=member.earned,
                slashed=member.slashed,
                stake=member.stake,
                balance_start=member.stake + member.slashed,
                balance_end=end.get(member.account, member.stake + member.earned),
            )
            for number, member in enumerate(final.members)
        ]

    def _view(self, record: ContestRecord, wall_seconds: Mapping[str, float]) -> DayView:
        complete = [result for result in record.results if result.complete]
        chunk = [result for result in complete if result.rung.name != FINAL]
        last = [result for result in complete if result.rung.name == FINAL]
        slashed = {slash.member: slash.amount for slash in record.slashes}
        places = {member: place for place, member in enumerate(record.ranking, start=1)}
        final_places = {member: place for place, member in enumerate(record.final_ranking, start=1)}
        submissions = []
        for entry in record.entries:
            scored = [result for result in chunk if entry.payload in result.scores]
            final_scores = [
                result.scores[entry.payload] for result in last if entry.payload and entry.payload in result.scores
            ]
            submissions.append(
                SubmissionView(
                    member=entry.member,
                    account=record.state.members[entry.member].account,
                    adversary=self._adversaries.get(entry.member, ""),
                    rank=places.get(entry.member),
                    final_rank=final_places.get(entry.member),
                    payload=to_hex(entry.payload) if entry.payload else None,
                    copy_of=to_hex(entry.copy_of) if entry.copy_of else None,
                    rung=scored[-1].rung.name if scored else "",
                    score=scored[-1].scores[entry.payload] if scored and entry.payload else None,
                    final_score=final_scores[-1] if final_scores else None,
                    state=entry.step.state,
                    reason="copy" if entry.unpaid else entry.step.reason,
                    reward=record.rewards.get(entry.member, 0),
                    slashed=slashed.get(entry.member, 0),
                )
            )
        validators = [
            ValidatorView(
                member=number,
                account=record.state.members[number].account,
                adversary=self._adversaries.get(number, ""),
                work=work,
                distance=distance,
                failed=failed,
                reward=record.rewards.get(number, 0),
                slashed=slashed.get(number, 0),
            )
            for number, (work, distance, failed) in sorted(record.validators.items())
        ]
        rungs = [
            (result.rung.name, len(result.rung.contenders), len(result.rung.rows), len(result.eliminated))
            for result in record.results
        ]
        return DayView(
            record.epoch, to_hex(record.adapter), tuple(submissions), tuple(validators), tuple(rungs), None, None,
            dict(wall_seconds),
        )  # fmt: skip
