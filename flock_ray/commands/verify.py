"""`flock-ray verify`: check a finished run, or a batch of usage, without trusting whoever made it."""

from __future__ import annotations

from argparse import Namespace
from contextlib import closing, nullcontext

from flock_ray.chain.rpc import RpcNode
from flock_ray.commands.outcome import fail
from flock_ray.errors import ConfigError, RunDirectoryError, VerificationError
from flock_ray.protocol.encoding import to_hex
from flock_ray.verify.contest_genesis import is_contest
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.run import verify_run
from flock_ray.verify.usage import verify_usage

_OF_RESCORE = ("days", "rows", "seed", "tolerance", "model", "threads")
"""Options that say how a contest is scored again."""


def verify(asked: Namespace) -> int:
    """Verify a run and print each group of checks that passed; or a batch of usage."""
    _check_options(asked)
    if (asked.run_dir / "batch.json").is_file():
        return _verify_batch(asked)
    folder = RunFolder(asked.run_dir, asked.store)
    try:
        if asked.rescore and not is_contest(folder):
            raise RunDirectoryError(
                f"{asked.run_dir} holds the run of an alliance: only the owners of its private data can measure its"
                " losses; --rescore is for the run of a contest"
            )
        run = verify_run(folder, asked.anchor or "", asked.rpc, _say)
        if asked.rescore:
            from flock_ray.commands.rescore import rescore  # slow: it imports transformers

            rescore(folder, run.days, asked, _say)
    except VerificationError as error:
        return fail(f"does not hold: {error}", error.exit_code)
    print("Everything that can be checked holds.")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _check_options(asked: Namespace) -> None:
    alone = next((name for name in _OF_RESCORE if getattr(asked, name) is not None and not asked.rescore), None)
    if alone:
        raise ConfigError(f"--{alone} says how a contest is scored again; it goes with --rescore")
    if asked.seed is not None and asked.rows is None:
        raise ConfigError("--seed draws the rows of --rows N, which is not given: all rows are scored again")


def _verify_batch(asked: Namespace) -> int:
    if asked.anchor or asked.store or asked.rescore:
        raise ConfigError(f"{asked.run_dir} is a batch of usage: it has no --anchor, no --store and no --rescore")
    try:
        with closing(RpcNode(asked.rpc)) if asked.rpc else nullcontext() as node:
            replay = verify_usage(asked.run_dir, node)
    except VerificationError as error:
        return fail(f"does not hold: {error}", error.exit_code)
    print(f"batch {replay.number} of series {to_hex(replay.series)}: {replay.num_receipts} receipts")
    print(f"charged {sum(replay.charges.values())} wei to {len(replay.charges)} accounts, for {len(replay.payouts)}")
    for model, run in replay.sources.items():
        print(
            f"model {to_hex(model)}: members by the rewards root {to_hex(run.rewards_root)} of task {to_hex(run.task)}"
        )
    told = "and is what the chain has" if replay.on_chain else "but the chain was not asked: name a node with --rpc"
    print(f"Everything that can be checked holds, {told}.")
    return 0
