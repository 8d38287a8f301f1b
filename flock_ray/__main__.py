"""`python -m flock_ray` is `flock-ray`."""

from flock_ray.commands.main import start

if __name__ == "__main__":
    start()
