"""Of a verified run: which of its adapters is taken, and who is paid for it."""

from __future__ import annotations

from dataclasses import dataclass

from flock_ray.errors import RegistryError
from flock_ray.protocol.price_book import LeafTable
from flock_ray.protocol.state import MemberState
from flock_ray.verify.chain import SettledDay, SettledEpoch
from flock_ray.verify.report import Report
from flock_ray.verify.verified import VerifiedRun


@dataclass(frozen=True)
class Choice:
    """An adapter that a committee signed for.

    Attributes:
        adapter: its hash.
        report: of the epoch, or of the day of a contest, whose record names it.
        submitter: account of its training node, 20 bytes; None in an alliance.
    """

    adapter: bytes
    report: Report
    submitter: bytes | None


def choose(run: VerifiedRun, epoch: int | None = None, place: int | None = None) -> Choice:
    """An adapter of a run.

    Args:
        run: that holds.
        epoch: whose global adapter it is, or the day of a contest; None: the last one that has any.
        place: in the ranking of a contest's day, from 1, at most as many as are paid; None: 1.

    Raises:
        RegistryError: the run has no such adapter; the text says which it has.
    """
    days = [one for one in run.settled if isinstance(one, SettledDay)]
    if days:
        return _of_contest(run, days, epoch, place or 1)
    if place is not None:
        raise RegistryError("the run is that of an alliance: its epochs have one adapter each, and no places")
    epochs = [one for one in run.settled if isinstance(one, SettledEpoch) and one.replay.accepted]
    if not epochs:
        raise RegistryError("no epoch of the run was accepted: it trained nothing that could be served")
    chosen = next((one for one in epochs if one.report.epoch == epoch), epochs[-1] if epoch is None else None)
    if chosen is None:
        accepted = ", ".join(str(one.report.epoch) for one in epochs)
        raise RegistryError(f"epoch {epoch} of the run gave no new adapter; its accepted epochs are {accepted}")
    return Choice(chosen.report.model_hash, chosen.report, None)


def _of_contest(run: VerifiedRun, days: list[SettledDay], number: int | None, place: int) -> Choice:
    ranked = {one.report.epoch: one for one in days if one.replay.final_ranking or one.replay.ranking}
    if not ranked:
        raise RegistryError("no day of the contest ranked a submission: there is nothing to serve")
    day = ranked.get(max(ranked) if number is None else number)
    if day is None:
        listed = ", ".join(map(str, ranked))
        raise RegistryError(f"day {number} of the contest ranked no submission; the days that did are {listed}")
    paid = run.genesis.state.terms.mechanism_parameters["top_nodes"]
    order = (day.replay.final_ranking or day.replay.ranking)[:paid]
    if not 1 <= place <= len(order):
        raise RegistryError(f"day {day.report.epoch} of the contest paid the places 1 to {len(order)}, not {place}")
    one = order[place - 1]
    assert one.payload is not None  # it would not be ranked
    return Choice(one.payload, day.report, _account(day.replay.state.members[one.member]))


def leaf_table(run: VerifiedRun) -> LeafTable | None:
    """What every member earned, as the run's last report has it; None, if nobody earned anything.

    Voters' and validators' pay is in it. A verified run is a closed task, so no later report changes it.
    """
    rewards = {_account(member): member.earned for member in run.final.members if member.earned}
    domain = run.genesis.domain
    return LeafTable(domain.chain_id, domain.distributor, run.final.scope.task, rewards) if rewards else None


def _account(member: MemberState) -> bytes:
    return bytes.fromhex(member.account.removeprefix("0x"))
