"""`flock-ray serve`: serve what was trained, through the API that OpenAI's clients speak.

    python jobs/serve.py 'runs=[RUN_DIR]' [key=value ...]               serve from here
    ray job submit --working-dir . -- python jobs/serve.py 'runs=[RUN_DIR]' cluster=existing

`--help` lists the groups, `--cfg job` the configuration. It serves until Ctrl-C or `ray job stop`.
"""

from flock_ray.commands.main import start

if __name__ == "__main__":
    start("serve")
