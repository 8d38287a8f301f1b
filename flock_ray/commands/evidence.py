"""`flock-ray task …`: what members' signatures prove to the settlement contract, out of a run's folder."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from flock_ray.chain import calls
from flock_ray.chain.keys import Signer
from flock_ray.chain.words import format_tokens, utc
from flock_ray.commands.connection import Connection, connected
from flock_ray.commands.run_files import read_object, read_report, rewards_tree
from flock_ray.errors import ChainError, ConfigError
from flock_ray.protocol.encoding import canonical_json, from_hex, to_hex
from flock_ray.protocol.message import Message, SignedMessage


def answer(asked: Namespace) -> None:
    """Answer every open challenge to which the run has the signature, once or again and again."""
    with connected(asked) as chain:
        _answer(chain)
        while asked.every:
            time.sleep(asked.every)
            _answer(chain)


def _answer(chain: Connection) -> None:
    for receipt in chain.run.receipts():
        for challenge in chain.evidence.challenges(receipt.epoch):
            if chain.reader.timestamp() > challenge.deadline:
                continue
            what = f"epoch {challenge.epoch}, seat {challenge.seat} of {challenge.owner}"
            facts = {"epoch": challenge.epoch, "seat": challenge.seat, "account": challenge.owner}
            call = chain.evidence.answer(challenge, receipt.signatures)
            if call is None:
                chain.output.note(f"{what}: the run has no such signature", {**facts, "answered": False})
            elif sent := chain.send(call):
                chain.output.done(sent, f"{what}: answered", "", {**facts, "answered": True})


def challenge(asked: Namespace) -> None:
    """Challenge seats whose signature the last settled report came without."""
    with connected(asked) as chain:
        report = chain.run.report(chain.reader.struct("EpochSettlement", "headOf", chain.task)["lastReport"])
        seats = chain.evidence.absent(report) if asked.seat is None else [asked.seat]
        if not seats:
            raise ChainError(f"every seat of epoch {report.epoch} signed, or was challenged already")
        sent = chain.send(*(calls.challenge_absence(chain.at, report, seat) for seat in seats))
        if sent:
            until = max(case.deadline for case in chain.evidence.challenges(report.epoch) if case.seat in seats)
            chain.output.done(
                sent,
                f"epoch {report.epoch}: challenged {_seats(seats)}",
                f"Who shows no signature until {utc(until)} can be slashed then: flock-ray task slash-absent",
                {"epoch": report.epoch, "seats": seats, "deadline_at": until},
            )


def slash_absent(asked: Namespace) -> None:
    """Slash every challenged seat that has shown no signature in time."""
    with connected(asked) as chain:
        now = chain.reader.timestamp()
        challenges = [case for receipt in chain.run.receipts() for case in chain.evidence.challenges(receipt.epoch)]
        due = [case for case in challenges if now > case.deadline]
        if not due:
            waiting = "; ".join(f"seat {case.seat} may answer until {utc(case.deadline)}" for case in challenges)
            raise ChainError(f"there is nobody to slash: {waiting or 'no challenge is open'}")
        sent = chain.send(*(calls.slash_absent(chain.at, chain.task, case.epoch, case.seat) for case in due))
        if sent:
            told = ", ".join(f"seat {case.seat} of epoch {case.epoch}, {case.owner}" for case in due)
            facts = [{"epoch": case.epoch, "seat": case.seat, "account": case.owner} for case in due]
            chain.output.done(sent, f"slashed: {told}", "", {"slashed": facts})


def accuse(asked: Namespace) -> None:
    """Have whoever signed two messages, or two reports, that contradict each other slashed."""
    with connected(asked) as chain:
        first, second = map(read_object, asked.files)
        if "report" in first and "report" in second:
            reports = [(_report(path), _signature(path)) for path in asked.files]
            account, call = chain.evidence.accuse_of_reports(reports[0], reports[1])
            what = account
        else:
            one, other = map(_signed, asked.files)
            message = Message.parse(one.data)
            account = chain.run.account(message.member)
            call = chain.evidence.accuse(account, chain.run.receipt(message.epoch).report.seed, one, other)
            what = f"member {message.member}, {account}"
        if sent := chain.send(call):
            chain.output.done(sent, f"{what}: accused", "", {"account": account})


def settle(asked: Namespace) -> None:
    """Settle the next epoch with the report that its committee signed, whoever holds it back."""
    with connected(asked) as chain:
        clock = chain.reader.struct("EpochSettlement", "headOf", chain.task)["clock"]
        receipt = chain.run.receipt(clock["lastSettled"] + 1)
        if sent := chain.send(chain.evidence.settlement(receipt.report, receipt.signatures)):
            chain.output.done(sent, f"epoch {receipt.epoch}: settled", "", {"epoch": receipt.epoch})


def correct(asked: Namespace) -> None:
    """Sign, or send, what takes the place of a root that the guardian disabled."""
    with connected(asked) as chain:
        value = read_object(asked.file)
        rewards = read_rewards(asked.file)
        report = chain.run.report(chain.reader.struct("EpochSettlement", "headOf", chain.task)["lastReport"])
        root, total = rewards_tree(rewards, chain.domain, chain.task).root, sum(rewards.values())
        signatures = [_bytes(asked.file, text) for text in value.get("signatures", [])]
        if asked.sign:
            digest = chain.evidence.correction_digest(report, root, total)
            _add_signature(asked.file, value, chain.signer, digest)
            told = (
                f"{chain.account} signed that the rewards up to epoch {report.epoch} are {format_tokens(total)} tokens"
            )
            chain.output.note(
                f"{told}; the signature is in {asked.file}", {"account": chain.account, "root": to_hex(root)}
            )
        elif sent := chain.send(chain.evidence.correction(report, root, total, signatures)):
            facts = {"epoch": report.epoch, "root": to_hex(root), "total_wei": total}
            chain.output.done(sent, f"epoch {report.epoch}: corrected", "", facts)


def read_rewards(path: Path) -> dict[str, int]:
    """{account: wei earned so far} of the file of a correction."""
    value = read_object(path).get("rewards")
    if not isinstance(value, dict) or not all(isinstance(wei, int) and wei > 0 for wei in value.values()):
        raise ConfigError(f'{path} holds no rewards: {{"rewards": {{ACCOUNT: WEI, ...}}, "signatures": [...]}}')
    return value


def _add_signature(path: Path, value: dict[str, Any], signer: Signer, digest: bytes) -> None:
    signature = to_hex(signer.sign_digest(digest))
    value["signatures"] = [*(text for text in value.get("signatures", []) if text != signature), signature]
    try:
        path.write_text(json.dumps(value, indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _seats(seats: list[int]) -> str:
    return f"seat{'s' if len(seats) > 1 else ''} {', '.join(map(str, seats))}"


def _signed(path: Path) -> SignedMessage:
    value = read_object(path)
    try:
        signed = SignedMessage(canonical_json(value["message"]), from_hex(value["signature"], 65))
        Message.parse(signed.data)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} holds no signed message ({type(error).__name__})") from None
    return signed


def _report(path: Path) -> Any:
    try:
        return read_report(read_object(path)["report"])
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} holds no signed report ({type(error).__name__})") from None


def _signature(path: Path) -> bytes:
    return _bytes(path, read_object(path).get("signature"))


def _bytes(path: Path, text: object) -> bytes:
    try:
        return from_hex(text, 65)
    except ValueError as error:
        raise ConfigError(f"{path} holds a malformed signature: {error}") from None
