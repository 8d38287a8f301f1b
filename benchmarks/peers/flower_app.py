"""Federated LoRA fine-tuning in Flower's simulation; runs in the peer's environment: `flower_app.py FOLDER CPUS`.

As FlowerTune does it: every client call loads the base model and injects PEFT, the server averages adapters. FOLDER
holds the task as `benchmarks/flower_peer.py` wrote it: `plan.json`, `start.safetensors`, `batches.safetensors`; into
it go `final.safetensors` and `rounds.json`. CPUS are those of a client call.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from safetensors.torch import load_file, save_file

client_app, server_app = ClientApp(), ServerApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One client's local steps of one round."""
    # Imported here since Flower pickles this function to the actors, which safe_open does not survive.
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    config = message.content["config"]
    folder, number = Path(str(config["folder"])), int(config["server-round"])
    plan = json.loads((folder / "plan.json").read_text())
    one = plan["rounds"][number - 1]
    member = one["members"][int(context.node_config["partition-id"])]
    with safe_open(folder / "batches.safetensors", "pt") as file:
        ids, labels = (file.get_tensor(f"{number}/{member}/{name}") for name in ("ids", "labels"))

    base = AutoModelForCausalLM.from_pretrained(
        plan["model"], dtype=getattr(torch, plan["dtype"]), attn_implementation=plan["attention"]
    )
    base.config.use_cache = False
    lora = LoraConfig(r=plan["rank"], lora_alpha=plan["alpha"], target_modules=plan["targets"], task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    loaded = set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
    assert not loaded.unexpected_keys
    factors = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(factors, weight_decay=plan["weight_decay"])
    model.train()
    losses = []
    for rate, batch, targets in zip(one["rates"], ids, labels, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        loss = model(input_ids=batch, labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(factors, plan["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    metrics = MetricRecord({"train_loss": sum(losses) / len(losses), "num-examples": ids.shape[0] * ids.shape[1]})
    arrays = ArrayRecord(get_peft_model_state_dict(model))
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


class TimedFedAvg(FedAvg):
    """FedAvg that notes when each round began and ended, in seconds since 1970, and how many clients replied."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.rounds: list[dict[str, float]] = []

    def configure_train(self, *arguments: Any) -> Iterable[Message]:
        """The round begins."""
        self.rounds.append({"start": time.time()})
        return super().configure_train(*arguments)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The round ends."""
        received = list(replies)
        averaged = super().aggregate_train(server_round, received)
        self.rounds[-1] |= {"end": time.time(), "replies": sum(not one.has_error() for one in received)}
        return averaged


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """FedAvg over all clients in every round."""
    folder = Path(sys.argv[1])
    plan = json.loads((folder / "plan.json").read_text())
    # min_train_nodes: without it the first round goes to those that have registered by then.
    strategy = TimedFedAvg(
        fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=plan["clients"], min_available_nodes=plan["clients"]
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(load_file(folder / "start.safetensors")),
        num_rounds=len(plan["rounds"]),
        train_config=ConfigRecord({"folder": str(folder)}),
        timeout=3600,
    )
    final = result.arrays.to_torch_state_dict()
    save_file({name: value.float().contiguous() for name, value in final.items()}, folder / "final.safetensors")
    losses = [metrics["train_loss"] for _, metrics in sorted(result.train_metrics_clientapp.items())]
    (folder / "rounds.json").write_text(json.dumps({"rounds": strategy.rounds, "train_losses": losses}))


if __name__ == "__main__":
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=json.loads((Path(sys.argv[1]) / "plan.json").read_text())["clients"],
        backend_config={"client_resources": {"num_cpus": int(sys.argv[2]), "num_gpus": 0.0}},
    )
