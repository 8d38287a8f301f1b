"""Answer absence challenges from a run's folder, or report two contradicting messages of a member to the contract.

    python jobs/answer.py RUN_DIR --rpc URL --key NAME [--keystore DIR] [--every SECONDS]
    python jobs/answer.py RUN_DIR --rpc URL --key NAME --accuse FILE FILE

The first posts the signature, from the run's receipts, of each seat that is challenged. The second gets the sender of
two different messages of one kind slashed; a FILE is {"message": {...}, "signature": "0x..."}. The account of NAME pays
the gas: `relayer`, `creator` or `member-<number>`, with its key in the same place as for a run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from flock_ray.chain.eip712 import Domain
from flock_ray.chain.evidence import Evidence
from flock_ray.chain.keys import load_signer
from flock_ray.chain.rpc import RpcNode
from flock_ray.errors import ConfigError, FlockRayError, RunDirectoryError
from flock_ray.protocol.encoding import canonical_json, from_hex
from flock_ray.protocol.message import Message, SignedMessage

TIMEOUT = 300.0  # seconds until a transaction must be mined


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="jobs/answer.py",
        description="Answer absence challenges out of a run's folder, or prove that a member contradicted itself.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder of the run")
    parser.add_argument("--rpc", required=True, metavar="URL", help="node of the run's chain")
    parser.add_argument("--key", required=True, metavar="NAME", help="whose key pays the gas, for example member-0")
    parser.add_argument("--keystore", default="", metavar="DIR", help="folder of keystores, instead of the environment")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--every", type=float, default=0.0, metavar="SECONDS", help="look again and again")
    what.add_argument("--accuse", nargs=2, type=Path, metavar="FILE", help="two signed messages of one member")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Answer or accuse, telling what was done; returns the exit code."""
    asked = parse(arguments)
    try:
        task = _read(asked.run_dir / "task.json")
        signer = load_signer(asked.key, asked.keystore)
        node = RpcNode(asked.rpc, task["chain_id"])
        try:
            domain = Domain(task["chain_id"], task["contract"], task["contracts"]["distributor"])
            evidence = Evidence(node, signer, domain, from_hex(task["task"]), TIMEOUT)
            if asked.accuse:
                _accuse(evidence, asked.run_dir, task, *map(_signed, asked.accuse))
                return 0
            _answer(evidence, asked.run_dir)
            while asked.every:
                time.sleep(asked.every)
                _answer(evidence, asked.run_dir)
        finally:
            node.close()
    except FlockRayError as error:
        return _fail(f"error: {error}", error.exit_code)
    except KeyboardInterrupt:
        return _fail("error: interrupted", 130)
    return 0


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


def _fail(message: str, exit_code: int) -> int:
    print(" ".join(message.split()), file=sys.stderr, flush=True)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
