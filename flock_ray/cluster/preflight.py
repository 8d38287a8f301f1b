"""What is refused before a run folder exists and anything is started, because the driver can tell at once."""

from __future__ import annotations

from contextlib import closing

from flock_ray.adversary.part import changed_by, parts
from flock_ray.chain.anvil import claim_port, find_anvil
from flock_ray.chain.keys import load_signer
from flock_ray.chain.rpc import RpcNode
from flock_ray.cluster.launch import terms_of, uses_rpc
from flock_ray.cluster.placement import num_silos
from flock_ray.cluster.start_adapter import read_start_adapter
from flock_ray.config import ChainBackend, ClusterMode, Config, behaviours, chain_urls
from flock_ray.errors import ConfigError, DataError, FundsError
from flock_ray.protocol.mechanisms import get_mechanism
from flock_ray.telemetry.tracking.registry import require_trackers
from flock_ray.training.data import sources
from flock_ray.training.model import choose_dtype


def check_before_start(config: Config) -> None:
    """Look up every name, and look whether the chain can be used.

    Raises:
        ConfigError: an unknown rule, wire format, behaviour, tracker or kind of data, or a parameter that a rule or
            format does not have; the text lists those that exist.
        DataError: there are fewer packages than members.
        ModelError: an unknown `model.dtype`, or `start_from` names no adapter of this rank.
        ChainError: one of its kinds: the RPC does not answer or is another chain, a key is missing or its account
            empty, the port is taken.
    """
    check_names(config)
    if not config.resume:
        read_start_adapter(config)
    if uses_rpc(config):
        _check_rpc(config)
    else:
        check_embedded_chain(config)


def check_names(config: Config) -> None:
    """Look up every name, and see that there is data for every member; errors as in `check_before_start`."""
    terms_of(config)
    _check_adversary(config)
    if config.data.kind not in sources():
        raise ConfigError(f"data.kind is {config.data.kind!r}; it must be one of {', '.join(sources())}")
    if config.data.kind == "stdlib_code" and len(config.data.packages) < num_silos(config):
        raise DataError(
            f"data.packages names {len(config.data.packages)} packages, none for member {len(config.data.packages)};"
            " lower alliance.num_members or name more"
        )
    require_trackers(config.tracking.trackers)
    choose_dtype(config.model.dtype, "cpu")


def _check_adversary(config: Config) -> None:
    """Look up behaviours, and see that they can do here what they do, and change anything."""
    adversary, mechanism = config.adversary, get_mechanism(config.mechanism.name)
    parts(adversary.attack)
    if adversary.vote:
        parts(adversary.vote, "adversary.vote")
    asked = {"ballot_a": mechanism.scores_proposals, "ballot_b": mechanism.scores_candidate}
    places = config.cluster.nodes, config.cluster.workers_per_node
    for member, name in behaviours(config).items():
        both = parts(name, f"adversary.members.{member}")
        changed = changed_by(name)
        if changed and not any(asked.get(method, True) for method in changed):
            raise ConfigError(
                f"member {member} cheats as {name!r}, which changes votes alone, and mechanism.name="
                f"{config.mechanism.name} asks for none; take marginal1"
            )
        if places != (1, 1) and any(part.kind.computes or part.kind.one_silo for part in both):
            raise ConfigError(
                f"member {member} cheats as {name!r}, which trains and measures with its accomplices' data: one worker"
                " must host all; take cluster.nodes=1 cluster.workers_per_node=1"
            )


def _check_rpc(config: Config) -> None:
    chain = config.chain
    with closing(RpcNode(chain_urls(chain), chain.chain_id)) as node:
        for name in accounts_here(config):
            account = load_signer(name, chain.keystore).address
            if not node.balance(account):
                raise FundsError(f"the {name}'s account {account} has no gas money on chain {node.chain_id}")


def check_embedded_chain(config: Config) -> None:
    """Refuse a port for the chain of this run that something else listens on.

    Raises:
        ChainUnreachableError: it is taken.
    """
    chain = config.chain
    if chain.backend is ChainBackend.anvil or (chain.backend is ChainBackend.auto and find_anvil()):
        claim_port(chain.port)


def accounts_here(config: Config) -> tuple[str, ...]:
    """Whose keys this process can look up: on an existing cluster the chain actor has an environment of its own."""
    shared = config.chain.keystore or config.cluster.mode is ClusterMode.local
    return ("creator", "relayer") if shared else ("creator",)
