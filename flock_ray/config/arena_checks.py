"""Checks of a contest's configuration: what the terms, the rows and the cluster allow."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from operator import attrgetter

from flock_ray.config.arena import ArenaConfig, settled_as
from flock_ray.config.checks import check_scale
from flock_ray.config.checks import problems as problems_of_task
from flock_ray.config.choices import ChainBackend, HostsMove
from flock_ray.config.schema import chain_urls, named_behaviours
from flock_ray.errors import ConfigError
from flock_ray.protocol.contest_state import ContestTerms, Window, contest_parameters

_RANGES: dict[tuple[int, float], tuple[str, ...]] = {
    (1, 4_096): ("contest.nodes", "contest.final_rows"),
    (1, 1 << 17): ("contest.max_row_tokens", "contest.answer_tokens", "training.cohort_tokens"),
    (1, 10_000): ("training.steps", "training.batch_size"),
    (1, 2**96 // 10**18): ("contest.node_stake",),
    (0, inf): ("training.weight_decay",),
}
_NAMES = {
    "alliance.num_members": "contest.validators",
    "alliance.slots_per_member": "contest.slots_per_validator",
    "alliance.num_epochs": "contest.days",
    "mechanism.slash_fraction": "contest.slash_fraction",
    "alliance.": "contest.",
}
"""Keys of an alliance that a contest has under another name."""


def arena_problems(config: ArenaConfig) -> list[ConfigError]:
    """All values that are out of range; if none is, all that do not fit together."""
    if found := list(_out_of_range(config)):
        return found
    found = [type(error)(_renamed(str(error))) for error in problems_of_task(settled_as(config))]
    for part in (_check_terms, _check_open, _check_data, _check_cluster, _check_names):
        try:
            part(config)
        except ValueError as error:
            found.append(error if isinstance(error, ConfigError) else ConfigError(str(error)))
    return found


def check_arena(config: ArenaConfig) -> None:
    """Refuse values that do not fit together.

    Raises:
        ConfigError: the text names the key, its value and the valid values.
        CaptureRiskError: dishonest seats would capture a committee too often.
    """
    for error in arena_problems(config):
        raise error


def _renamed(text: str) -> str:
    for ours, theirs in _NAMES.items():
        text = text.replace(ours, theirs)
    return text


def _out_of_range(config: ArenaConfig) -> Iterator[ConfigError]:
    for (low, high), keys in _RANGES.items():
        for key in keys:
            value = attrgetter(key)(config)
            if not (low <= value <= high and value < inf):
                limits = f"{low} or more" if high == inf else f"between {low} and {high}"
                yield ConfigError(f"{key} is {value}; it must be {limits}")
    contest = config.contest
    slots = contest.validators * contest.slots_per_validator
    if not 1 <= contest.num_voters < slots:
        yield ConfigError(
            f"contest.num_voters is {contest.num_voters}; it must be at least 1 and below the {slots} slots of"
            f" {contest.validators} validators"
        )
    for key in ("training.learning_rate", "training.max_grad_norm"):
        if not 0 < attrgetter(key)(config) < inf:
            yield ConfigError(f"{key} is {attrgetter(key)(config)}; it must be above 0 and finite")


def _check_terms(config: ArenaConfig) -> None:
    """What the contest's terms refuse."""
    contest = config.contest
    values = contest_parameters(contest.parameters)
    if config.lora.rank > values["max_rank"]:
        raise ConfigError(
            f"lora.rank is {config.lora.rank}; it must be at most contest.parameters.max_rank = {values['max_rank']}"
        )
    unknown = set(contest.windows) - set(Window)
    if unknown or min(contest.windows.values(), default=0) < 1:
        raise ConfigError(
            f"contest.windows must give seconds above 0 for each of {', '.join(Window)}; it has {dict(contest.windows)}"
        )
    if config.lora.freeze_a:
        raise ConfigError("lora.freeze_a=true is of an alliance; the nodes of a contest submit whole adapters")
    ContestTerms.check_rungs(contest.rung_rows)
    ContestTerms.check_names(contest.rule, contest.metric, contest.scorer)


def _check_open(config: ArenaConfig) -> None:
    chain, backend = config.chain, config.chain.backend
    reached = backend is ChainBackend.rpc or (backend is ChainBackend.auto and chain_urls(chain))
    if config.contest.open and not reached:
        raise ConfigError(
            f"contest.open is true with chain.backend={backend}; others need a chain that they reach too: set chain.url"
        )


def _check_data(config: ArenaConfig) -> None:
    contest, steps = config.contest, config.training.steps
    if not contest.data:
        raise ConfigError("contest.data is empty; it must name files of conversations that rows are drawn from")
    if not contest.submissions and not contest.train:
        raise ConfigError(
            "contest.train is empty; it must name what the training nodes learn from, or contest.submissions a folder"
            " of adapters"
        )
    if contest.submissions and contest.train:
        raise ConfigError(
            "contest.submissions and contest.train are both set; nodes that submit adapters train on nothing"
        )
    if not contest.submissions and steps < contest.days:
        raise ConfigError(f"training.steps is {steps}; it must be at least contest.days = {contest.days}, a step a day")


def _check_cluster(config: ArenaConfig) -> None:
    cluster = config.cluster
    if cluster.workers_per_node != 1:
        raise ConfigError(
            f"cluster.workers_per_node is {cluster.workers_per_node}; a contest scores with one worker a node group: 1"
        )
    if cluster.hosts_move is HostsMove.always:
        raise ConfigError("cluster.hosts_move is always; a contest's hosts stay where they are: auto or never")
    if config.model.dtype != "float32":
        raise ConfigError(f"model.dtype is {config.model.dtype}; a contest scores in float32")


def _check_names(config: ArenaConfig) -> None:
    last = config.contest.validators + config.contest.nodes - 1
    strangers = [number for number in named_behaviours(config.adversary) if not 0 <= number <= last]
    if strangers:
        raise ConfigError(f"adversary.members names {strangers}; members are 0 to {last}")
    if config.adversary.share or config.adversary.vote:
        raise ConfigError("adversary.share and adversary.vote are of an alliance; in a contest name adversary.members")
    check_scale(config.adversary)
