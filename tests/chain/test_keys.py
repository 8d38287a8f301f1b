from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from flock_ray.chain.keys import PASSWORD_VARIABLE, Signer, compact, load_signer, recover, run_signer
from flock_ray.errors import KeyMissingError
from flock_ray.protocol.hashing import keccak

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SECRET = keccak(b"a private key")
SIGNER = Signer(SECRET)
digests = st.binary(min_size=32, max_size=32)


@given(digests)
def test_a_signature_names_its_signer_and_is_the_same_every_time(digest: bytes) -> None:
    signature = SIGNER.sign_digest(digest)
    assert recover(digest, signature) == SIGNER.address
    assert signature == Signer(SECRET).sign_digest(digest)
    assert int.from_bytes(signature[32:64], "big") <= ORDER // 2


def test_signatures_and_addresses_are_those_of_eth_account() -> None:
    account = Account.from_key(SECRET)
    digest = keccak(b"digest")
    assert account.address == SIGNER.address
    assert bytes(account.unsafe_sign_hash(digest).signature) == SIGNER.sign_digest(digest)


@given(digests)
def test_the_other_form_of_a_signature_is_refused(digest: bytes) -> None:
    signature = SIGNER.sign_digest(digest)
    high = ORDER - int.from_bytes(signature[32:64], "big")
    twin = signature[:32] + high.to_bytes(32, "big") + bytes([55 - signature[64]])
    assert recover(digest, twin) is None
    assert recover(digest, signature[:64] + bytes([signature[64] - 27])) is None


@given(digests, st.binary(max_size=66) | st.binary(min_size=65, max_size=65))
def test_bytes_of_a_peer_never_raise(digest: bytes, signature: bytes) -> None:
    assert recover(digest, signature) != SIGNER.address
    assert recover(digest, bytes(64) + b"\x1b") is None
    assert recover(digest, b"\xff" * 32 + bytes(31) + b"\x01\x1b") is None


@given(digests)
def test_compact_follows_eip_2098(digest: bytes) -> None:
    signature = SIGNER.sign_digest(digest)
    short = compact(signature)
    parity = short[32] >> 7
    assert short[:32] + bytes([short[32] & 0x7F]) + short[33:] + bytes([27 + parity]) == signature


@pytest.mark.parametrize(
    ("message", "r", "vs"),
    [
        (
            "Hello World",
            "68a020a209d3d56c46f38cc50a33f704f4a9a10a59377f8dd762ac66910e9b90",
            "7e865ad05c4035ab5792787d4a0297a43617ae897930a6fe4d822b8faea52064",
        ),
        (
            "It's a small(er) world",
            "9328da16089fcba9bececa81663203989f2df5fe1faa6291a45381c81bd17f76",
            "939c6d6b623b42da56557e5e734a43dc83345ddfadec52cbe24d0cc64f550793",
        ),
    ],
)
def test_examples_of_eip_2098(message: str, r: str, vs: str) -> None:
    signer = Signer(bytes.fromhex("1234567890" * 6 + "1234"))
    digest = keccak(b"\x19Ethereum Signed Message:\n%d" % len(message) + message.encode())
    assert compact(signer.sign_digest(digest)).hex() == r + vs
    with pytest.raises(ValueError, match="low s"):
        compact(signer.sign_digest(digest)[:64] + b"\x00")


def test_a_key_shows_itself_nowhere() -> None:
    for text in (repr(SIGNER), str(SIGNER), f"{SIGNER!r:>80}", repr([SIGNER])):
        assert SECRET.hex() not in text and str(int.from_bytes(SECRET, "big")) not in text
        assert SIGNER.address in text
    for copying in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="pickled"):
            copying(SIGNER)


@pytest.mark.parametrize("secret", [b"", bytes(32), ORDER.to_bytes(32, "big"), b"\x01" * 31])
def test_what_is_no_key_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="private key"):
        Signer(secret)


def test_keys_of_a_run_depend_on_seed_and_name() -> None:
    addresses = {run_signer(seed, name).address for seed in (1, 2) for name in ("creator", "relayer", "member-0")}
    assert len(addresses) == 6
    assert run_signer(1, "creator").address == "0x8Ea8fcf1A6011DD2F8EA6464A236E3828c8c7920"


def test_secrets_of_a_key_differ_by_purpose_and_signer() -> None:
    other = Signer.derive(SECRET)
    secrets = {signer.secret(purpose) for signer in (SIGNER, other) for purpose in ("salt", "chain")}
    assert len(secrets) == 4 and other.address != SIGNER.address


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("creator", "FLOCK_RAY_CREATOR_KEY"),
        ("relayer", "FLOCK_RAY_RELAYER_KEY"),
        ("member-3", "FLOCK_RAY_MEMBER_3_KEY"),
        ("delegator-0", "FLOCK_RAY_DELEGATOR_0_KEY"),
    ],
)
def test_a_key_from_the_environment(name: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyMissingError, match=variable):
        load_signer(name)
    monkeypatch.setenv(variable, "0x" + SECRET.hex())
    assert load_signer(name).address == SIGNER.address
    monkeypatch.setenv(variable, SECRET.hex()[:-1] + "g")
    with pytest.raises(KeyMissingError, match="64 hex digits") as caught:
        load_signer(name)
    assert SECRET.hex()[:8] not in str(caught.value)


def test_a_key_from_a_keystore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tmp_path)
    path = tmp_path / "member-0.json"
    with pytest.raises(KeyMissingError, match=PASSWORD_VARIABLE):
        load_signer("member-0", folder)
    monkeypatch.setenv(PASSWORD_VARIABLE, "open sesame")
    with pytest.raises(KeyMissingError, match=r"member-0\.json: No such file"):
        load_signer("member-0", folder)
    path.write_text(json.dumps(Account.encrypt(SECRET, "open sesame", kdf="pbkdf2", iterations=2)))
    assert load_signer("member-0", folder).address == SIGNER.address
    monkeypatch.setenv(PASSWORD_VARIABLE, "another")
    with pytest.raises(KeyMissingError, match="another password"):
        load_signer("member-0", folder)
    for damaged in ("{", "[]", '{"version": 3}', '"text"', '{"version": 3, "crypto": {"kdf": "md5"}}'):
        path.write_text(damaged)
        with pytest.raises(KeyMissingError, match="not a version 3 keystore"):
            load_signer("member-0", folder)


@pytest.mark.parametrize("name", ["member", "../creator", "member-x", "delegator", "CREATOR", ""])
def test_other_names_name_no_key(name: str) -> None:
    with pytest.raises(KeyMissingError, match="no key named"):
        load_signer(name)


def test_what_a_member_needs_loads_without_web3_and_a_chain_of_others_without_an_evm() -> None:
    code = """
import sys
from flock_ray.chain import eip712, epoch_report, keys, merkle, transactions, values
assert not {"web3", "eth_tester"} & set(sys.modules)
from flock_ray.chain import client, deployment
assert "eth_tester" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
