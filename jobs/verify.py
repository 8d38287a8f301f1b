"""Check a finished run without trusting whoever ran it.

    python jobs/verify.py RUN_DIR [--anchor HASH] [--rpc URL] [--store URL]

Replays it from its signed messages and names the first claim that fails. Exit code 0: all checks passed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flock_ray.errors import FlockRayError, VerificationError

HEX = 64


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="jobs/verify.py",
        description="Replay a finished run from its signed messages; name the first thing that does not hold.",
        epilog="Exit codes: 0 everything held, 51 something does not, 61 no finished run, or one that was pruned,"
        " 41 the RPC does not answer.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder of the run")
    parser.add_argument(
        "--anchor",
        metavar="HASH",
        type=_anchor,
        help="what the run started from (task, terms, members' accounts, contract), as you know it from elsewhere:"
        " without it a forger who made up all members would pass",
    )
    parser.add_argument("--rpc", default="", metavar="URL", help="node that you trust, for a run on an external chain")
    parser.add_argument("--store", default="", metavar="URL", help="where the blobs are, if not in RUN_DIR/store")
    return parser.parse_args(arguments)


def _anchor(text: str) -> str:
    digits = text.lower().removeprefix("0x")
    if len(digits) != HEX or set(digits) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError("a hash has 64 hex digits")
    return digits


def main(arguments: list[str]) -> int:
    """Verify and print each group of checks that passed; returns the exit code."""
    asked = parse(arguments)
    # These import torch and the EVM, so only after the command line was parsed.
    from flock_ray.verify.folder import RunFolder
    from flock_ray.verify.run import verify_run

    try:
        verify_run(
            RunFolder(asked.run_dir, asked.store), asked.anchor or "", asked.rpc, lambda line: print(line, flush=True)
        )
    except VerificationError as error:
        return _fail(f"does not hold: {error}", error.exit_code)
    except FlockRayError as error:
        return _fail(f"error: {error}", error.exit_code)
    except KeyboardInterrupt:
        return _fail("error: interrupted", 130)
    print("Everything that can be checked holds.")
    return 0


def _fail(message: str, exit_code: int) -> int:
    print(" ".join(message.split()), file=sys.stderr, flush=True)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
