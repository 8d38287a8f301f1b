"""The main job, `flock-ray alliance`: an FL Alliance from configuration to report.

    python jobs/alliance.py [experiment=default] [key=value ...]        run it here
    ray job submit --working-dir . -- python jobs/alliance.py experiment=default cluster=existing

`--help` lists the groups, `--cfg job` the configuration; `plan_only=true` shows the placement and looks whether the run
will work; `resume=RUN_DIR` continues.
"""

from flock_ray.commands.main import start

if __name__ == "__main__":
    start("alliance")
