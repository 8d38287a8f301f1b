"""`flock-ray deployment usage` on a real anvil, and `flock-ray verify` of a batch of usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from flock_ray.chain.usage import UsageSettings
from flock_ray.chain.usage_reader import UsageReader
from flock_ray.chain.values import NOBODY, SINK, TOKEN
from flock_ray.commands.main import main
from flock_ray.errors import ChainError, ConfigError, DeploymentError, VerificationError
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
