"""`flock-ray deployment usage` on a real anvil, and `flock-ray verify` of a batch of usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from flock_ray.chain.eip712 import usage_domain
from flock_ray.chain.usage import UsageSettings
from flock_ray.chain.usage_reader import UsageReader
from flock_ray.chain.values import NOBODY, SINK, TOKEN
from flock_ray.commands.main import main
from flock_ray.errors import ChainError, ConfigError, DeploymentError, KeyMissingError, VerificationError
from tests.commands.market import SIGNERS, Market
from tests.verify.test_usage import second, write

OPTIONS = ("--min-stake", "12.5", "--activation-delay", "60", "--response-window", "120", "--withdrawal-delay")


@pytest.mark.anvil
def test_usage_is_deployed_beside_the_others(market: Market) -> None:
    creator = SIGNERS["creator"].address
    options = "--contracts", str(market.book), *OPTIONS
    nonce = market.node.nonce(creator)
    planned = market.facts("deployment", "usage", *options, "3600", "--dry-run", key="creator")
    assert planned["calls"][0]["function"] == "" and market.node.nonce(creator) == nonce
    done = market.facts("deployment", "usage", *options, "3600", "--guardian", creator, key="creator")
    reader = UsageReader(market.node, done["contract"], creator)
    assert reader.settings() == UsageSettings(SINK, creator, 12 * TOKEN + TOKEN // 2, 60, 120, 3_600)
    assert reader.token == market.at["FlockToken"] == done["token"]
    for known in (str(market.book), market.at["EpochSettlement"]):
        checked = market.facts("deployment", "check", known, "--usage", done["contract"])
        assert (checked["usage"], checked["guardian"]) == (done["contract"], creator)
    token = market.at["FlockToken"]
    code, line = market.refused("deployment", "check", str(market.book), "--usage", token)
    assert code == DeploymentError.exit_code and f"the contract at {token}" in line
    other = market.facts("deployment", "usage", *options, "181", key="creator")
    assert other["guardian"] == NOBODY and other["contract"] != done["contract"]
    code, line = market.refused("deployment", "usage", *options, "180", key="creator")
    assert code == ChainError.exit_code and "a setting is out of its bounds" in line


@pytest.mark.anvil
@pytest.mark.model  # the gateway's modules import torch
def test_a_gateway_stakes_and_its_user_deposits_and_signs_a_cap(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.market.gateways import World, account_of

    options = "--contracts", str(market.book), *OPTIONS, "181"
    contract = market.facts("deployment", "usage", *options, key="creator")["contract"]
    usage, gateway, user = ("--usage", contract), SIGNERS["relayer"], SIGNERS["member-0"]
    reader = UsageReader(market.node, contract, user.address)
    market.give(relayer=20, member_0=10)

    assert not market.facts("gateway", "show", gateway.address, *usage)["may_settle"]
    assert market.facts("gateway", "stake", "13", *usage, key="relayer")["amount_wei"] == 13 * TOKEN
    assert market.facts("gateway", "show", gateway.address, *usage)["may_settle"]
    market.told("gateway", "receipt-key", user.address, *usage, key="relayer")
    assert reader.receipt_key_until(gateway.address, user.address) > 0
    assert "no longer signs" in market.told("gateway", "receipt-key", user.address, "--revoke", *usage, key="relayer")
    assert "flock-ray gateway withdraw" in market.told("gateway", "unstake", "--all", *usage, key="relayer")

    market.told("deposit", "add", gateway.address, "5", *usage, key="member-0")
    market.told("deposit", "request", gateway.address, "2", *usage, key="member-0")
    shown = market.facts("deposit", "show", gateway.address, user.address, *usage)
    assert (shown["amount_wei"], shown["standing_wei"]) == (5 * TOKEN, 3 * TOKEN)
    code, line = market.refused("deposit", "withdraw", gateway.address, *usage, key="member-0")
    assert code == ChainError.exit_code and "withdraw" in line
    market.wait(182)
    assert "Took out 2 tokens" in market.told("deposit", "withdraw", gateway.address, *usage, key="member-0")
    assert "Took out 13 tokens" in market.told("gateway", "withdraw", *usage, key="relayer")

    domain = usage_domain(market.node.chain_id, contract)
    with World(tmp_path, lends=True, gateway_key=gateway, domain=domain).served() as world:
        words = "deposit", "cap", gateway.address, "3", *usage, "--url", world.url
        code, line = market.refused(*words, key="member-0")
        assert code == KeyMissingError.exit_code and "FLOCK_RAY_KEY" in line
        monkeypatch.setenv("FLOCK_RAY_KEY", world.new_key(account=account_of(user))[1])
        assert market.facts(*words, "--dry-run", key="member-0")["dry_run"]
        told = market.facts(*words, key="member-0")
        signed = world.ledger.caps.get(account_of(user), bytes.fromhex(told["price_book"][2:]))
        assert signed is not None and signed.cap.cumulative == told["cumulative_wei"] == 3 * TOKEN
        code, line = market.refused("deposit", "cap", user.address, "3", *usage, "--url", world.url, key="member-0")
        assert code == ConfigError.exit_code and "nothing is signed" in line
        code, line = market.refused(*words, key="member-1")
        assert code == ConfigError.exit_code and "nothing is signed" in line
        monkeypatch.setenv("FLOCK_RAY_KEY", "fr-nobody")
        code, line = market.refused(*words, key="member-0")
        assert code == ConfigError.exit_code and "refuses (401)" in line


@pytest.mark.chain  # the command's module imports an EVM
def test_batch_is_verified_by_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "batch", second())
    assert main(["verify", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "batch 2 of series 0x" in told and "3 receipts" in told and "name a node with --rpc" in told
    (folder / "receipts.jsonl").write_bytes((folder / "receipts.jsonl").read_bytes().replace(b'"cost":8', b'"cost":9'))
    assert main(["verify", str(folder)]) == VerificationError.exit_code
    assert "of receipts.jsonl: the receipt is not signed by" in capsys.readouterr().err
    assert main(["verify", str(folder), "--anchor", "0x" + "00" * 32]) == ConfigError.exit_code
    assert "has no --anchor" in capsys.readouterr().err
