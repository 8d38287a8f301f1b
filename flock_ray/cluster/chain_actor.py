"""The chain actor: the one process that talks to the chain and holds the relayer's key."""

from __future__ import annotations

from typing import Any

import ray

from flock_ray.chain.client import ChainClient
from flock_ray.chain.epoch_report import Report
from flock_ray.chain.values import ChainInfo, ChainSpec, TxReceipt
from flock_ray.cluster.vitals import Vitals


class ChainWorker:
    """What the chain actor wraps: a client opened in a call of its own, since Ray hides what a constructor raises."""

    def open(self, spec: ChainSpec, run_dir: str) -> ChainInfo:
        """Start, rebuild or connect to the chain."""
        self._client = ChainClient(spec, run_dir)
        return self._client.info()

    def vitals(self) -> Vitals:
        """What its process has used so far; asked while something else is computed."""
        return Vitals.of_this_process(("chain", 0, 0))

    def ask(self, method: str, *args: Any) -> Any:
        """Any other call of the client that is over soon."""
        return getattr(self._client, method)(*args)

    def settle(self, report: Report, seats: int, signatures: bytes, work: tuple[int, int]) -> TxReceipt:
        """Settle an epoch, however long it takes; see `ChainClient.settle`."""
        return self._client.settle(report, seats, signatures, work)

    def confirm(self) -> dict[int, TxReceipt]:
        """Wait until the settlements are sure."""
        return self._client.confirm()


ChainActor = ray.remote(num_cpus=0, concurrency_groups={"settle": 1, "health": 1})(ChainWorker)
"""What takes long has a thread of its own, in which settlements go one after the other."""
