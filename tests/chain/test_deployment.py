"""A deployment on a real anvil: cut off before and after every transaction, disturbed, changed afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from flock_ray.chain import fee_bumper
from flock_ray.chain import node as chain_node
from flock_ray.chain.abi import contract
from flock_ray.chain.address_book import AddressBook, exclusive
from flock_ray.chain.anvil import AnvilProcess
from flock_ray.chain.deployment import ADMIN_ROLE, GUARDIAN_ROLE, Deployment, Settings
from flock_ray.chain.embedded import GAS_MONEY, GENESIS_TIME
from flock_ray.chain.journal import Genesis
from flock_ray.chain.keys import Signer, run_signer
from flock_ray.chain.rpc import RpcNode
from flock_ray.chain.values import NOBODY, SINK
from flock_ray.errors import AddressBookError, DeploymentError, FundsError
from flock_ray.protocol.hashing import keccak
from tests.chaos.proxy import Proxy, fields_of
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.anvil

DEPLOYER, TREASURY, GUARDIAN, PROPOSER = (run_signer(3, f"member-{i}") for i in range(4))
SETTINGS = Settings(
    supply=1_000 * 10**18, treasury=TREASURY.address, guardian=GUARDIAN.address, delay=0,
    proposers=(PROPOSER.address,), executors=(NOBODY,), activation_delay=60, absence_bps=100, response_window=3_600,
    grace=600, sink=SINK,
    evidence_window=7_200, vault_epoch=86_400, unbonding_epochs=7, commission_delay=8, min_delegation=10**15,
    daily=10**18, decay_bps=100, period_days=365, start=GENESIS_TIME, epoch_multiple=1,
)  # fmt: skip
NUM_STEPS = 12
MALLORY = "0x" + "11" * 20


class Cut(Exception):
    """The process is gone."""


@pytest.fixture
def node() -> Iterator[RpcNode]:
    alloc = {signer.address: GAS_MONEY for signer in (DEPLOYER, PROPOSER)}
    process = AnvilProcess(Genesis("anvil", 4_711, GENESIS_TIME, alloc))
    node = RpcNode(process.url)
    yield node
    node.close()
    process.close()


def begin(node: RpcNode, path: Path, settings: Settings = SETTINGS, signer: Signer = DEPLOYER) -> Deployment:
    """A process starts: what it knows is on disk and on the chain."""
    genesis = "0x" + node.genesis().hex()
    book = AddressBook.read(path) or AddressBook(path, node.chain_id, genesis, signer.address, settings.as_json())
    book.require(node.chain_id, genesis, signer.address, settings.as_json())
    return Deployment(node, signer, settings, book, PATIENCE)


def whole(node: RpcNode, path: Path) -> Deployment:
    deployment = begin(node, path)
    deployment.execute(lambda _: None)
    deployment.check()
    return deployment


def act(node: RpcNode, signer: Signer, to: str, data: bytes = b"") -> None:
    max_fee, tip = node.fees()
    fields = {
        "type": 2, "chainId": node.chain_id, "nonce": node.nonce(signer.address), "gas": 500_000, "to": to, "value": 0,
        "data": data, "maxFeePerGas": max_fee, "maxPriorityFeePerGas": tip,
    }  # fmt: skip
    node.wait([node.send(signer.sign_transaction(fields), 0)], PATIENCE)


def test_cut_off_before_and_after_every_transaction_it_is_finished_by_the_next(
    node: RpcNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, send = tmp_path / "book.json", node.send

    def before(raw: bytes, epoch: int) -> bytes:
        raise Cut

    def after(raw: bytes, epoch: int) -> bytes:
        send(raw, epoch)
        raise Cut

    ways: tuple[Callable[[bytes, int], bytes], ...] = (before, after)
    for number in range(NUM_STEPS):
        for way, sent in zip(ways, (number, number + 1), strict=True):
            monkeypatch.setattr(node, "send", way)
            with pytest.raises(Cut):
                begin(node, path).execute(lambda _: None)
            assert node.nonce(DEPLOYER.address) == sent
    wait_until(lambda: node.mined_nonce(DEPLOYER.address) == NUM_STEPS)
    monkeypatch.setattr(node, "send", before)  # nothing is left to be sent
    deployment = begin(node, path)
    assert deployment.missing() == [] and deployment.costs() == []
    deployment.execute(lambda _: None)
    deployment.check()
    assert set(json.loads(path.read_text())["addresses"]) == set(deployment.addresses())


def test_what_is_mined_while_the_next_process_starts_is_not_sent_again(
    node: RpcNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, send = tmp_path / "book.json", node.send

    def cut(raw: bytes, epoch: int) -> bytes:
        node.wait([send(raw, epoch)], PATIENCE)
        raise Cut

    for number in range(NUM_STEPS):
        with monkeypatch.context() as patch, pytest.raises(Cut):
            patch.setattr(node, "send", cut)
            begin(node, path).execute(lambda _: None)
        with monkeypatch.context() as patch:
            patch.setattr(node, "receipt", lambda _: None)
            deployment = begin(node, path)  # sees it unmined
        assert len(deployment.missing()) == NUM_STEPS - number
    deployment.execute(lambda _: None)
    deployment.check()
    assert node.mined_nonce(DEPLOYER.address) == NUM_STEPS


def test_the_timelock_rules_and_what_it_changes_is_noticed(node: RpcNode, tmp_path: Path) -> None:
    deployment = whole(node, tmp_path / "book.json")
    at = deployment.addresses()
    assert node.call(
        at["FlockToken"], contract("FlockToken").encode("balanceOf", TREASURY.address), NOBODY
    ) == SETTINGS.supply.to_bytes(32, "big")
    revoke = contract("RewardDistributor").encode("revokeRole", GUARDIAN_ROLE, GUARDIAN.address)
    operation = (at["RewardDistributor"], 0, revoke, bytes(32), bytes(32))
    timelock = contract("TimelockController")
    act(node, PROPOSER, at["TimelockController"], timelock.encode("schedule", *operation, 0))
    deployment.check()
    act(node, DEPLOYER, at["TimelockController"], timelock.encode("execute", *operation))
    with pytest.raises(DeploymentError, match=f"{GUARDIAN.address} is not guardian of RewardDistributor"):
        deployment.check()


def test_a_role_that_the_deployer_granted_in_the_middle_is_named(node: RpcNode, tmp_path: Path) -> None:
    """The check once asked only whether those who should have a role have it: an admin could hide behind them."""
    path, hidden = tmp_path / "book.json", MALLORY

    def grant(line: str) -> None:
        if line.startswith("RewardDistributor.grantRole: timelock"):
            for role in (ADMIN_ROLE, GUARDIAN_ROLE):
                data = contract("RewardDistributor").encode("grantRole", role, hidden)
                act(node, DEPLOYER, deployment.addresses()["RewardDistributor"], data)

    deployment = begin(node, path)
    deployment.execute(grant)
    with pytest.raises(DeploymentError) as caught:
        deployment.check()
    for role in ("admin", "guardian"):
        assert f"{hidden} is {role} of RewardDistributor and must not be" in str(caught.value)


def test_a_book_that_names_a_later_block_hides_no_role(node: RpcNode, tmp_path: Path) -> None:
    path = tmp_path / "book.json"
    deployment = whole(node, path)
    at, timelock = deployment.addresses(), contract("TimelockController")
    grant = timelock.encode("grantRole", keccak(b"EXECUTOR_ROLE"), MALLORY)
    operation = (at["TimelockController"], 0, grant, bytes(32), bytes(32))
    act(node, PROPOSER, at["TimelockController"], timelock.encode("schedule", *operation, 0))
    act(node, DEPLOYER, at["TimelockController"], timelock.encode("execute", *operation))
    fields = json.loads(path.read_text())
    for entry in fields["entries"].values():
        entry["block"] = node.head()
    path.write_text(json.dumps(fields))
    with pytest.raises(DeploymentError, match=f"{MALLORY} is executor of TimelockController and must not be"):
        begin(node, path).check()


def test_without_a_guardian_the_timelock_is_admin_from_the_beginning(node: RpcNode, tmp_path: Path) -> None:
    settings = replace(SETTINGS, guardian="", treasury=DEPLOYER.address)
    deployment = begin(node, tmp_path / "book.json", settings)
    assert len(deployment.missing()) == 8
    deployment.execute(lambda _: None)
    deployment.check()
    renounced = contract("RewardDistributor").encode("hasRole", ADMIN_ROLE, DEPLOYER.address)
    assert not any(node.call(deployment.addresses()["RewardDistributor"], renounced, NOBODY))


def test_other_code_or_arguments_are_noticed(node: RpcNode, tmp_path: Path) -> None:
    path = tmp_path / "book.json"
    whole(node, path)
    other = Deployment(node, DEPLOYER, replace(SETTINGS, absence_bps=101), AddressBook.read(path), 20)  # type: ignore[arg-type]
    with pytest.raises(DeploymentError, match=r"\(EpochSettlement\) is not what this version and settings send"):
        other.check()
    for field, value, reason in (
        ("code_hash", "0x" + "ab" * 32, "the code at 0x.* is not the FlockToken that was deployed"),
        ("tx", "0x" + "ab" * 32, "the chain has no transaction 0xabab.* \\(FlockToken\\)"),
        ("address", NOBODY, "belongs to another|did not create FlockToken at 0x0000|is not what this version"),
    ):
        fields = json.loads(path.read_text())
        fields["entries"]["FlockToken"][field] = value
        changed = tmp_path / "changed.json"
        changed.write_text(json.dumps(fields))
        with pytest.raises(DeploymentError, match=reason):
            begin(node, changed).check()


def test_another_transaction_in_the_middle(node: RpcNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "book.json"

    def stop(line: str) -> None:
        if line.startswith("TaskRegistry"):
            raise Cut

    act(node, DEPLOYER, TREASURY.address)  # earlier ones do not matter
    with pytest.raises(Cut):
        begin(node, path).execute(stop)
    act(node, DEPLOYER, TREASURY.address)
    before = node.nonce(DEPLOYER.address)
    with pytest.raises(DeploymentError, match=r"another transaction in the middle .* RewardDistributor cannot come to"):
        begin(node, path).execute(stop)
    assert node.nonce(DEPLOYER.address) == before


def test_who_cannot_pay_for_all_sends_nothing(node: RpcNode, tmp_path: Path) -> None:
    with pytest.raises(FundsError, match=f"{GUARDIAN.address} has 0 wei for gas, needs"):
        begin(node, tmp_path / "book.json", signer=GUARDIAN).execute(lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "new" / "book.json"
    with exclusive(path), pytest.raises(AddressBookError, match="another deployment"), exclusive(path):
        raise AssertionError("both went on")
    with exclusive(path):
        assert not path.exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"version": 1}', '{"version": 2, "addresses": {}, "entries": {}}', "null", "\xff"]
)
def test_a_broken_book(text: str, tmp_path: Path) -> None:
    path = tmp_path / "book.json"
    path.write_text(text)
    with pytest.raises(AddressBookError, match="is no address book, or a damaged one"):
        AddressBook.read(path)


def test_a_field_of_another_form_is_a_broken_book(node: RpcNode, tmp_path: Path) -> None:
    path = tmp_path / "book.json"
    whole(node, path)
    fields = json.loads(path.read_text())
    for name, value in (("tx", "0x12"), ("block", "7"), ("address", "here"), ("attempts", [7])):
        broken = json.loads(json.dumps(fields))
        broken["entries"]["TaskRegistry"][name] = value
        path.write_text(json.dumps(broken))
        with pytest.raises(AddressBookError):
            AddressBook.read(path)
    with pytest.raises(AddressBookError, match=r"with absence_bps 100, not 7; name another book"):
        path.write_text(json.dumps(fields))
        begin(node, path, replace(SETTINGS, absence_bps=7))
    with pytest.raises(AddressBookError, match="is of a deployment by"):
        begin(node, path, signer=GUARDIAN)
    fields["genesis"] = "0x" + "00" * 32
    path.write_text(json.dumps(fields))
    with pytest.raises(AddressBookError, match="is of chain 4711 with genesis 0x0000"):
        begin(node, path)


def quickened(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST_POLL", "_LAST_POLL"):
        monkeypatch.setattr(chain_node, name, 0.002)


def raised_by_an_eighth(old: bytes, new: bytes) -> bool:
    fees = ("maxFeePerGas", "maxPriorityFeePerGas")
    return all(8 * fields_of(new)[fee] >= 9 * fields_of(old)[fee] for fee in fees)


def test_faults_on_the_way_to_the_chain(node: RpcNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost is handed in again, what is passed over or refused as too cheap is outbid."""
    quickened(monkeypatch)
    proxy = Proxy(int(node._pool._endpoints[0]._http.endpoint_uri.rsplit(":", 1)[1]), DEPLOYER, 0)  # type: ignore[union-attr]
    proxy.on_send = [
        ("stuck", 1),
        ("dropped", 0),
        ("under_priced", 1),
        ("duplicated", 0),
        ("stuck", 2),
        ("under_priced", 2),
    ]
    kinds = {kind for kind, _ in proxy.on_send}
    behind = RpcNode(proxy.url)
    try:
        whole(behind, tmp_path / "book.json")
    finally:
        behind.close()
        proxy.close()
    assert set(proxy.fired) == kinds and not proxy.on_send
    assert node.mined_nonce(DEPLOYER.address) == NUM_STEPS
    by_nonce: dict[int, list[bytes]] = {}
    for raw in dict.fromkeys(proxy.sent):
        by_nonce.setdefault(fields_of(raw)["nonce"], []).append(raw)
    assert sorted(by_nonce) == list(range(NUM_STEPS))
    assert sum(len(raws) - 1 for raws in by_nonce.values()) >= 3  # replacements: stuck, refused, and after the fee rose
    assert all(raised_by_an_eighth(*pair) for raws in by_nonce.values() for pair in pairwise(raws))


def test_the_next_process_outbids_what_the_last_one_left(
    node: RpcNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, send = tmp_path / "book.json", node.send
    quickened(monkeypatch)
    sent: list[bytes] = []

    def cut(raw: bytes, epoch: int) -> bytes:
        sent.append(raw)
        send(raw, epoch)
        raise Cut

    def mine(raw: bytes, epoch: int) -> bytes:
        sent.append(raw)
        if len(sent) == 3:
            node._request("evm_setAutomine", [True])
        return send(raw, epoch)

    node._request("evm_setAutomine", [False])
    monkeypatch.setattr(node, "send", cut)
    with pytest.raises(Cut):
        begin(node, path).execute(lambda _: None)
    monkeypatch.setattr(node, "send", mine)
    monkeypatch.setattr(fee_bumper, "STUCK_BLOCKS", 0)
    assert len(begin(node, path).costs()) == NUM_STEPS  # a dry run sends nothing
    whole(node, path)
    first, again, raised = sent[:3]
    assert first == again and raised_by_an_eighth(first, raised)
    assert fields_of(first)["nonce"] == fields_of(raised)["nonce"] == 0
    assert node.mined_nonce(DEPLOYER.address) == NUM_STEPS
