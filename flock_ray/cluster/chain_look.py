"""Keys, balances and contracts of a run on an existing chain, looked at before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

from flock_ray.chain.deployment import checksummed
from flock_ray.chain.keys import load_signer
from flock_ray.chain.reader import ChainReader
from flock_ray.chain.rpc import RpcNode
from flock_ray.chain.values import TOKEN, Addresses
from flock_ray.cluster.finding import Finding, look
from flock_ray.cluster.launch import uses_rpc
from flock_ray.cluster.preflight import accounts_here, check_embedded_chain
from flock_ray.config import ChainBackend, Config, chain_urls
from flock_ray.errors import FundsError


def look_at_chain(config: Config, members: Mapping[int, str]) -> Iterator[Finding]:
    """The chain; on an existing one also its contracts, and what creator, relayer and members own there.

    Args:
        config: of the run.
        members: {member: address of its key} of those whose keys were found.
    """
    if not uses_rpc(config):
        yield look("chain", lambda: _at_embedded(config))
        return
    nodes: list[RpcNode] = []
    yield look("chain", lambda: _at_rpc(config, nodes))
    for node in nodes:
        with closing(node):
            yield from _at_accounts(config, node, members)


def _at_embedded(config: Config) -> str:
    check_embedded_chain(config)
    return "none" if config.chain.backend is ChainBackend.none else "runs inside, with keys made for it"


def _at_rpc(config: Config, nodes: list[RpcNode]) -> str:
    node = RpcNode(chain_urls(config.chain), config.chain.chain_id)
    nodes.append(node)
    return f"chain {node.chain_id} answers, block {node.head()}"


def _at_accounts(config: Config, node: RpcNode, members: Mapping[int, str]) -> Iterator[Finding]:
    """Contracts first, then each account: its gas money, and the tokens that it has to bring."""
    chain, alliance, accounts = config.chain, config.alliance, dict[str, str]()
    readers: list[ChainReader] = []

    def at_contracts() -> str:
        if not chain.settlement:
            return "the creator will deploy them, with the stakes as supply"
        reader = ChainReader(node, accounts.get("creator", members[min(members)] if members else checksummed("0" * 40)))
        reader.set_contracts(Addresses(chain.token, chain.task, chain.settlement))
        readers.append(reader)
        return f"{reader.addresses.token} and the others belong together"

    def at_key(name: str) -> str:
        accounts[name] = load_signer(name, chain.keystore).address
        return accounts[name]

    for name in accounts_here(config):
        yield look(f"key of the {name}", lambda name=name: at_key(name))  # type: ignore[misc]
    yield look("contracts", at_contracts)
    stake = alliance.min_stake * alliance.slots_per_member * TOKEN
    owners = {f"member {number}": account for number, account in sorted(members.items())}
    for name, account in {**accounts, **owners}.items():
        needed = alliance.pool * TOKEN if name == "creator" else stake if name in owners else 0
        yield look(f"money of {name}", _owns(node, readers, account, needed, accounts.get("creator", account)))


def _owns(node: RpcNode, readers: list[ChainReader], account: str, needed: int, creator: str) -> Callable[[], str]:
    """Looks whether an account has gas money and `needed` wei of the token, in its wallet or free in the vault.

    Raises:
        FundsError: when called, if it has not.
    """

    def at_account() -> str:
        gas = node.balance(account)
        if not gas:
            raise FundsError(f"{account} has no gas money on chain {node.chain_id}")
        told = f"{account} has {gas / 1e18:g} coins for gas"
        for reader in readers if needed else ():
            wallet = reader.wallet_balances([account])[account]
            vault = 0 if account == creator else int(reader.ask("StakeVault", "lockable", account, creator))
            if wallet + vault < needed:
                raise FundsError(
                    f"{account} has {wallet / TOKEN:g} tokens and {vault / TOKEN:g} free in the vault, and has to bring"
                    f" {needed / TOKEN:g}"
                )
            told += (
                f", {wallet / TOKEN:g} tokens and {vault / TOKEN:g} free in the vault of {needed / TOKEN:g} to bring"
            )
        return told

    return at_account
