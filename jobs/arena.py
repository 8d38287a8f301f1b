"""`flock-ray arena`: a contest of adapters from configuration to summary.

    python jobs/arena.py [experiment=arena_demo] [key=value ...]        run it here
    ray job submit --working-dir . -- python jobs/arena.py experiment=arena_demo cluster=existing

`--help` lists the groups, `--cfg job` the configuration; `plan_only=true` shows the placement and looks whether the run
will work; `resume=RUN_DIR` continues.
"""

from flock_ray.commands.main import start

if __name__ == "__main__":
    start("arena")
