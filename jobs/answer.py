"""`flock-ray task answer` and, with `--accuse`, `flock-ray task accuse`.

    python jobs/answer.py RUN_DIR --rpc URL --key NAME [--keystore DIR] [--every SECONDS]
    python jobs/answer.py RUN_DIR --rpc URL --key NAME --accuse FILE FILE

The first posts the signature, from the run's receipts, of each seat that is challenged. The second gets the sender of
two different messages of one kind slashed; a FILE is {"message": {...}, "signature": "0x..."}. The account of NAME pays
the gas: `relayer`, `creator` or `member-<number>`, with its key in the same place as for a run.
"""

import sys

from flock_ray.commands.main import start

if __name__ == "__main__":
    accuses = "--accuse" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--accuse"]
    start("task", "accuse" if accuses else "answer")
