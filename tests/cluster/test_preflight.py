from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from flock_ray.chain.anvil import AnvilProcess
from flock_ray.chain.embedded import GAS_MONEY, GENESIS_TIME
from flock_ray.chain.journal import Genesis
from flock_ray.chain.keys import run_signer
from flock_ray.cluster.preflight import check_before_start
from flock_ray.config import ChainBackend, ChainConfig, Config
from flock_ray.errors import (
    ChainUnreachableError,
    ConfigError,
    FundsError,
    KeyMissingError,
    ModelError,
    WrongChainError,
)

pytestmark = pytest.mark.model

CHAIN_ID = 4_711


def rpc(**chain: Any) -> Config:
    return Config(chain=ChainConfig(backend=ChainBackend.rpc, **chain))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A chain on which the creator has gas money and the relayer has none."""
    process = AnvilProcess(Genesis("anvil", CHAIN_ID, GENESIS_TIME, {run_signer(5, "creator").address: GAS_MONEY}))
    yield process.url
    process.close()


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CREATOR", "RELAYER"):
        monkeypatch.delenv(f"FLOCK_RAY_{name}_KEY", raising=False)


def test_the_defaults_pass() -> None:
    check_before_start(Config())
    check_before_start(Config(chain=ChainConfig(backend=ChainBackend.none)))


@pytest.mark.parametrize(
    ("group", "key", "error", "told"),
    [
        ("aggregation", "rule", ConfigError, "aggregation.rule is 'typo'; it must be one of centered_clipping, "),
        ("wire_format", "name", ConfigError, "wire_format.name is 'typo'; it must be one of bf16_feedback, dense"),
        ("adversary", "attack", ConfigError, "adversary.attack is 'typo'; it must be one of alie, always_no, "),
        ("data", "kind", ConfigError, "data.kind is 'typo'; it must be one of stdlib_code, jsonl"),
        ("model", "dtype", ModelError, "model.dtype is 'typo'; it must be auto, bfloat16 or float32"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_exist(
    group: str, key: str, error: type[Exception], told: str
) -> None:
    config = Config()
    setattr(getattr(config, group), key, "typo")
    with pytest.raises(error) as caught:
        check_before_start(config)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("group", "parameters", "told"),
    [
        ("wire_format", {"max_abs": 0}, "wire_format.parameters.max_abs is 0; it must be between 1 and 262144"),
        ("wire_format", {"bits": 4}, "wire_format.parameters.bits is no parameter; it must be one of max_abs"),
        ("aggregation", {"f": 1}, "aggregation.parameters.f is no parameter; there is none"),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused(group: str, parameters: dict[str, int], told: str) -> None:
    config = Config()
    getattr(config, group).parameters = parameters
    with pytest.raises(ConfigError) as caught:
        check_before_start(config)
    assert str(caught.value) == told


def test_an_unknown_behaviour_of_a_member_is_refused() -> None:
    config = Config()
    config.adversary.members = {2: "nan", 3: "typo"}
    with pytest.raises(ConfigError, match=r"adversary\.members\.3 is 'typo'; it must be one of alie, always_no"):
        check_before_start(config)


def test_a_taken_port_is_refused() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        chain = ChainConfig(backend=ChainBackend.anvil, port=busy.getsockname()[1])
        with pytest.raises(ChainUnreachableError, match=r"choose another chain\.port"):
            check_before_start(Config(chain=chain))
        chain.backend = ChainBackend.eth_tester  # needs none
        check_before_start(Config(chain=chain))
    chain.backend = ChainBackend.anvil
    check_before_start(Config(chain=chain))


@pytest.mark.anvil
def test_the_rpc_is_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WrongChainError, match=r"serves chain id 4711, chain\.chain_id is 1"):
        check_before_start(rpc(url=url, chain_id=1))
    with pytest.raises(KeyMissingError, match=r"set FLOCK_RAY_CREATOR_KEY, or chain\.keystore"):
        check_before_start(rpc(url=url, chain_id=CHAIN_ID))
    creator, relayer = run_signer(5, "creator"), run_signer(5, "relayer")
    monkeypatch.setenv("FLOCK_RAY_CREATOR_KEY", creator._key.to_hex())
    with pytest.raises(KeyMissingError, match="FLOCK_RAY_RELAYER_KEY"):
        check_before_start(rpc(url=url))
    monkeypatch.setenv("FLOCK_RAY_RELAYER_KEY", relayer._key.to_hex())
    with pytest.raises(FundsError, match=f"the relayer's account {relayer.address} has no gas money on chain 4711"):
        check_before_start(rpc(url=url))
    monkeypatch.setenv("FLOCK_RAY_RELAYER_KEY", creator._key.to_hex())
    check_before_start(rpc(url=url, chain_id=CHAIN_ID))


@pytest.mark.parametrize("url", ["localhost", "ftp://host", "http://127.0.0.1:9"])
def test_no_rpc_there(url: str) -> None:
    with pytest.raises(ChainUnreachableError):
        check_before_start(rpc(url=url))
