"""`flock-ray task …`: what members' signatures prove to the settlement contract, out of a run's folder."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from flock_ray.chain.evidence import statement
from flock_ray.chain.keys import Signer
from flock_ray.chain.words import format_tokens
from flock_ray.commands.connection import connected
from flock_ray.commands.run_files import read_report, rewards_tree
from flock_ray.errors import ConfigError
from flock_ray.protocol.encoding import canonical_json, from_hex, to_hex
from flock_ray.protocol.message import SignedMessage
from flock_ray.store.files import read_json


def accuse(asked: Namespace) -> None:
    """Have whoever signed two messages, or two reports, that contradict each other slashed."""
    with connected(asked) as chain:
        first, second = map(read_json, asked.files)
        if "report" in first and "report" in second:
            reports = [(_report(path), _signature(path)) for path in asked.files]
            account, call = chain.evidence.accuse_of_reports(reports[0], reports[1])
            what = account
        else:
            one, other = map(_signed, asked.files)
            message = statement(one.data)
            [member] = chain.reader.members(chain.task, [message.member])  # who came later is not in task.json
            account = member.account
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
        value = read_json(asked.file)
        rewards = read_rewards(asked.file)
        report = chain.run.report(chain.reader.struct("EpochSettlement", "headOf", chain.task)["lastReport"])
        root, total = rewards_tree(rewards, chain.domain, chain.task).root, sum(rewards.values())
        signatures = [_bytes(asked.file, text) for text in value.get("signatures", [])]
        if asked.sign:
            facts = {"account": chain.account, "epoch": report.epoch, "root": to_hex(root), "total_wei": total}
            what = f"that the rewards up to epoch {report.epoch} are {format_tokens(total)} tokens"
            if chain.dry_run:
                told = f"Dry run: {chain.account} would sign {what}; nothing is written"
                chain.output.note(told, {"dry_run": True, **facts})
                return
            _add_signature(asked.file, value, chain.signer, chain.evidence.correction_digest(report, root, total))
            chain.output.note(f"{chain.account} signed {what}; the signature is in {asked.file}", facts)
        elif sent := chain.send(chain.evidence.correction(report, root, total, signatures)):
            facts = {"epoch": report.epoch, "root": to_hex(root), "total_wei": total}
            chain.output.done(sent, f"epoch {report.epoch}: corrected", "", facts)


def read_rewards(path: Path) -> dict[str, int]:
    """{account: wei earned so far} of the file of a correction."""
    value = read_json(path).get("rewards")
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


def _signed(path: Path) -> SignedMessage:
    value = read_json(path)
    try:
        signed = SignedMessage(canonical_json(value["message"]), from_hex(value["signature"], 65))
        statement(signed.data)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} holds no signed message ({type(error).__name__})") from None
    return signed


def _report(path: Path) -> Any:
    try:
        return read_report(read_json(path)["report"])
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} holds no signed report ({type(error).__name__})") from None


def _signature(path: Path) -> bytes:
    return _bytes(path, read_json(path).get("signature"))


def _bytes(path: Path, text: object) -> bytes:
    try:
        return from_hex(text, 65)
    except ValueError as error:
        raise ConfigError(f"{path} holds a malformed signature: {error}") from None
