"""The driver's connection to the chain actor: calls that outlast an outage, transactions of many owners."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError

from flock_ray.chain.keys import Signer, load_signer, run_signer
from flock_ray.chain.values import (
    GWEI,
    NOBODY,
    ChainInfo,
    ChainSpec,
    TxContext,
)
from flock_ray.cluster.chain_actor import ChainActor
from flock_ray.cluster.deadlines import Deadlines
from flock_ray.cluster.launch import uses_rpc
from flock_ray.cluster.outage_timer import OutageTimer
from flock_ray.cluster.runtime import here
from flock_ray.cluster.waiting import WatchedActor
from flock_ray.config import Config, chain_urls
from flock_ray.errors import ChainError, ChainUnreachableError, HangError

LOOK = 1.0
"""Seconds between two looks at what is waited for."""
_PART = 500  # members about whom the chain actor is asked at once


class ChainConnection:
    """The chain actor, seen from the driver."""

    def __init__(self, config: Config, run_dir: Path, accounts: dict[int, str]) -> None:
        """Start the chain actor on the driver's machine; it starts or rebuilds the chain, or connects to it.

        Args:
            config: of the run.
            run_dir: where an embedded chain is kept.
            accounts: {silo: address of its owner}; genesis of an embedded chain funds their gas.

        Raises:
            ChainError: or one of its kinds, when the chain cannot be used.
        """
        self._config, self._accounts = config, accounts
        chain = config.chain
        self.outage = OutageTimer(chain.outage_patience)
        self.tell: Callable[[str], None] = lambda line: None
        self._embedded = not uses_rpc(config)
        self._creator: Signer = (
            run_signer(config.seed, "creator") if self._embedded else load_signer("creator", chain.keystore)
        )
        spec = ChainSpec(
            backend=chain.backend.value,
            urls=chain_urls(chain),
            chain_id=chain.chain_id,
            keystore=chain.keystore,
            port=chain.port,
            run_seed=config.seed,
            funded=[self._creator.address, *accounts.values()] if self._embedded else [],
            token=chain.token,
            task=chain.task,
            settlement=chain.settlement,
            confirmation_timeout=chain.confirmation_timeout,
            max_fee=chain.max_fee_gwei * GWEI,
            finality=chain.finality.value,
        )
        self._actor = ChainActor.options(name="chain", scheduling_strategy=here()).remote()
        cluster = config.cluster
        self._chain = WatchedActor(
            self._actor, "chain actor", Deadlines(cluster.phase_floor), cluster.load_timeout, self._tell, may_idle=True
        )
        self._info: ChainInfo = self._get(self._actor.open.remote(spec, str(run_dir)), "open")

    def _ask(self, method: str, *args: Any) -> Any:
        """A call of the chain actor, made again while an existing chain does not answer."""
        while True:
            try:
                answer = self._get(self._actor.ask.remote(method, *args), method)
            except ChainUnreachableError as error:
                if self._embedded:
                    raise
                self.outage.wait(f"the chain: {error}", unreachable=True)
                time.sleep(LOOK)
            else:
                self.outage.over()
                return answer

    def _get(self, ref: Any, method: str) -> Any:
        try:
            return self._chain.wait(ref, method)
        except RayActorError as error:
            raise ChainError("the chain actor died; go on with resume=RUN_DIR") from error
        except HangError as error:
            raise ChainError(f"{error}; go on with resume=RUN_DIR") from error

    def _tell(self, line: str) -> None:
        self.tell(line)

    def _contexts(self, silos: Iterable[int], creator: str = NOBODY) -> dict[int, TxContext]:
        """What the owners of silos must know of the chain to sign."""
        contexts: dict[int, TxContext] = {}
        for part in _parts(sorted(silos)):
            told = self._ask("contexts", [self._accounts[silo] for silo in part], creator)
            contexts |= {silo: told[self._accounts[silo]] for silo in part}
        return contexts

    def _broadcast(self, signed: Mapping[int, Sequence[bytes]], epoch: int, one_by_one: bool = False) -> None:
        """Have owners' transactions mined, those of a lower silo first; see `ChainClient.broadcast`."""
        for part in _parts(sorted(signed)):
            named = [(f"member-{silo}", raw) for silo in part for raw in signed[silo]]
            names, raws = [name for name, _ in named], [raw for _, raw in named]
            if raws:
                self._ask("broadcast", raws, epoch, names, one_by_one)


def _parts(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(numbers), _PART):
        yield numbers[first : first + _PART]
