"""Rounds of Flower's simulation with local training simulated, in turn; runs in the peer's environment.

`flower_rounds.py CASE`: CASE is JSON with `clients` and `shapes`. Flower's own FedAvg over all clients, as its
quickstart has it; a client call gets the arrays and answers with arrays that were moved a little.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from turns import Turns

MAX_ROUNDS = 10_000
CASE = json.loads(sys.argv[1])
client_app, server_app = ClientApp(), ServerApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """What stands for local training: one copy of the arrays."""
    import torch  # noqa: F401 - a worker gets this function by value, and Flower looks whether torch is imported

    move = 2.0**-20 * (int(context.node_config["partition-id"]) + 1)
    moved = {name: values + move for name, values in message.content["arrays"].to_torch_state_dict().items()}
    metrics = MetricRecord({"loss": 1.0, "num-examples": 1})
    return Message(RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics}), reply_to=message)


class TurnTaker(FedAvg):
    """FedAvg that waits for its turn before each round."""

    def __init__(self, turns: Turns, **settings: Any) -> None:
        super().__init__(**settings)
        self._turns = turns

    def configure_train(self, *arguments: Any) -> Iterable[Message]:
        """The round begins."""
        self._turns.begin()
        return super().configure_train(*arguments)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The round ends with the average."""
        received = list(replies)
        averaged = super().aggregate_train(server_round, received)
        self._turns.end(accepted=sum(not one.has_error() for one in received))
        return averaged


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """FedAvg over all clients in every round."""
    clients = CASE["clients"]
    # min_train_nodes: without it the first round goes to those that have registered by then.
    strategy = TurnTaker(
        TURNS, fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients
    )
    TURNS.ready(peer="flower")
    arrays = {f"layer{index}": torch.zeros(shape) for index, shape in enumerate(CASE["shapes"])}
    strategy.start(grid=grid, initial_arrays=ArrayRecord(arrays), num_rounds=MAX_ROUNDS, timeout=3600)


if __name__ == "__main__":
    TURNS = Turns()
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=CASE["clients"],
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
