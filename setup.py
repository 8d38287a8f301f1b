"""What pyproject.toml cannot say: `conf/` travels in the wheel, as the package `flock_ray.conf`."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["flock_ray*"]), "flock_ray.conf"], package_dir={"flock_ray.conf": "conf"})
