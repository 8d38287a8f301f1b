"""What `flock-ray serve` checks and prepares before anything starts: registry, base model, ledger, keys, port."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from flock_ray.chain.eip712 import Domain, usage_domain
from flock_ray.chain.keys import load_signer
from flock_ray.cluster.placement import in_ray_job
from flock_ray.config import ClusterMode, EngineKind, MoneyKind, ServeConfig
from flock_ray.errors import ConfigError, RegistryError, RunDirectoryError, ServeError
from flock_ray.market.engine_plan import EnginePlan
from flock_ray.market.gateway_plan import GATEWAY, GatewayPlan, own_signer, require_free
from flock_ray.market.ledger import Ledger
from flock_ray.market.ledger_values import Gateway, KeyTerms
from flock_ray.market.models import Price, base_offer
from flock_ray.market.registry import Registry
from flock_ray.market.settings import Settings
from flock_ray.market.snapshot import Snapshot
from flock_ray.protocol.hashing import sha256
from flock_ray.protocol.price_book import Split
from flock_ray.telemetry.table import Console

if TYPE_CHECKING:
    from flock_ray.market.deployments import Deployment
    from flock_ray.training.model import ModelHashes

_NO_CHAIN = usage_domain(0, "0x" + "0" * 40)


@dataclass(frozen=True)
class Places:
    """Where a deployment keeps what it has.

    Attributes:
        folder: of all that has no place of its own.
        registry: folder of the registry.
        ledger: URL of the ledger.
    """

    folder: Path
    registry: Path
    ledger: str

    @classmethod
    def of(cls, config: ServeConfig) -> Places:
        """As configured."""
        root = Path.home() / "flock_ray_outputs" if in_ray_job() else Path.cwd() / "outputs"
        folder = Path(config.folder).expanduser().resolve() if config.folder else root / "market"
        registry = Path(config.registry).expanduser().resolve() if config.registry else folder / "registry"
        return cls(folder, registry, config.ledger or f"sqlite:///{folder / 'ledger.db'}")


@dataclass(frozen=True)
class Opened:
    """What is served, ready to be deployed.

    Attributes:
        deployment: for Ray Serve.
        snapshot: the models.
        url: where it will be reached from this machine.
        ledger: URL of the ledger.
        account: of the gateway.
        account_concurrent: most requests at once of all keys of an account.
    """

    deployment: Deployment
    snapshot: Snapshot
    url: str
    ledger: str
    account: bytes
    account_concurrent: int

    def first_key(self) -> str:
        """The secret of a first key, as wide as any; empty if there are keys already, or they need a deposit."""
        with Ledger.open(self.ledger) as ledger:
            if ledger.gateway().lends or ledger.keys.find():
                return ""
            return ledger.keys.create(KeyTerms(self.account, concurrent=self.account_concurrent), "first key")[1]


def open_market(config: ServeConfig, console: Console, domain: Domain | None = None) -> Opened:
    """Check and prepare everything; nothing is started.

    Args:
        config: checked.
        console: where it is told what takes long.
        domain: of a chain inside this process, which no URL names; None: as configured.

    Raises:
        FlockRayError: the first thing that is wrong.
    """
    places = Places.of(config)
    if config.cluster.mode is ClusterMode.local:  # elsewhere Serve may have it already
        require_free(config.host, config.port)
    _make(places.folder)
    base = _base_hashes(config)
    registry = _registry(config, places, console)
    snapshot = registry.snapshot()
    if not snapshot.models:
        raise RegistryError(
            f"{places.registry} serves no model: name finished runs, 'runs=[RUN_DIR]', or flock-ray publish one"
        )
    if base is not None:
        snapshot.require_base(base.weights, base.tokenizer)
    settings, own_key = _settings(config, places, base.weights if base else sha256(b"flock_ray/echo"), snapshot, domain)
    gateway = GatewayPlan(
        registry=str(places.registry), ledger=places.ledger, folder=str(places.folder), own_key=own_key,
        keystore=config.money.keystore, settings=settings, runs=tuple(str(Path(run).resolve()) for run in config.runs),
    )  # fmt: skip
    gateway.signer()  # whether it is there
    with Ledger.open(places.ledger) as ledger:
        served = Gateway(settings.gateway, settings.domain, settings.lends)
        ledger.bind(served, settings.account_concurrent, settings.cap_margin)
    from flock_ray.market.deployments import Deployment  # imports Ray

    cluster = config.cluster
    deployment = Deployment(
        engine=_engine(config, (base.weights, base.tokenizer) if base else (b"", b""), snapshot), engines=cluster.nodes,
        cpus=cluster.cpus_per_worker, gpus=cluster.gpus_per_worker, gateway=gateway, gateways=config.gateways,
        host=config.host, port=config.port,
    )  # fmt: skip
    url = f"http://{_reached_at(config.host)}:{config.port}"
    return Opened(deployment, snapshot, url, places.ledger, settings.gateway, settings.account_concurrent)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServeError(f"{folder} cannot be used: {error.strerror}; choose another one: folder=DIR") from None


def _base_hashes(config: ServeConfig) -> ModelHashes | None:
    """Of the base model, which must be here; None for an engine without one.

    Raises:
        ModelError: it is missing.
        ConfigError: the context is longer than it takes.
    """
    if config.engine.kind is EngineKind.echo:
        return None
    from flock_ray.training.model import ModelSpec, locate, model_hashes
    from flock_ray.training.model_files import context_length_of

    model, asked = config.model, config.engine.context_length
    folder, name = locate(ModelSpec(model.source, model.path, model.revision, model.dtype, "cpu"))
    if 0 < (longest := context_length_of(folder)) < asked:
        raise ConfigError(f"engine.context_length is {asked}; {name} takes at most {longest} tokens")
    return model_hashes(folder)


def _registry(config: ServeConfig, places: Places, console: Console) -> Registry:
    """The registry, with what the runs trained.

    Raises:
        FlockRayError: a run does not verify, or is not taken.
    """
    registry = Registry.create(places.registry)
    for run in map(Path, config.runs):
        if not _is_published(registry.snapshot(), run):
            _publish(config, places, run, console)
    return registry


def _is_published(snapshot: Snapshot, run: Path) -> bool:
    """Whether the registry has a model of this run, by the task that the run's folder names."""
    from flock_ray.protocol.encoding import from_hex
    from flock_ray.verify.folder import RunFolder

    try:
        task = from_hex(RunFolder(run).json("task.json").get("task"))
    except ValueError:
        raise RunDirectoryError(f"{run} holds no run: task.json names no task") from None
    return any(model.lineage.task == task for model in snapshot.published)


