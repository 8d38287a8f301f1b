"""`flock-ray deployment usage`: the contract that takes what users of models pay, beside the others."""

from __future__ import annotations

from argparse import Namespace

from flock_ray.chain.usage import UsageSettings, creation
from flock_ray.chain.usage_reader import UsageReader
from flock_ray.chain.values import NOBODY
from flock_ray.commands.connection import connected


def deploy(asked: Namespace) -> None:
    """Deploy `UsageSettlement` for the token of the contracts; it changes nothing in them."""
    with connected(asked) as chain:
        settings = UsageSettings(
            sink=str(chain.reader.ask("TaskRegistry", "sink")),
            guardian=asked.guardian or NOBODY,
            min_stake=asked.min_stake,
            activation_delay=asked.activation_delay,
            response_window=asked.response_window,
            withdrawal_delay=asked.withdrawal_delay,
        )
        for receipt in chain.send(creation(chain.at.token, settings)):
            reader = UsageReader(chain.node, str(receipt.contract_address), chain.account)
            made = {"block": receipt.block, "gas": receipt.gas_used}
            chain.output.facts({"contract": reader.at, "token": reader.token, **settings_facts(settings), **made})


def settings_facts(settings: UsageSettings) -> dict[str, object]:
    """What an operator chose, as commands tell it."""
    return {
        "sink": settings.sink,
        "guardian": settings.guardian,
        "min_stake_wei": settings.min_stake,
        "activation_delay_seconds": settings.activation_delay,
        "response_window_seconds": settings.response_window,
        "withdrawal_delay_seconds": settings.withdrawal_delay,
    }
