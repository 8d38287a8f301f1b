"""`flock-ray sweep`: many runs over the values of some settings, and what they came to.

    python jobs/sweep.py alliance experiment=tiny seed=1,2,3 mechanism=marginal1,flock
    ray job submit --working-dir . -- python jobs/sweep.py alliance seed=1,2,3      each point is a job of its own

The same command goes on where it was interrupted; `--dry-run` shows the points, `sweep.retry=true` plays failed ones
once more.
"""

from flock_ray.commands.main import start

if __name__ == "__main__":
    start("sweep")
