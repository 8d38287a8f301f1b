"""`flock-ray task …`: voter seats whose signature is missing: challenge, answer, slash."""

from __future__ import annotations

import time
from argparse import Namespace

from flock_ray.chain import calls
from flock_ray.chain.challenges import Challenge
from flock_ray.chain.values import TxReceipt
from flock_ray.chain.words import utc
from flock_ray.commands.connection import Connection, connected
from flock_ray.errors import ChainError, FlockRayError, RunDirectoryError


def answer(asked: Namespace) -> None:
    """Answer every open challenge to which the run has the signature, once or again and again."""
    with connected(asked) as chain:
        lacking: set[Challenge] = set()  # and told already
        _answer(chain, lacking)
        while asked.every:
            time.sleep(asked.every)
            try:
                _answer(chain, lacking)
            except FlockRayError as error:  # a watch outlives a node that is away, or a case that another one ended
                chain.output.note(f"not looked at now: {error}", {"error": str(error)})


def _answer(chain: Connection, lacking: set[Challenge]) -> None:
    refused: list[ChainError] = []
    for case in chain.challenges.open():
        what = f"epoch {case.epoch}, seat {case.seat} of {case.owner}"
        facts = {"epoch": case.epoch, "seat": case.seat, "account": case.owner}
        call = chain.evidence.answer(case, _signatures(chain, case.epoch))
        if call is None:
            if case not in lacking:
                chain.output.note(f"{what}: the run has no such signature", {**facts, "answered": False})
            lacking.add(case)
            continue
        try:
            sent = chain.send(call)
        except ChainError as error:  # the others may still be answered
            refused.append(error)
            continue
        if sent:
            chain.output.done(sent, f"{what}: answered", "", {**facts, "answered": True})
    if refused:
        raise refused[0]


def _signatures(chain: Connection, epoch: int) -> list[bytes]:
    try:
        return chain.run.receipt(epoch).signatures
    except RunDirectoryError:
        return []


def challenge(asked: Namespace) -> None:
    """Challenge seats whose signature the last settled report came without."""
    with connected(asked) as chain:
        report = chain.run.report(chain.reader.struct("EpochSettlement", "headOf", chain.task)["lastReport"])
        seats = chain.evidence.absent(report) if asked.seat is None else [asked.seat]
        if not seats:
            raise ChainError(f"every seat of epoch {report.epoch} signed, or was challenged already")
        sent = chain.send(*(calls.challenge_absence(chain.at, report, seat) for seat in seats))
        if sent:
            asked_for = (chain.task, report.epoch, seats[-1])
            until = chain.reader.struct("EpochSettlement", "challengeOf", *asked_for)["deadline"]
            chain.output.done(
                sent,
                f"epoch {report.epoch}: challenged {_seats(seats)}",
                f"Who shows no signature until {utc(until)} can be slashed then: flock-ray task slash-absent",
                {"epoch": report.epoch, "seats": seats, "deadline_at": until},
            )


def slash_absent(asked: Namespace) -> None:
    """Slash every challenged seat that shows no signature: a first call announces it, a second one does it."""
    with connected(asked) as chain:
        now, cases = chain.reader.timestamp(), chain.challenges.open()
        due = [case for case in cases if now > case.deadline and now >= case.slashable_from]
        if not due:
            waiting = "; ".join(map(_patience, cases))
            raise ChainError(f"there is nobody to slash: {waiting or 'no challenge is open'}")
        ended = chain.send_each([calls.slash_absent(chain.at, chain.task, case.epoch, case.seat) for case in due])
        sent = {case: end for case, end in zip(due, ended, strict=False) if isinstance(end, TxReceipt)}
        still = {(case.epoch, case.seat): case for case in chain.challenges.open()} if sent else {}
        announced = [still[case.epoch, case.seat] for case in sent if (case.epoch, case.seat) in still]
        slashed = [case for case in sent if (case.epoch, case.seat) not in still]
        if sent:
            told = [f"slashed {_names(slashed)}"] if slashed else []
            told += [f"announced that {_names(announced)} can be slashed"] if announced else []
            refused = [str(end) for end in ended if not isinstance(end, TxReceipt)]
            then = [f"from {utc(case.slashable_from)} on the same command does it" for case in announced[:1]]
            then += [f"not sent: {why}" for why in refused]
            facts = {"slashed": list(map(_facts, slashed)), "announced": list(map(_facts, announced))}
            chain.output.done(list(sent.values()), "; ".join(told), "; ".join(then), {**facts, "refused": refused})


def _patience(case: Challenge) -> str:
    if case.slashable_from:
        return f"seat {case.seat} of epoch {case.epoch} can be slashed from {utc(case.slashable_from)} on"
    return f"seat {case.seat} of epoch {case.epoch} may answer until {utc(case.deadline)}"


def _names(cases: list[Challenge]) -> str:
    return ", ".join(f"seat {case.seat} of epoch {case.epoch}, {case.owner}" for case in cases)


def _facts(case: Challenge) -> dict[str, object]:
    since = {"slash_from_at": case.slashable_from} if case.slashable_from else {}
    return {"epoch": case.epoch, "seat": case.seat, "account": case.owner, **since}


def _seats(seats: list[int]) -> str:
    return f"seat{'s' if len(seats) > 1 else ''} {', '.join(map(str, seats))}"
