from __future__ import annotations

from dataclasses import asdict, astuple, replace
from typing import Any

from eth_account.messages import encode_typed_data
from eth_utils import keccak as eth_keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from flock_ray.chain.eip712 import Domain, message_digest, report_digest, report_hash
from flock_ray.chain.epoch_report import Report, ReportedSlash
from flock_ray.chain.keys import Signer, recover
from flock_ray.protocol.hashing import keccak
from tests.chain.world import World

words = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=1, max_size=32).map(lambda secret: Signer.derive(keccak(secret)).address)
domains = st.builds(Domain, st.integers(0, 2**256 - 1), addresses, addresses)
slashes = st.builds(ReportedSlash, st.integers(0, 2**32 - 1), st.integers(0, 2**128 - 1))
reports = st.builds(
    Report,
    task=words,
    epoch=st.integers(0, 2**64 - 1),
    previous_report=words,
    seed=words,
    reveals_digest=words,
    rewards_root=words,
    rewards_total=st.integers(0, 2**128 - 1),
    slashes=st.lists(slashes, max_size=16).map(tuple),
    model_hash=words,
    record_hash=words,
    relayer=addresses,
)

TYPES = {
    "EIP712Domain": [
        ("name", "string"), ("version", "string"), ("chainId", "uint256"), ("verifyingContract", "address"),
    ],
    "Message": [
        ("task", "bytes32"), ("epoch", "uint64"), ("seed", "bytes32"), ("kind", "string"), ("digest", "bytes32"),
    ],
    "Slash": [("member", "uint32"), ("amount", "uint128")],
    "Report": [
        ("task", "bytes32"), ("epoch", "uint64"), ("previousReport", "bytes32"), ("seed", "bytes32"),
        ("revealsDigest", "bytes32"), ("rewardsRoot", "bytes32"), ("rewardsTotal", "uint128"), ("slashes", "Slash[]"),
        ("modelHash", "bytes32"), ("recordHash", "bytes32"), ("relayer", "address"),
    ],
}  # fmt: skip


def oracle(domain: Domain, primary: str, message: dict[str, Any]) -> tuple[bytes, bytes]:
    """(struct hash, digest) by eth_account."""
    used = ("EIP712Domain", primary, "Slash") if primary == "Report" else ("EIP712Domain", primary)
    signable = encode_typed_data(
        full_message={
            "types": {name: [{"name": n, "type": t} for n, t in TYPES[name]] for name in used},
            "primaryType": primary,
            "domain": {
                "name": "flock_ray", "version": "1", "chainId": domain.chain_id, "verifyingContract": domain.contract
            },
            "message": message,
        }
    )  # fmt: skip
    return signable.body, eth_keccak(b"\x19" + signable.version + signable.header + signable.body)


def camel(fields: dict[str, Any]) -> dict[str, Any]:
    def name(key: str) -> str:
        first, *rest = key.split("_")
        return first + "".join(map(str.title, rest))

    return {name(key): value for key, value in fields.items()}


@given(domains, reports)
def test_reports_hash_as_eth_account_hashes_them(domain: Domain, report: Report) -> None:
    message = camel(asdict(report)) | {"slashes": [asdict(slash) for slash in report.slashes]}
    assert (report_hash(report), report_digest(domain, report)) == oracle(domain, "Report", message)


@given(domains, words, st.integers(0, 2**64 - 1), words, st.text(max_size=40), words)
def test_messages_hash_as_eth_account_hashes_them(
    domain: Domain, task: bytes, epoch: int, seed: bytes, kind: str, digest: bytes
) -> None:
    message = {"task": task, "epoch": epoch, "seed": seed, "kind": kind, "digest": digest}
    _, expected = oracle(domain, "Message", message)
    assert message_digest(domain, task, epoch, seed, kind, digest) == expected


def ask(world: World, function: str, *args: object) -> Any:
    return world.client._read("EpochSettlement", world.domain.contract, function, *args)[0]


@settings(max_examples=25)
@given(report=reports, kind=st.text(max_size=40))
def test_the_contract_hashes_the_same(shared_world: World, report: Report, kind: str) -> None:
    domain = shared_world.domain
    assert ask(shared_world, "reportHash", astuple(report)) == report_hash(report)
    assert ask(shared_world, "reportDigest", astuple(report)) == report_digest(domain, report)
    asked = ask(shared_world, "messageDigest", report.task, report.epoch, report.seed, kind, report.model_hash)
    assert asked == message_digest(domain, report.task, report.epoch, report.seed, kind, report.model_hash)


@given(domains, reports, domains)
def test_a_signature_counts_for_one_chain_and_contract_only(domain: Domain, report: Report, other: Domain) -> None:
    signer = Signer.derive(keccak(b"voter"))
    signature = signer.sign_digest(report_digest(domain, report))
    assert recover(report_digest(domain, report), signature) == signer.address
    if (other.chain_id, other.contract) != (domain.chain_id, domain.contract):
        assert recover(report_digest(other, report), signature) != signer.address
    changed = replace(report, rewards_total=report.rewards_total ^ 1)
    assert recover(report_digest(domain, changed), signature) != signer.address
