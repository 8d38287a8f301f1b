"""What a gateway process is started with, and the application that it makes of it."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flock_ray.chain.keys import Signer, load_signer
from flock_ray.errors import KeyMissingError, ServeError
from flock_ray.market.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from flock_ray.market.engines import EngineClient

RECEIPTS, GATEWAY = "receipts", "gateway"
"""Names of the keys: of what signs receipts, and of the account that signs price books and settles."""


@dataclass(frozen=True)
class GatewayPlan:
    """A gateway; its folders are those of its own machine.

    Attributes:
        registry: folder of the registry.
        ledger: URL of the ledger.
        folder: of feedback and, with `own_key`, of the key that signs receipts.
        own_key: whether that key is one that `own_signer` made, else it is in `keystore` or in the environment.
        keystore: folder of keystores.
        settings: see there.
        runs: folders of runs whose reports and leaderboards the pages show.
    """

    registry: str
    ledger: str
    folder: str
    own_key: bool
    keystore: str
    settings: Settings
    runs: tuple[str, ...]

    def signer(self) -> Signer:
        """The key that signs receipts.

        Raises:
            KeyMissingError: it is not there, or does not open.
        """
        return own_signer(Path(self.folder)) if self.own_key else load_signer(RECEIPTS, self.keystore)

    def app(self, engine: EngineClient) -> FastAPI:
        """The API with its pages.

        Raises:
            RegistryError, LedgerError, KeyMissingError: what it needs is not there.
        """
        from flock_ray.market.api import create_app
        from flock_ray.market.feedback import FeedbackStore
        from flock_ray.market.ledger import Ledger
        from flock_ray.market.pages import Pages, add_pages
        from flock_ray.market.registry import Registry

        registry, ledger = Registry.open(Path(self.registry)), Ledger.open(self.ledger)
        feedback = FeedbackStore(Path(self.folder) / "feedback")
        account = load_signer(GATEWAY, self.keystore) if self.settings.lends else None
        app = create_app(registry, ledger, engine, self.signer(), self.settings, feedback, account)
        add_pages(app, Pages(registry, ledger, tuple(map(Path, self.runs))))
        return app


def own_signer(folder: Path) -> Signer:
    """The key that signs receipts where no chain knows it: made once, readable by this user only.

    Raises:
        KeyMissingError: it does not read.
        ServeError: it cannot be written.
    """
    path = folder / "keys" / RECEIPTS
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return Signer(bytes.fromhex(path.read_text().strip()))
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        return Signer(bytes.fromhex(path.read_text().strip()))
    except OSError as error:
        raise ServeError(f"{path} cannot be used: {error.strerror}") from None
    except ValueError:
        raise KeyMissingError(f"{path} is no private key: expected 64 hex digits") from None


def require_free(host: str, port: int) -> None:
    """Check that nobody listens where a gateway is to be reached.

    Raises:
        ServeError: somebody does, or the host is no address of this machine.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            told = f"port {port} of {host} cannot be used ({error.strerror})"
            raise ServeError(f"{told}; choose another one: port=NUMBER") from None
