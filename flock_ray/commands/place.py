"""Which contracts a command talks to: those of a deployment's address book, or of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flock_ray.chain.address_book import AddressBook
from flock_ray.chain.node import ChainNode
from flock_ray.chain.reader import ChainReader
from flock_ray.chain.values import NOBODY
from flock_ray.commands.run_files import RunFiles
from flock_ray.errors import AddressBookError, ConfigError


@dataclass(frozen=True)
class Place:
    """Contracts on a chain.

    Attributes:
        chain_id: of the chain.
        settlement: address of EpochSettlement; all others are read from it.
        genesis: hash of the chain's block 0, empty where it is not known.
        first_block: number of a block from before anything happened in the contracts.
    """

    chain_id: int
    settlement: str
    genesis: str = ""
    first_block: int = 0


def read_book(path: Path) -> AddressBook:
    """The address book of a whole deployment.

    Raises:
        AddressBookError: there is none, or the deployment is unfinished.
    """
    book = AddressBook.read(path)
    if book is None:
        raise AddressBookError(f"there is no address book {path}")
    if not all(entry.tx for entry in book.entries.values()) or "StakeVault" not in book.entries:
        raise AddressBookError(f"{path} is of a deployment that is not finished")
    return book


def place_of(contracts: Path | None, run: RunFiles | None) -> Place:
    """The contracts that a command names.

    Args:
        contracts: an address book, or the folder of a run on them.
        run: the folder that the command is about; its contracts are taken if no others are named.

    Raises:
        ConfigError: neither is given.
        AddressBookError, RunDirectoryError: there is none.
    """
    if contracts is not None and contracts.is_dir():
        run = RunFiles(contracts)
    elif contracts is not None:
        found = read_book(contracts)
        first = min(entry.block for entry in found.entries.values())
        return Place(found.chain_id, found.entries["EpochSettlement"].address, found.genesis, first)
    if run is not None:
        return Place(run.chain_id, run.settlement)
    raise ConfigError("name the contracts: the address book of their deployment with --contracts, or a run's folder")


def read_contracts(node: ChainNode, place: Place, caller: str = NOBODY) -> ChainReader:
    """Reads the contracts of a place, after a look at whether they belong together.

    Raises:
        ChainError: they do not, or the chain has none there.
    """
    if place.genesis and place.genesis != "0x" + node.genesis().hex():
        raise AddressBookError(f"the address book is of another chain with id {place.chain_id}")
    reader = ChainReader(node, caller)
    reader.follow(place.settlement)
    return reader
