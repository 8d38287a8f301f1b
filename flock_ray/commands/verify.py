"""`flock-ray verify`: check a finished run without trusting whoever ran it."""

from __future__ import annotations

from argparse import Namespace

from flock_ray.commands.outcome import fail
from flock_ray.errors import ConfigError, RunDirectoryError, VerificationError
from flock_ray.verify.contest_genesis import is_contest
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.run import verify_run

_OF_RESCORE = ("days", "rows", "seed", "tolerance", "model", "threads")
"""Options that say how a contest is scored again."""


def verify(asked: Namespace) -> int:
    """Verify a run and print each group of checks that passed."""
    alone = next((name for name in _OF_RESCORE if getattr(asked, name) is not None and not asked.rescore), None)
    if alone:
        raise ConfigError(f"--{alone} says how a contest is scored again; it goes with --rescore")
    if asked.seed is not None and asked.rows is None:
        raise ConfigError("--seed draws the rows of --rows N, which is not given: all rows are scored again")
    folder = RunFolder(asked.run_dir, asked.store)
    try:
        if asked.rescore and not is_contest(folder):
            raise RunDirectoryError(
                f"{asked.run_dir} holds the run of an alliance: only the owners of its private data can measure its"
                " losses; --rescore is for the run of a contest"
            )
        days = verify_run(folder, asked.anchor or "", asked.rpc, _say)
        if asked.rescore:
            from flock_ray.commands.rescore import rescore  # slow: it imports transformers

            rescore(folder, days, asked, _say)
    except VerificationError as error:
        return fail(f"does not hold: {error}", error.exit_code)
    print("Everything that can be checked holds.")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)
