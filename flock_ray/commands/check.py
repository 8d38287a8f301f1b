"""`flock-ray check`: whether a run will work, before it costs anything: `flock-ray alliance` with `plan_only=true`."""

from __future__ import annotations

from collections.abc import Sequence

from flock_ray.commands.alliance import compose_and_play
from flock_ray.commands.composed import with_override


def check(overrides: Sequence[str]) -> int:
    """Look at what a run of these overrides needs; returns the exit code of the first thing that is wrong."""
    return compose_and_play("flock-ray check", with_override(overrides, "plan_only=true"))
