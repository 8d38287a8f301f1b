"""The address book of a deployment: the contracts' addresses, and the transactions that deploy them."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from flock_ray.chain.journal import write_durably
from flock_ray.errors import AddressBookError

_VERSION = 1
_HASH = re.compile("0x[0-9a-f]{64}")
_ADDRESS = re.compile("0x[0-9a-fA-F]{40}")


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """A lock: while it is held, no other process on this machine deploys with an address book in the same folder.

    Raises:
        AddressBookError: another process holds the lock, or the folder cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise AddressBookError(f"{path.parent}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise AddressBookError(f"another deployment with an address book in {path.parent} is running") from None
    finally:
        os.close(folder)


@dataclass
class Entry:
    """One transaction of the deployment. Hashes and addresses are hex text.

    Attributes:
        attempts: hashes of the transactions signed for it, in the book before any is sent.
        tx: hash of the mined one; empty until then, like the fields below.
        block: its block's number.
        gas_used: gas.
        address: of the contract that it created, if any.
        code_hash: keccak of the code there.
    """

    attempts: list[str] = field(default_factory=list)
    tx: str = ""
    block: int = 0
    gas_used: int = 0
    address: str = ""
    code_hash: str = ""

    def check(self) -> None:
        """Check the form of every field.

        Raises:
            ValueError: a field has another form.
        """
        whole = all(map(_HASH.fullmatch, [*self.attempts, *filter(None, [self.tx, self.code_hash])]))
        numbers = type(self.block) is int and type(self.gas_used) is int
        if not whole or not numbers or (self.address and not _ADDRESS.fullmatch(self.address)):
            raise ValueError("an entry's field has another form")


@dataclass
class AddressBook:
    """One deployment on one chain.

    Attributes:
        path: of the file.
        chain_id: id of the chain.
        genesis: hash of its block 0: an id alone does not tell two development chains apart.
        deployer: the account that sends.
        settings: what was chosen; see `deployment.Settings`.
        reserved: addresses at which deployed contracts expect the next ones.
        entries: by name of the step.
        changed: the book has entries that are not in the file yet.
    """

    path: Path
    chain_id: int
    genesis: str
    deployer: str
    settings: dict[str, Any]
    reserved: dict[str, str] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    changed: bool = False

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The book at `path`, None if there is none.

        Raises:
            AddressBookError: the file is no address book.
        """
        try:
            fields = json.loads(path.read_bytes())
            if fields.pop("version") != _VERSION:
                raise ValueError("another version")
            fields.pop("addresses")
            entries = {name: Entry(**entry) for name, entry in fields.pop("entries").items()}
            book = cls(path=path, entries=entries, **fields)
            for entry in entries.values():
                entry.check()
            if type(book.chain_id) is not int or not all(map(_HASH.fullmatch, [book.genesis])):
                raise ValueError("chain id or genesis")
            dict(book.settings), dict(book.reserved)
            return book
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AddressBookError(f"{path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise AddressBookError(f"{path} is no address book, or a damaged one; restore it or name another") from None

    def require(self, chain_id: int, genesis: str, deployer: str, settings: Mapping[str, object]) -> None:
        """Refuse to resume with the book of another chain, account or choice of settings.

        Raises:
            AddressBookError: the book is of another one.
        """
        if (self.chain_id, self.genesis) != (chain_id, genesis):
            raise AddressBookError(
                f"{self.path} is of chain {self.chain_id} with genesis {self.genesis}, not of chain {chain_id} with"
                f" genesis {genesis}"
            )
        if self.deployer != deployer:
            raise AddressBookError(f"{self.path} is of a deployment by {self.deployer}, not by {deployer}")
        for name, value in settings.items():
            if self.settings.get(name) != value:
                raise AddressBookError(
                    f"{self.path} is of a deployment with {name} {self.settings.get(name)}, not {value};"
                    " name another book for another deployment"
                )

    def save(self) -> None:
        """Write the file, whole or not at all."""
        fields = asdict(self)
        path, _ = fields.pop("path"), fields.pop("changed")
        addresses = {name: entry.address for name, entry in self.entries.items() if entry.address}
        text = json.dumps({"version": _VERSION, "addresses": addresses, **fields}, indent=1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, text.encode() + b"\n")
        except OSError as error:
            raise AddressBookError(f"{path} cannot be written: {error.strerror}") from None
        self.changed = False
