"""The anvil process of an embedded chain: finds the binary, starts it on a genesis, and ends it with its parent."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from flock_ray.chain.journal import Genesis
from flock_ray.errors import ChainUnreachableError

HOST = "127.0.0.1"
BLOCK_GAS = 30_000_000
BASE_FEE = 10**9  # wei a gas, of block 0

_BINARY_VARIABLE = "FLOCK_RAY_ANVIL"
_NPM_BINARY = "node_modules/@foundry-rs/anvil-*/bin/anvil"  # npm installs the package of this platform only
_KEPT_STATES = 16  # of the last blocks: each is a copy of the whole state
_START_TIMEOUT = 30.0  # seconds; it takes 0.1 on an idle machine
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def find_anvil() -> Path | None:
    """The anvil binary: $FLOCK_RAY_ANVIL, on PATH, or in node_modules of the working directory or the repository."""
    chosen = os.environ.get(_BINARY_VARIABLE)
    if chosen:
        path = Path(chosen)
        if not os.access(path, os.X_OK):
            raise ChainUnreachableError(f"{_BINARY_VARIABLE} names {chosen}, which is no program")
        return path
    on_path = shutil.which("anvil")
    if on_path:
        return Path(on_path)
    roots = [root / sub for root in (Path.cwd(), Path(__file__).parents[2]) for sub in ("", "contracts")]
    candidates = (path for root in roots for path in root.glob(_NPM_BINARY))
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


class AnvilProcess:
    """A running anvil.

    It dies with the thread that made this object, even if that is killed: the kernel sends it SIGKILL.

    Attributes:
        url: its JSON-RPC endpoint on this machine.
    """

    def __init__(self, genesis: Genesis, port: int = 0, automine: bool = True) -> None:
        """Start on `genesis` and wait until it answers.

        Args:
            genesis: block 0.
            port: 0 for any free one.
            automine: mine each transaction at once, and keep old states; else mine only when `evm_mine` asks for it.

        Raises:
            ChainUnreachableError: no binary, the port is taken, or no answer.
        """
        binary = find_anvil()
        if binary is None:
            raise ChainUnreachableError(f"anvil is not on PATH nor in node_modules, and {_BINARY_VARIABLE} is not set")
        self.port = claim_port(port)
        self.url = f"http://{HOST}:{self.port}"
        with tempfile.TemporaryDirectory(prefix="flock_ray_anvil_") as folder:
            file = Path(folder) / "genesis.json"
            file.write_text(json.dumps(_geth_genesis(genesis)))
            self._process = self._spawn(binary, file, genesis.chain_id, automine)
            try:
                self._wait()
            except BaseException:
                self.close()
                raise

    def _spawn(self, binary: Path, genesis: Path, chain_id: int, automine: bool) -> subprocess.Popen[bytes]:
        parent = os.getpid()

        def die_with_parent() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

        arguments = ["--host", HOST, "--port", str(self.port), "--silent", "--init", str(genesis), "--accounts", "0"]
        arguments += ["--chain-id", str(chain_id), "--hardfork", "osaka", "--enable-tx-gas-limit"]
        if not automine:
            arguments += ["--no-mining", "--order", "fifo", "--prune-history", str(_KEPT_STATES)]
        return subprocess.Popen(
            [str(binary), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for us; close() ends it in order
            preexec_fn=die_with_parent,
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ChainUnreachableError(f"anvil ended at once with code {self._process.returncode}")
            with socket.socket() as probe:
                if probe.connect_ex((HOST, self.port)) == 0:
                    return
            time.sleep(0.01)
        raise ChainUnreachableError(f"anvil did not answer on port {self.port} within {_START_TIMEOUT:.0f} s")

    def close(self) -> None:
        """End the process and wait for it; twice is harmless."""
        if self._process.poll() is None:
            self._process.kill()  # its state lives in our journal
        self._process.wait()


def claim_port(port: int) -> int:
    """The port if it is free, or any free one for 0.

    Raises:
        ChainUnreachableError: it is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ChainUnreachableError(f"port {port} for anvil: {error.strerror}; choose another chain.port") from None
        return int(probe.getsockname()[1])


def _geth_genesis(genesis: Genesis) -> dict[str, object]:
    return {
        "config": {"chainId": genesis.chain_id},
        "timestamp": hex(genesis.timestamp),
        "gasLimit": hex(BLOCK_GAS),
        "baseFeePerGas": hex(BASE_FEE),
        "difficulty": "0x0",
        "alloc": {address: {"balance": hex(balance)} for address, balance in genesis.alloc.items()},
    }
