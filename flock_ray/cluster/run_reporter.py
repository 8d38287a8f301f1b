"""From records to what people see: epoch views, member totals, the estimate, the files at the end of a run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

from flock_ray.cluster.attestation import Settlement
from flock_ray.cluster.data_table import show_rows
from flock_ray.cluster.observer import Observer
from flock_ray.cluster.run_directory import SignedEpoch
from flock_ray.cluster.running_task import RunningTask
from flock_ray.cluster.spec import SiloFacts
from flock_ray.config import Config, behaviours, evaluated_others
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.mechanisms import get_mechanism
from flock_ray.protocol.metrics import bits_per_byte
from flock_ray.protocol.record import Record
from flock_ray.protocol.roster import Change
from flock_ray.protocol.state import TaskState
from flock_ray.telemetry.events import EventLog
from flock_ray.telemetry.table import Console
from flock_ray.telemetry.views import SAT_OUT, EpochView, MemberEpoch, MemberTotal, TrainingRate
from flock_ray.training.engine import TrainSettings

TRAIN_COST = 2.6
"""Cost of a trained token over an evaluated one: forward, backward through the activations, optimizer."""


class RunReporter(Observer):
    """Sees everything that the loop does, tells the console and the event log, and keeps the views of the epochs.

    Attributes:
        estimated: takes the seconds that an epoch is estimated to take.
        losses: {epoch: {member: held-out loss in nats a token under the global adapter after it}}; 0: at the start.
    """

    def __init__(self, config: Config, owners: Mapping[str, int], console: Console, events: EventLog) -> None:
        """Report a run of the silos of `owners`, {account: its silo}."""
        self._config, self._owners, self._console, self._events = config, owners, console, events
        self.estimated: Callable[[float], None] = lambda seconds: None
        self._all = evaluated_others(config.alliance) is None  # whether an epoch has a row of everybody
        self._facts: dict[int, SiloFacts] = {}
        self._members: dict[int, tuple[int, str]] = {}
        self._averaging_error: dict[int, float] = {}
        self._sat_out: dict[int, set[int]] = {}
        self._training: dict[int, dict[str, Mapping[str, Any]]] = {}
        self._steps: dict[int, dict[int, tuple[float, ...]]] = {}
        self._adversaries = {member for member, name in behaviours(config).items() if name != "none"}
        self.views: list[EpochView] = []
        self.losses: dict[int, dict[int, float]] = {}
        self.load_seconds = 0.0
        self._began: dict[int, float] = {}

    def opened(self, silos: Iterable[SiloFacts]) -> None:
        """Nodes opened silos: tell what became of their rows."""
        opened = {facts.silo: facts for facts in silos if facts.silo not in self._facts}
        self._facts |= opened
        for facts in opened.values():
            self._events.emit("silo_opened", silo=facts.silo, name=facts.name, rows=asdict(facts.rows))
        if self._config.data.kind != "stdlib_code":
            shown = [(silo, facts.name, facts.rows) for silo, facts in sorted(opened.items())]
            show_rows(self._console, shown, self._config.data.sequence_length)

    def members_are(self, state: TaskState) -> None:
        """Know the members whose silos are in this run."""
        for number, member in enumerate(state.members):
            if member.account in self._owners:
                self._members[number] = self._owners[member.account], member.account

    def members_changed(self, task: RunningTask, changes: Sequence[Change]) -> None:
        """Members came or went before the epoch of `task`."""
        self.members_are(task.state)
        for change in changes:
            account = task.state.members[change.member].account
            here = "" if change.member in task.silos else ", whose key and data are not in this run"
            what = "leaves" if change.leaves else f"joins with {change.slots} slots"
            self._events.emit("member_left" if change.leaves else "member_joined", epoch=task.state.epoch,
                              member=change.member, account=account)  # fmt: skip
            self._console.line(f"member {change.member} ({account}{here}) {what} before epoch {task.state.epoch}")

    def line(self, message: str) -> None:
        """One line for people."""
        self._console.line(message)

    def evaluated(self, epoch: int, losses: dict[int, float], seconds: float) -> None:
        """Note the losses, and tell how long the rest may take."""
        self.losses[epoch] = losses
        self._events.emit("evaluation", epoch=epoch, losses=losses)
        self.views = [self._measured(view, losses) if view.epoch == epoch else view for view in self.views]
        left = self._config.alliance.num_epochs - epoch
        estimate = self._estimate(seconds)
        if left > 0 and seconds > 0:
            minutes = estimate * left / 60
            self._console.line(f"Estimated time for {left} epoch{'s' * (left > 1)}: {minutes:.1f} min")
        self.estimated(estimate)

    def _measured(self, view: EpochView, losses: Mapping[int, float]) -> EpochView:
        """The view of an epoch whose run may have ended before its adapter was measured."""
        members = [
            self._with_loss(member, losses[member.index]) if member.index in losses else member
            for member in view.members
        ]
        return replace(view, members=tuple(members))

    def _with_loss(self, member: MemberEpoch, loss: float) -> MemberEpoch:
        facts = self._facts.get(self._members[member.index][0])
        return replace(member, loss_after=loss, bits_per_byte=_bits_per_byte(facts, loss))

    def _estimate(self, seconds: float) -> float:
        """Seconds an epoch, from those of an evaluation and the tokens of the silos that are known; 0 if none is."""
        alliance, training, silos = self._config.alliance, self._config.training, self._facts.values()
        if not silos:
            return 0.0
        others = evaluated_others(alliance)
        drawn = min(alliance.num_members, alliance.num_voters + alliance.num_proposers)
        evaluating = alliance.num_members if others is None else min(alliance.num_members, drawn + others)
        heldout = fmean(facts.num_heldout_inputs for facts in silos)
        sequence = fmean(facts.num_train_inputs / facts.num_train for facts in silos)
        evaluated = evaluating * heldout
        trained = alliance.num_proposers * training.steps * training.batch_size * sequence
        mechanism = get_mechanism(self._config.mechanism.name)
        measured = alliance.num_proposers * (1 + mechanism.splits_updates) + len(mechanism.steps)
        votes = alliance.num_voters * measured  # on each update, and on the candidates
        scored = (votes + evaluating) * heldout
        return seconds / evaluated * (TRAIN_COST * trained + scored)

    def epoch_begins(self, state: TaskState) -> None:
        """Tell the roles."""
        roles = state.roles
        self._began[state.epoch] = time.perf_counter()
        self._events.emit("roles", epoch=state.epoch, voters=roles.voters, proposers=roles.proposers)

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        """Log a fact, and tell it if people should know at once."""
        self._events.emit(kind, **fields)
        self._remember(kind, fields)
        if kind == "sat_out":
            self._console.line(f"member {fields['member']} sits epoch {fields['epoch']} out: {fields['why']}")
        elif kind == "folder_restored":
            self._console.line(f"member {fields['member']} goes on without its folder, by its entries in the store")
        elif kind == "repeated":
            what = f"another {fields['message']} than it signed before"
            self._console.line(f"member {fields['member']} computed {what}; the signed one stands")
        elif kind == "residual_lost":
            lost = "what encoding lost of its last update"
            self._console.line(f"member {fields['member']} goes on without {lost}: {fields['why']}")
        elif kind == "entries_ignored":
            self._console.line(f"host {fields['host']}: {fields['segments']} files among its signing entries hold none")

    def _remember(self, kind: str, fields: Mapping[str, object]) -> None:
        value, epoch = fields.get("value"), fields.get("epoch")
        if kind == "factor_averaging_error" and isinstance(value, float) and isinstance(epoch, int):
            self._averaging_error[epoch] = value
        elif kind == "local_training" and isinstance(epoch, int):
            self._training.setdefault(epoch, {})[str(fields["group"])] = fields  # of a group asked again, the last
        elif kind == "trained" and isinstance(epoch, int) and isinstance(losses := fields.get("losses"), list | tuple):
            self._steps.setdefault(epoch, {})[int(str(fields["member"]))] = tuple(losses)
        elif kind == "sat_out" and isinstance(epoch, int):
            self._sat_out.setdefault(epoch, set()).add(int(str(fields["member"])))

    def epoch_ends(self, record: Record, losses: dict[int, float], wall_seconds: Mapping[str, float]) -> None:
        """Show the table of a signed epoch."""
        self.losses[record.epoch] = losses
        self._events.emit("evaluation", epoch=record.epoch, losses=losses)
        seconds = dict(wall_seconds)
        if record.epoch == 1:
            seconds["load"] = self.load_seconds
        view = self._view(record, seconds)
        self.views.append(view)
        self._events.emit("epoch", epoch=record.epoch, accepted=record.accepted, adapter=record.adapter,
                          wall_seconds=seconds)  # fmt: skip
        self._console.epoch(view, self._config.alliance.num_epochs)
        for change in record.removed:
            self._events.emit("member_removed", epoch=record.epoch, member=change.member, leaves_before=change.epoch)
            self._console.line(
                f"member {change.member} was slashed below half of what its slots cost: it leaves before epoch"
                f" {change.epoch}"
            )

    def finished(self, state: TaskState) -> None:
        """Tell why the task ended, if it was before its last epoch."""
        if state.epochs_left > 0:
            self._console.line(
                f"The task closed after epoch {state.epoch - 1} of {state.terms.num_epochs}: the members that are left"
                f" have {len(state.slot_owners)} slots, too few for {state.terms.num_voters} voters and a proposer"
            )

    def settled(self, settlement: Settlement) -> None:
        """An epoch's receipt came."""
        index = next(i for i, view in enumerate(self.views) if view.epoch == settlement.epoch)
        view = self.views[index]
        waited = time.perf_counter() - self._began.get(settlement.epoch, time.perf_counter())
        self.views[index] = replace(view, settlement_tx=settlement.transaction, gas_used=settlement.gas_used)
        self._events.emit("settled", epoch=settlement.epoch, transaction=settlement.transaction,
                          gas_used=settlement.gas_used, seconds_since_start=waited)  # fmt: skip
        if settlement.transaction is not None and settlement.gas_used is not None:
            self._console.epoch_settled(settlement.epoch, settlement.transaction, settlement.gas_used)

    def abandoned(self, first: int, following: int) -> None:
        """The epochs from `first` to before `following` were given up on the chain; views from `first` on are void."""
        self.views = [view for view in self.views if view.epoch < first]
        for epoch in range(first, following):
            self._events.emit("epoch_abandoned", epoch=epoch)
            self._console.line(f"epoch {epoch} was abandoned on the chain: what was signed from it on is void")

    def recall(
        self, epochs: list[SignedEpoch], logged: list[dict[str, object]], notes: list[dict[str, object]]
    ) -> None:
        """Rebuild the views of epochs that an earlier run signed, from its records and events."""
        for event in logged:
            losses, epoch = event["losses"], event["epoch"]
            if isinstance(losses, dict) and isinstance(epoch, int):
                self.losses[epoch] = {int(member): loss for member, loss in losses.items()}
        for note in notes:
            self._remember(str(note["kind"]), note)
        for signed in epochs:
            view = self._view(signed.record, signed.wall_seconds)
            if signed.settlement:
                settled = signed.settlement
                view = replace(view, settlement_tx=settled.transaction, gas_used=settled.gas_used)
            self.views.append(view)

    def _view(self, record: Record, wall_seconds: Mapping[str, float]) -> EpochView:
        before, after = self.losses.get(record.epoch - 1, {}), self.losses.get(record.epoch, {})
        sat_out = self._sat_out.get(record.epoch, set())
        proposals = {proposal.member: proposal for proposal in record.proposals}
        slashed = Counter[int]()
        for slash in record.slashes:
            slashed[slash.member] += slash.amount
        members = []
        for number, (silo, account) in sorted(self._members.items()):
            if number >= len(record.members):
                continue  # it joined later
            role = record.roles.role(number)
            if not self._all and role == "observer" and number not in after and number not in slashed:
                continue
            proposal = proposals.get(number)
            consensus = proposal.consensus if proposal else None
            members.append(
                MemberEpoch(
                    index=number,
                    silo=self._name(silo),
                    address=account,
                    adversary=silo in self._adversaries,
                    role=role,
                    loss_before=before.get(number),
                    loss_after=after.get(number),
                    score=consensus.score if consensus else None,
                    status=SAT_OUT if number in sat_out else proposal.status if proposal else None,
                    reward=record.rewards.get(number, 0),
                    slashed=slashed[number],
                    bits_per_byte=_bits_per_byte(self._facts.get(silo), after.get(number)),
                )
            )
        candidate = record.candidate.consensus
        return EpochView(
            epoch=record.epoch,
            members=tuple(members),
            accepted=record.accepted,
            candidate_score=candidate.score if candidate else None,
            band=candidate.band if candidate else None,
            factor_averaging_error=self._averaging_error.get(record.epoch),
            settlement_tx=None,
            gas_used=None,
            adapter_hash=to_hex(record.adapter),
            wall_seconds=dict(wall_seconds),
            training=_rate(self._training.get(record.epoch, {}).values()),
            steps=self._steps.get(record.epoch, {}),
            rates=self._learning_rates(record.epoch),
            step=record.candidate.step,
            fees=record.fees,
            voiceless=record.voiceless,
        )

    def _learning_rates(self, epoch: int) -> tuple[float, ...]:
        """Of each local step."""
        training = self._config.training
        settings = TrainSettings(
            training.steps, training.batch_size, training.learning_rate, training.weight_decay, training.max_grad_norm
        ).of_epoch(epoch, self._config.alliance.num_epochs)
        return tuple(map(settings.rate, range(settings.steps)))

    def member_name(self, number: int) -> str:
        """Name of a member's silo."""
        return self._name(self._members[number][0]) if number in self._members else f"member {number}"

    def _name(self, silo: int) -> str:
        """Of a silo; its number while no node has opened it."""
        facts = self._facts.get(silo)
        return facts.name if facts else f"silo {silo}"

    def totals(
        self, state: TaskState, balances_before: Mapping[str, int], balances_after: Mapping[str, int]
    ) -> list[MemberTotal]:
        """Every member over the whole run."""
        totals = []
        for number, (silo, account) in sorted(self._members.items()):
            facts, money = self._facts.get(silo), state.members[number]
            epochs = [entry for view in self.views for entry in view.members if entry.index == number]
            scores = [entry.score for entry in epochs if entry.score is not None]
            totals.append(
                MemberTotal(
                    index=number,
                    silo=self._name(silo),
                    address=account,
                    adversary=silo in self._adversaries,
                    num_tokens=facts.num_train_tokens if facts else 0,
                    times_proposer=sum(entry.role == "proposer" for entry in epochs),
                    times_voter=sum(entry.role == "voter" for entry in epochs),
                    mean_score=fmean(scores) if scores else None,
                    earned=money.earned,
                    slashed=money.slashed,
                    stake=money.stake,
                    balance_start=balances_before[account],
                    balance_end=balances_after[account],
                    rows=asdict(facts.rows) if facts else {},
                )
            )
        return totals


def _rate(noted: Collection[Mapping[str, Any]]) -> TrainingRate | None:
    """The rate of all nodes together, from what each noted of its local training."""
    if not noted:
        return None
    possible = sum(node["seconds"] * node["flops_per_second"] for node in noted)
    slowest = max(node["seconds"] for node in noted)
    return TrainingRate(
        sum(node["tokens"] for node in noted) / slowest, sum(node["flops"] for node in noted) / possible
    )


def _bits_per_byte(facts: SiloFacts | None, loss: float | None) -> float | None:
    if facts is None or loss is None:
        return None
    return bits_per_byte(loss * facts.num_heldout_tokens, facts.num_heldout_bytes)
