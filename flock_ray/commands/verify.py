"""`flock-ray verify`: check a finished run without trusting whoever ran it."""

from __future__ import annotations

from argparse import Namespace

from flock_ray.commands.outcome import fail
from flock_ray.errors import VerificationError
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.run import verify_run


def verify(asked: Namespace) -> int:
    """Verify a run and print each group of checks that passed."""
    folder = RunFolder(asked.run_dir, asked.store)
    try:
        verify_run(folder, asked.anchor or "", asked.rpc, lambda line: print(line, flush=True))
    except VerificationError as error:
        return fail(f"does not hold: {error}", error.exit_code)
    print("Everything that can be checked holds.")
    return 0
