"""Settings that are one of a few words."""

from __future__ import annotations

from enum import Enum


class Engine(Enum):
    """What runs the local steps; `auto` is DeepSpeed for several ranks, a GPU or ZeRO, torch for one CPU worker."""

    auto = "auto"
    torch = "torch"
    deepspeed = "deepspeed"


class Backend(Enum):
    """How a node trains several members: one after the other, or in one batch over stacked adapters.

    `stacked` pads members to the largest, `grouped` keeps unequal ones as they are; `auto` is `stacked`, or
    `sequential` if DeepSpeed shards (`training.zero_stage` above 0) or the model's attention has a window shorter than
    the sequences, a soft cap, sinks or a state, or is none that can be replaced.
    """

    auto = "auto"
    sequential = "sequential"
    stacked = "stacked"
    grouped = "grouped"


class CohortScope(Enum):
    """Which members may train in one batch: those of a logical host, or each alone (`solo`)."""

    host = "host"
    solo = "solo"


class RankSplit(Enum):
    """What the ranks of a node group divide at `training.zero_stage=0`: the members, or the rows of each member."""

    members = "members"
    rows = "rows"


class ChainBackend(Enum):
    """Where the contracts are; `auto` is rpc if `chain.url` is set, else anvil if installed, else eth_tester."""

    auto = "auto"
    eth_tester = "eth_tester"
    anvil = "anvil"
    rpc = "rpc"
    none = "none"


class Finality(Enum):
    """How final settlements must be before the pay-out: in a block, a `safe` block or a `finalized` block."""

    mined = "mined"
    safe = "safe"
    finalized = "finalized"


class ClusterMode(Enum):
    """`local` starts Ray on this machine, `existing` joins the cluster at `cluster.address`."""

    local = "local"
    existing = "existing"


class HostsMove(Enum):
    """Whether logical hosts move between node groups; `auto`: in `local` mode, where every group reaches all data."""

    auto = "auto"
    always = "always"
    never = "never"


class Keep(Enum):
    """What a whole run keeps of its blobs: `all`, what a `replay` by jobs/verify.py reads, or the final `adapter`."""

    all = "all"
    replay = "replay"
    adapter = "adapter"
