"""`flock-ray deployment deploy`: deploys the contracts to a chain, once: a second run only completes and checks.

    flock-ray deployment deploy chain.url=https://… chain.chain_id=84532 chain.keystore=/keys 'timelock.proposers=[0x…]'

The account `creator` (key as for a run) pays and keeps no power: a TimelockController is the only admin.
`dry_run=true` prints the gas bill and sends nothing. The address book (`book=FILE`) holds all addresses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from flock_ray.chain.values import (
    ABSENCE_BPS,
    ACTIVATION_DELAY,
    COMMISSION_DELAY,
    DAILY_EMISSION,
    DECAY_BPS,
    DELAYS_AN_EPOCH,
    EPOCH_MULTIPLE,
    GWEI,
    MIN_DELEGATION,
    PERIOD_DAYS,
    RESPONSE_WINDOW,
    SINK,
    TOKEN,
    UNBONDING_EPOCHS,
    VAULT_EPOCH,
)
from flock_ray.commands.composed import play_each
from flock_ray.config import ChainBackend, ChainConfig, chain_urls, refuse_unknown
from flock_ray.errors import ConfigError

if TYPE_CHECKING:
    from flock_ray.chain.deployment import Cost, Deployment, Settings
    from flock_ray.chain.keys import Signer
    from flock_ray.chain.node import ChainNode


@dataclass
class TimelockConfig:
    """The admin of everything.

    Attributes:
        delay: seconds between scheduling and executing.
        proposers: accounts that schedule and cancel.
        executors: accounts that execute (empty: the proposers; the zero address: everybody).
    """

    delay: int = 172_800
    proposers: list[str] = field(default_factory=list)
    executors: list[str] = field(default_factory=list)


@dataclass
class EmissionConfig:
    """The permanent schedule of new tokens.

    Attributes:
        daily: tokens of a day of the first period.
        decay_bps: decrease of the daily emission from one period to the next, in basis points.
        period_days: days of a period.
        start: Unix time of the first day (0: now).
        epoch_multiple: daily emissions that one epoch of a task may commit.
    """

    daily: int = DAILY_EMISSION
    decay_bps: int = DECAY_BPS
    period_days: int = PERIOD_DAYS
    start: int = 0
    epoch_multiple: int = EPOCH_MULTIPLE


@dataclass
class VaultConfig:
    """The permanent rules of all stake and delegation.

    Attributes:
        epoch: seconds of an epoch of the vault.
        unbonding_epochs: whole epochs that stake takes to thaw before it leaves; it stays slashable until then.
        commission_delay: epochs before an operator's new commission counts; more than `unbonding_epochs`.
        min_delegation: smallest amount that an account delegates, wei.
    """

    epoch: int = VAULT_EPOCH
    unbonding_epochs: int = UNBONDING_EPOCHS
    commission_delay: int = COMMISSION_DELAY
    min_delegation: int = MIN_DELEGATION


@dataclass
class DeployConfig:
    """One deployment.

    Attributes:
        chain: the chain; only `url`, `chain_id`, `keystore`, `confirmation_timeout` and `max_fee_gwei` are used.
        book: file of the address book.
        dry_run: print the gas bill, send nothing.
        traceback: show the traceback of an error.
        supply: tokens that exist from the beginning.
        treasury: account that gets them and every emission (empty: the deployer).
        guardian: account that may disable roots that do not pay yet (empty: nobody).
        activation_delay: seconds until a settled root pays; a run that ends earlier leaves claims to `resume=RUN_DIR`.
        absence_bps: part of its stake that an absent voter loses, in basis points.
        response_window: seconds in which a challenged voter may show its signature.
        grace: seconds between the two calls that abandon an epoch, or slash an absent voter; longer than the chain's
            sequencer may be away.
        sink: account that gets what nobody may gain by a slash; nobody should have its key.
        evidence_window: seconds after a task's end in which stakes stay locked (0: none); else longer than
            `response_window` and `grace` together.
    """

    chain: ChainConfig = field(default_factory=ChainConfig)
    timelock: TimelockConfig = field(default_factory=TimelockConfig)
    emission: EmissionConfig = field(default_factory=EmissionConfig)
    vault: VaultConfig = field(default_factory=VaultConfig)
    book: str = "address_book.json"
    dry_run: bool = False
    traceback: bool = False
    supply: int = 100_000_000
    treasury: str = ""
    guardian: str = ""
    activation_delay: int = ACTIVATION_DELAY
    absence_bps: int = ABSENCE_BPS
    response_window: int = RESPONSE_WINDOW
    grace: int = 7_200
    sink: str = SINK
    evidence_window: int = 86_400


LIMITS = {
    "supply": (0, 10**9), "activation_delay": (0, 2**32), "absence_bps": (0, 10_000), "response_window": (1, 2**32),
    "grace": (0, 2**32),
    "timelock.delay": (0, 2**32), "emission.daily": (0, 10**9), "emission.decay_bps": (0, 10_000),
    "emission.period_days": (1, 2**32 - 1), "emission.start": (0, 2**40), "emission.epoch_multiple": (1, 2**32 - 1),
    "evidence_window": (0, 31_536_000), "vault.epoch": (60, 2**32 - 1), "vault.unbonding_epochs": (1, 9_999),
    "vault.commission_delay": (2, 10_000), "vault.min_delegation": (2**44, 2**90),
}  # fmt: skip


def check(config: DeployConfig) -> None:
    """Refuse values that no deployment can have.

    Raises:
        ConfigError: the text names the key and the valid values.
    """
    if config.chain.backend not in (ChainBackend.rpc, ChainBackend.auto) or not chain_urls(config.chain):
        raise ConfigError(
            "chain.url names no RPC: contracts are deployed to an existing chain, for example a running anvil"
        )
    for key, (low, high) in LIMITS.items():
        value = OmegaConf.select(OmegaConf.structured(config), key)
        if not low <= value <= high:
            raise ConfigError(f"{key} is {value}; it must be between {low} and {high}")
    if not config.timelock.proposers:
        raise ConfigError("timelock.proposers is empty: without one nobody could ever use the timelock")
    if 0 < config.evidence_window <= config.response_window + config.grace:
        raise ConfigError("evidence_window is not longer than response_window and grace: absence would go unpunished")
    if config.activation_delay > config.vault.epoch // DELAYS_AN_EPOCH:
        raise ConfigError(
            f"activation_delay is above vault.epoch / {DELAYS_AN_EPOCH}: who delegates late would take part in rewards"
            " that are known already"
        )
    if config.vault.commission_delay <= config.vault.unbonding_epochs:
        raise ConfigError("vault.commission_delay must be more than vault.unbonding_epochs: a delegator must have time")
    if config.guardian and not config.activation_delay:
        raise ConfigError("guardian has nothing to disable with activation_delay=0: roots pay at once")


def addresses(key: str, values: Sequence[str]) -> tuple[str, ...]:
    """Checksummed addresses.

    Raises:
        ConfigError: a value of `key` is no address.
    """
    from flock_ray.chain.deployment import checksummed

    try:
        return tuple(map(checksummed, values))
    except ValueError:
        raise ConfigError(f"{key} holds no address of 20 bytes: {', '.join(values)}") from None


def deploy(overrides: Sequence[str]) -> int:
    """Deploy what the overrides configure; returns the exit code."""
    ConfigStore.instance().store(name="deploy_schema", node=DeployConfig)
    again = "interrupted; run it again to continue"
    return play_each("flock-ray deployment deploy", "deploy", overrides, DeployConfig, _play, again)


def _play(composed: DictConfig, named: Mapping[str, bool]) -> None:
    """Deploy what is missing, check everything, and print the addresses."""
    from flock_ray.chain.address_book import exclusive
    from flock_ray.chain.keys import load_signer
    from flock_ray.chain.rpc import RpcNode

    refuse_unknown(composed, DeployConfig)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, DeployConfig)
    check(config)
    path = Path(config.book).expanduser().absolute()
    signer = load_signer("creator", config.chain.keystore)
    with (
        nullcontext() if config.dry_run else exclusive(path),
        closing(RpcNode(chain_urls(config.chain), config.chain.chain_id)) as node,
    ):
        deployment = open_deployment(config, path, node, signer)
        if config.dry_run:
            show_bill(deployment.costs(), *node.fees(), node.chain_id, signer.address)
            return
        deployment.execute(lambda line: print(line, flush=True))
        deployment.check()
        at = deployment.addresses()
    print(f"Checked: code, ties and roles; the timelock at {at['TimelockController']} is the only admin")
    names = {"token": "FlockToken", "task": "TaskRegistry", "settlement": "EpochSettlement"}
    print(f"Address book: {path}")
    print(f"Contracts: {' '.join(f'chain.{key}={at[name]}' for key, name in names.items())}")


def open_deployment(config: DeployConfig, path: Path, node: ChainNode, signer: Signer) -> Deployment:
    """The deployment of the book at `path`, or a new one."""
    from flock_ray.chain.address_book import AddressBook
    from flock_ray.chain.deployment import Deployment

    book = AddressBook.read(path)
    genesis = "0x" + node.genesis().hex()
    chosen = settings(config, signer.address, book.settings.get("start") if book else None, node.timestamp())
    book = book or AddressBook(path, node.chain_id, genesis, signer.address, chosen.as_json())
    book.require(node.chain_id, genesis, signer.address, chosen.as_json())
    return Deployment(node, signer, chosen, book, config.chain.confirmation_timeout, config.chain.max_fee_gwei * GWEI)


def settings(config: DeployConfig, deployer: str, start: object, now: int) -> Settings:
    """The settings to deploy; a resumed deployment keeps its first day."""
    from flock_ray.chain.deployment import Settings

    (treasury,) = addresses("treasury", [config.treasury or deployer])
    first_day = config.emission.start or (start if isinstance(start, int) else now)
    proposers = addresses("timelock.proposers", config.timelock.proposers)
    return Settings(
        supply=config.supply * TOKEN,
        treasury=treasury,
        guardian="".join(addresses("guardian", [config.guardian] if config.guardian else [])),
        delay=config.timelock.delay,
        proposers=proposers,
        executors=addresses("timelock.executors", config.timelock.executors) or proposers,
        activation_delay=config.activation_delay,
        absence_bps=config.absence_bps,
        response_window=config.response_window,
        grace=config.grace,
        sink="".join(addresses("sink", [config.sink])),
        evidence_window=config.evidence_window,
        vault_epoch=config.vault.epoch,
        unbonding_epochs=config.vault.unbonding_epochs,
        commission_delay=config.vault.commission_delay,
        min_delegation=config.vault.min_delegation,
        daily=config.emission.daily * TOKEN,
        decay_bps=config.emission.decay_bps,
        period_days=config.emission.period_days,
        start=first_day,
        epoch_multiple=config.emission.epoch_multiple,
    )


def show_bill(costs: Sequence[Cost], max_fee: int, tip: int, chain_id: int, deployer: str) -> None:
    """Print the cost of the missing transactions at the current fee."""
    price = (max_fee + tip) // 2  # base fee + tip, since max_fee is twice the base fee + tip
    print(f"Dry run on chain {chain_id} for {deployer}: nothing is sent. Fee now: {price / 1e9:.9g} gwei a gas")
    for cost in costs:
        print(_cost_line(cost.name, cost.gas, cost.gas * price + cost.data_fee))
    gas, data_fee = sum(cost.gas for cost in costs), sum(cost.data_fee for cost in costs)
    print(_cost_line(f"total of {len(costs)} transactions", gas, gas * price + data_fee))
    if data_fee:
        print(f"of which {data_fee / 1e18:.9f} ether is the rollup's fee for data")


def _cost_line(what: str, gas: int, wei: int) -> str:
    return f"{what:<44}{gas:>12,} gas{wei / 1e18:>20.9f} ether"
