"""`flock-ray verify`: check a finished run without trusting whoever ran it.

    python jobs/verify.py RUN_DIR [--anchor HASH] [--rpc URL] [--store URL]

Replays it from its signed messages and names the first claim that fails. Exit code 0: all checks passed.
"""

from flock_ray.commands.main import start

if __name__ == "__main__":
    start("verify")
