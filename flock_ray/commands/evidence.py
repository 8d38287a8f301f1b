"""`flock-ray task answer` and `flock-ray task accuse`: what signatures prove to the settlement contract."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from flock_ray.chain.eip712 import Domain
from flock_ray.chain.evidence import Evidence
from flock_ray.chain.keys import load_signer
from flock_ray.chain.rpc import RpcNode
from flock_ray.errors import ConfigError, RunDirectoryError
from flock_ray.protocol.encoding import canonical_json, from_hex
from flock_ray.protocol.message import Message, SignedMessage

TIMEOUT = 300.0  # seconds until a transaction must be mined


def answer(asked: Namespace) -> None:
    """Answer every open challenge to which the run has the signature, once or again and again."""
    with _evidence(asked) as (evidence, _):
        _answer(evidence, asked.run_dir)
        while asked.every:
            time.sleep(asked.every)
            _answer(evidence, asked.run_dir)


def accuse(asked: Namespace) -> None:
    """Have the sender of two messages that contradict each other slashed."""
    with _evidence(asked) as (evidence, task):
        _accuse(evidence, asked.run_dir, task, *map(_signed, asked.files))


@contextmanager
def _evidence(asked: Namespace) -> Iterator[tuple[Evidence, dict[str, Any]]]:
    """What brings evidence about a run to its contract, and the run's task."""
    task = _read(asked.run_dir / "task.json")
    signer = load_signer(asked.key, asked.keystore)
    domain = Domain(task["chain_id"], task["contract"], task["contracts"]["distributor"])
    with closing(RpcNode(asked.rpc, task["chain_id"])) as node:
        yield Evidence(node, signer, domain, from_hex(task["task"]), TIMEOUT), task


def _answer(evidence: Evidence, run_dir: Path) -> None:
    """Answer every open challenge to which the run has the signature."""
    for path in sorted((run_dir / "receipts").glob("*.json"), key=lambda path: int(path.stem)):
        receipt = _read(path)
        if receipt.get("abandoned"):
            continue
        signatures = [from_hex(text, 65) for text in receipt["signatures"].values()]
        for challenge in evidence.challenges(receipt["epoch"]):
            what = f"epoch {challenge.epoch}, seat {challenge.seat} of {challenge.owner}"
            sent = evidence.answer(challenge, signatures)
            print(f"{what}: answered in 0x{sent.hash.hex()}" if sent else f"{what}: the run has no such signature")


def _accuse(
    evidence: Evidence, run_dir: Path, task: dict[str, Any], first: SignedMessage, second: SignedMessage
) -> None:
    message = Message.parse(first.data)
    if message.member >= len(task["members"]):
        raise ConfigError(f"the run has no member {message.member}")
    account = task["members"][message.member][0]
    seed = _read(run_dir / "receipts" / f"{message.epoch}.json")["report"]["seed"]
    sent = evidence.accuse(account, from_hex(seed), first, second)
    print(f"member {message.member}, {account}: accused in 0x{sent.hash.hex()}")


def _signed(path: Path) -> SignedMessage:
    value = _read(path)
    try:
        signed = SignedMessage(canonical_json(value["message"]), from_hex(value["signature"], 65))
        Message.parse(signed.data)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} holds no signed message ({type(error).__name__})") from None
    return signed


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the user."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise RunDirectoryError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise RunDirectoryError(f"{path} is no JSON file") from None
    if not isinstance(value, dict):
        raise RunDirectoryError(f"{path} holds no object")
    return value
