"""Rounds of Apple's pfl simulation with local training simulated, in turn; runs in the peer's environment.

`pfl_rounds.py CASE`: CASE is JSON with `clients` and `shapes`. pfl's own backend and federated averaging in its single
process; only what a user's training would change is made by one copy of the parameters.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from turns import Turns

MAX_ROUNDS = 10_000


class Shapes(torch.nn.Module):
    """Parameters of the given shapes; its loss, for whoever asks, is nothing."""

    def __init__(self, shapes: list[list[int]]) -> None:
        super().__init__()
        self.layers = torch.nn.ParameterList(torch.zeros(shape) for shape in shapes)

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor, is_eval: bool = False) -> torch.Tensor:
        """Nothing."""
        return sum(layer.sum() * 0 for layer in self.layers)

    def metrics(self, inputs: torch.Tensor, targets: torch.Tensor, is_eval: bool = False) -> dict[str, Any]:
        """Nothing."""
        return {}


class SimulatedModel(PyTorchModel):
    """A model whose local training moves the parameters a little."""

    def do_multiple_epochs_of(self, user_dataset: Dataset, *arguments: Any, **settings: Any) -> None:
        """What stands for local training: one pass over the parameters."""
        move = 2.0**-20 * (int(user_dataset.user_id) + 1)
        with torch.no_grad():
            for parameter in self.pytorch_model.parameters():
                parameter.add_(move)


class TurnTaker(TrainingProcessCallback):
    """Waits for its turn before each round."""

    def __init__(self, turns: Turns, clients: int) -> None:
        self._turns, self._clients = turns, clients

    def on_train_begin(self, *, model: Any) -> Metrics:
        """The first round begins."""
        self._turns.begin()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """A round ends, the next begins."""
        self._turns.end(accepted=self._clients)
        self._turns.begin()
        return False, Metrics()


def user(name: Any) -> Dataset:
    """The data of one user: a single row."""
    return Dataset(raw_data=[torch.zeros(1, 1), torch.zeros(1)], user_id=str(name))


def main() -> None:
    """Federated averaging over all users in every round."""
    turns, case = Turns(), json.loads(sys.argv[1])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    clients, module = case["clients"], Shapes(case["shapes"])
    users = FederatedDataset(user, get_user_sampler("minimize_reuse", list(range(clients))))
    backend = SimulatedBackend(training_data=users, val_data=None, postprocessors=[WeightByDatapoints()])
    model = SimulatedModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), 1.0),
    )
    turns.ready(peer="pfl")
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=MAX_ROUNDS,
            evaluation_frequency=MAX_ROUNDS * 10,
            train_cohort_size=clients,
            val_cohort_size=None,
        ),
        backend=backend,
        model=model,
        model_train_params=NNTrainHyperParams(local_num_epochs=1, local_learning_rate=0.1, local_batch_size=1),
        model_eval_params=NNEvalHyperParams(local_batch_size=1),
        callbacks=[TurnTaker(turns, clients)],
    )


if __name__ == "__main__":
    np.random.seed(0)
    main()
