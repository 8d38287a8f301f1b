"""The schema of `flock-ray serve`: what is served, on what, to whom, for what money."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from operator import attrgetter
from urllib.parse import urlsplit

from flock_ray.config.schema import ClusterConfig, ModelConfig
from flock_ray.errors import ConfigError


class EngineKind(Enum):
    """What answers: the base model with its adapters, or, to try clients, the prompt's own text at once."""

    batching = "batching"
    echo = "echo"


class MoneyKind(Enum):
    """`none`: keys have budgets, and nobody pays; `chain`: deposits of a usage contract, and members are paid."""

    none = "none"
    chain = "chain"


@dataclass
class EngineConfig:
    """How each engine is laid out; `docs/serving.md` says what these cost in memory.

    Attributes:
        rows: answers at the same time.
        adapter_slots: adapters in the model at the same time; at least `rows`.
        context_length: tokens of a prompt and its answer together.
        step_tokens: tokens that a step computes; of a long prompt each step takes a part.
        waiting: requests that wait for a row; one more is answered with 429.
        max_rank: largest rank of an adapter (0: that of the models there are at start).
        gather: seconds that events of an answer are gathered after its first token before they are sent on together,
            since each sending costs the engine's machine about as much as a token.
    """

    kind: EngineKind = EngineKind.batching
    rows: int = 16
    adapter_slots: int = 16
    context_length: int = 1_024
    step_tokens: int = 256
    waiting: int = 128
    max_rank: int = 0
    gather: float = 0.05


@dataclass
class MoneyConfig:
    """What answers cost, and who gets it.

    Attributes:
        rpc: node of the chain of the usage contract; chain_id: the id that it must serve (0: any).
        contract: address of the usage contract.
        keystore: folder of keystore files `gateway.json` and `receipts.json` (password in
            FLOCK_RAY_KEYSTORE_PASSWORD); without it keys come from the environment.
        prompt: units (wei) for a token of a prompt, output: for one of an answer, of the runs that are published at
            start; other entries keep theirs.
        host, protocol, owner, members: how a cost is divided, in basis points that sum to 10,000.
        cap_margin: seconds before a cap's end from which nothing is lent on it: time to answer, and to settle.
        treasury: account that gets the protocol's part (empty: the gateway's).
    """

    kind: MoneyKind = MoneyKind.none
    rpc: str = ""
    chain_id: int = 0
    contract: str = ""
    keystore: str = ""
    prompt: int = 2_000_000_000_000
    output: int = 6_000_000_000_000
    host: int = 2_000
    protocol: int = 800
    owner: int = 2_200
    members: int = 5_000
    cap_margin: int = 3_600
    treasury: str = ""


@dataclass
class ServeConfig:
    """One deployment: one base model, the adapters of a registry, one ledger.

    Attributes:
        runs: folders of finished runs; each is verified and published at start, if it is not in the registry.
        accept: licences that are not permissive, by name, of what these runs trained.
        folder: where registry, ledger, receipts' key, documents and feedback are (empty: ./outputs/market, or in the
            home folder when this is a Ray job).
        registry: folder of the registry (empty: `registry` in `folder`).
        ledger: URL of the ledger (empty: SQLite in `folder`); gateways on several machines need PostgreSQL.
        host, port: where the gateway listens; another host than this machine's own is reached by others.
        gateways: processes that take requests.
        account_concurrent: most requests at once of all keys of an account, so that none fills an engine's queue.
        cors: origins of other sites whose pages may call the API, such as https://chat.example; none by default.
        cluster: `nodes` is the number of engines, each with `cpus_per_worker`, `gpus_per_worker` and
            `threads_per_worker`.
    """

    runs: list[str] = field(default_factory=list)
    accept: list[str] = field(default_factory=list)
    folder: str = ""
    registry: str = ""
    ledger: str = ""
    host: str = "127.0.0.1"
    port: int = 8_000
    gateways: int = 1
    account_concurrent: int = 32
    cors: list[str] = field(default_factory=list)
    traceback: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    money: MoneyConfig = field(default_factory=MoneyConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


_RANGES: dict[tuple[float, float], tuple[str, ...]] = {
    (1, 65_535): ("port",),
    (1, 64): ("gateways",),
    (1, 1_024): ("engine.rows", "engine.adapter_slots", "cluster.nodes", "cluster.threads_per_worker"),
    (1, 1 << 20): ("engine.context_length", "engine.step_tokens", "engine.waiting", "account_concurrent"),
    (0, 1): ("engine.gather", "cluster.gpus_per_worker"),
    (0, inf): ("cluster.cpus_per_worker", "money.chain_id"),
    (0, 1 << 12): ("engine.max_rank",),
    (0, 1 << 63): ("money.prompt", "money.output"),
    (1, 1 << 31): ("money.cap_margin",),
    (0, 10_000): ("money.host", "money.protocol", "money.owner", "money.members"),
}


def serve_problems(config: ServeConfig) -> Iterator[ConfigError]:
    """What no deployment can have, key by key."""
    for (low, high), keys in _RANGES.items():
        for key in keys:
            value = attrgetter(key)(config)
            if not (low <= value <= high and value < inf):
                limits = f"{low} or more" if high == inf else f"between {low} and {high}"
                yield ConfigError(f"{key} is {value}; it must be {limits}")
    if config.engine.adapter_slots < config.engine.rows:
        yield ConfigError(
            f"engine.adapter_slots is {config.engine.adapter_slots}; it must be at least engine.rows ="
            f" {config.engine.rows}, so that each may answer with another adapter"
        )
    if config.cluster.workers_per_node != 1:
        yield ConfigError(f"cluster.workers_per_node is {config.cluster.workers_per_node}; an engine has one worker: 1")
    if bad := _no_address(config.host):
        yield ConfigError(bad)
    yield from _bad_origins(config.cors)
    yield from _bad_money(config.money)


def check_serve(config: ServeConfig) -> None:
    """Refuse values that no deployment can have.

    Raises:
        ConfigError: the text names the key and the valid values.
    """
    for error in serve_problems(config):
        raise error


def _no_address(host: str) -> str:
    if host == "localhost":
        return ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return f"host is {host!r}; it must be an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all of them"
    return ""


def _bad_origins(origins: list[str]) -> Iterator[ConfigError]:
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
            yield ConfigError(f"cors has {origin!r}; it must be an origin such as https://chat.example, without a path")


def _bad_money(money: MoneyConfig) -> Iterator[ConfigError]:
    parts = {name: getattr(money, name) for name in ("host", "protocol", "owner", "members")}
    if sum(parts.values()) != 10_000:
        told = " + ".join(f"money.{name} = {points}" for name, points in parts.items())
        yield ConfigError(f"{told} is {sum(parts.values())}; basis points of a cost sum to 10000")
    if money.kind is MoneyKind.chain:
        for key in ("rpc", "contract"):
            if not getattr(money, key):
                yield ConfigError(f"money.{key} is empty with money=chain; it must name the usage contract's {key}")
    elif money.rpc or money.contract:
        yield ConfigError("money.rpc and money.contract are of money=chain; with money=none nothing is settled")
