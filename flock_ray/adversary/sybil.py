"""Several members of one operator."""

from __future__ import annotations

from flock_ray.adversary.behaviour import Behaviour


class Sybil(Behaviour):
    """All accomplices are one operator's, who has one data set: each trains and votes on it, honestly.

    Douceur 2002, "The Sybil Attack" (IPTPS). Stake is what it costs; what it gains are seats for the same data.
    """

    one_silo = True