def _publish(config: ServeConfig, places: Places, run: Path, console: Console) -> None:
    """Verify a run and publish its last adapter."""
    from flock_ray.market.publish import Listing, publish_run

    money = config.money
    split = Split(money.host, money.protocol, money.owner, money.members)
    listing = Listing(price=Price(money.prompt, money.output), split=split)
    console.line(f"Verifying {run}")
    model = publish_run(places.registry, run, listing, accept=config.accept)
    console.line(f"Published {model.id}")


def _settings(
    config: ServeConfig, places: Places, base: bytes, snapshot: Snapshot, domain: Domain | None
) -> tuple[Settings, bool]:
    """How the gateway answers, and whether it signs with a key of its own making."""
    money, on_chain = config.money, domain is not None or config.money.kind is MoneyKind.chain
    signer = load_signer(GATEWAY, money.keystore) if on_chain else own_signer(places.folder)
    account = bytes.fromhex(signer.address[2:])
    only = snapshot.models[0].id if len(snapshot.models) == 1 else ""
    return Settings(
        gateway=account,
        protocol=_account(money.treasury) if money.treasury else account,
        domain=domain or (_domain(config) if on_chain else _NO_CHAIN),
        account_concurrent=config.account_concurrent,
        cap_margin=money.cap_margin,
        lends=on_chain,
        base=base_offer(base, account, Price(money.prompt, money.output)),
        knowledge=places.folder / "knowledge",
        default_model=next(iter(sorted(snapshot.aliases)), only),
        origins=tuple(config.cors),
    ), not on_chain


def _domain(config: ServeConfig) -> Domain:
    """Chain and contract that receipts and caps are signed for.

    Raises:
        ChainError: the chain does not answer, or has another id.
        ConfigError: the contract's address is none.
    """
    from contextlib import closing

    from flock_ray.chain.rpc import RpcNode

    money = config.money
    _account(money.contract)
    with closing(RpcNode((money.rpc,), money.chain_id)) as node:
        return usage_domain(node.chain_id, money.contract)


def _account(text: str) -> bytes:
    from flock_ray.chain.deployment import checksummed

    try:
        return bytes.fromhex(checksummed(text)[2:])
    except ValueError:
        raise ConfigError(f"{text!r} is no address of 20 bytes, or its checksum is wrong") from None


def _engine(config: ServeConfig, base: tuple[bytes, bytes], snapshot: Snapshot) -> EnginePlan:
    model, engine = config.model, config.engine
    dates = {one.template_date for one in snapshot.models}
    if len(dates) > 1:
        raise RegistryError(
            f"models were trained with the template dates {', '.join(sorted(map(str, dates)))}; one engine renders with"
            " one: serve them from registries of their own"
        )
    own = {item.name: getattr(engine, item.name) for item in fields(engine) if item.name not in ("kind", "max_rank")}
    return EnginePlan(
        kind=engine.kind.value, source=model.source, path=_absolute(model.source, model.path), revision=model.revision,
        dtype=model.dtype, device="cuda" if config.cluster.gpus_per_worker else "cpu",
        threads=config.cluster.threads_per_worker, base=base[0], tokenizer=base[1], template_date=dates.pop(),
        max_rank=engine.max_rank or max(one.lora.rank for one in snapshot.models), **own,
    )  # fmt: skip


def _absolute(source: str, path: str) -> str:
    return str(Path(path).expanduser().resolve()) if source == "folder" and path else path


def _reached_at(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
