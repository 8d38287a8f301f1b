"""Before `flock-ray serve` starts for money: whether the chain has what receipts need, and what it says of deposits."""

from __future__ import annotations

from argparse import Namespace

from flock_ray.chain.keys import load_signer
from flock_ray.commands.serving_plan import Places
from flock_ray.commands.usage_settlement import settling
from flock_ray.config import MoneyConfig
from flock_ray.errors import ConfigError
from flock_ray.market.gateway_plan import GATEWAY, RECEIPTS


def check_chain(money: MoneyConfig, places: Places) -> None:
    """Tell the ledger what the chain says now; later `flock-ray usage settle` does.

    Raises:
        ChainError: it does not answer, or has no such contract.
        ConfigError: the key of receipts is not registered there.
    """
    asked = Namespace(
        key=GATEWAY, keystore=money.keystore, ledger=places.ledger, rpc=money.rpc, to=places.folder / "batches"
    )
    with settling(asked) as side:
        key = load_signer(RECEIPTS, money.keystore).address
        if side.reader.receipt_key_until(side.gateway, key) <= side.node.timestamp():
            raise ConfigError(
                f"receipts of the key {key} do not count: {side.gateway} has to call setReceiptKey({key}, true) at"
                f" {side.reader.at}"
            )
        side.settlement.watch()
