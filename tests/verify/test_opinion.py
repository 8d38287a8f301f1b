"""The second opinion that a voter asks for before it signs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flock_ray.chain.eip712 import Domain, message_digest, report_hash
from flock_ray.chain.keys import Signer
from flock_ray.cluster.attestation import MessageVerifier, report_of
from flock_ray.errors import VerificationError
from flock_ray.protocol.encoding import to_hex
from flock_ray.protocol.epoch import derive
from flock_ray.protocol.hashing import keccak
from flock_ray.protocol.message import Kind, Message, SignedMessage
from flock_ray.protocol.state import TaskState
from flock_ray.verify.message_set import open_message
from flock_ray.verify.opinion import disagreement
from flock_ray.verify.report import SigningDomain
from tests.protocol.players import Play, message, new_task

SIGNERS = [Signer(keccak(b"member %d" % number)) for number in range(8)]
RELAYER = Signer(keccak(b"relayer")).address


def keyed(state: TaskState) -> TaskState:
    """The state with members whose keys are here."""
    members = (replace(member, account=signer.address) for member, signer in zip(state.members, SIGNERS, strict=True))
    return replace(state, members=tuple(members))


STATE = keyed(new_task())
DISTRIBUTOR = "0x" + "22" * 20
DOMAIN = Domain(STATE.scope.chain_id, to_hex(STATE.scope.contract), DISTRIBUTOR)
SIGNING_DOMAIN = SigningDomain(STATE.scope.chain_id, STATE.scope.contract, bytes.fromhex(DISTRIBUTOR[2:]))


def signed(message: Message, signer: Signer | None = None) -> SignedMessage:
    digest = message_digest(DOMAIN, message.task, message.epoch, STATE.seed, message.kind, message.digest)
    return SignedMessage(message.data, (signer or SIGNERS[message.member]).sign_digest(digest))


BULLETIN = [signed(message) for message in Play().messages(STATE)]


def opinion(bulletin: list[SignedMessage], relayer: str = RELAYER, distributor: str = DISTRIBUTOR) -> str:
    """What verify says of what protocol makes of a bulletin, whether or not it is handed what was parsed before."""
    verifier = MessageVerifier(DOMAIN)
    record = derive(STATE, verifier.inbox(bulletin, STATE))
    asked = (STATE, bulletin, relayer, distributor, record.data, report_hash(report_of(record, DOMAIN, RELAYER)))
    reason = disagreement(*asked)
    assert disagreement(*asked, verifier.parsed) == reason
    return reason


def test_both_agree_on_what_was_signed_and_leave_out_what_was_not() -> None:
    assert opinion(BULLETIN) == ""
    stray = message(STATE, Kind.COMMITMENT, STATE.roles.voters[0], {"commitment": "0x" + "11" * 32})
    assert opinion([*BULLETIN, signed(stray, SIGNERS[-1]), SignedMessage(b"{}", bytes(65))]) == ""
    assert opinion(BULLETIN[3:]) == ""


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        ("flock_ray.protocol.marginal1.closeness", lambda own, consensus: 1 + abs(own)),
        ("flock_ray.protocol.epoch.next_seed", lambda seed, digest: seed),
        ("flock_ray.verify.payment_marginal._closeness", lambda own, consensus: 1 + abs(own)),
        ("flock_ray.verify.scores.quantile", lambda values, basis_points: max(values)),
        ("flock_ray.verify.accounting.MAX_SLASHES", -1),
    ],
)
def test_a_mistake_of_either_side_is_a_disagreement(monkeypatch: pytest.MonkeyPatch, where: str, wrong: object) -> None:
    bulletin = [signed(message) for message in Play(gain=lambda v, p: -90_000 - 17_000 * v).messages(STATE)]
    assert opinion(bulletin) == ""
    monkeypatch.setattr(where, wrong)
    assert opinion(bulletin) == "the second opinion comes to another record"


def test_a_mistake_in_leaves_root_report_or_relayer_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "another rewards root or report" in opinion(BULLETIN, SIGNERS[0].address)
    assert "another rewards root or report" in opinion(BULLETIN, distributor=SIGNERS[0].address)
    monkeypatch.setattr("flock_ray.cluster.attestation.reward_leaf", lambda domain, task, account, wei: keccak(task))
    assert "another rewards root or report" in opinion(BULLETIN)


def test_what_was_parsed_is_of_the_bytes_that_are_signed() -> None:
    with pytest.raises(AssertionError):
        open_message(BULLETIN[0], STATE, SIGNING_DOMAIN, Message.parse(BULLETIN[1].data))


def test_a_message_opens_for_its_sender_task_and_epoch_only() -> None:
    ours = Message.parse(BULLETIN[0].data)
    assert open_message(BULLETIN[0], STATE, SIGNING_DOMAIN) == ours
    cases = [
        (signed(ours, SIGNERS[(ours.member + 1) % 8]), STATE, SIGNING_DOMAIN, "did not sign"),
        (BULLETIN[0], STATE, replace(SIGNING_DOMAIN, chain_id=1), "did not sign"),
        (BULLETIN[0], STATE, replace(SIGNING_DOMAIN, settlement=bytes(20)), "did not sign"),
        (BULLETIN[0], replace(STATE, epoch=2), SIGNING_DOMAIN, "of epoch 1 of task"),
        (BULLETIN[0], replace(STATE, scope=replace(STATE.scope, task=bytes(32))), SIGNING_DOMAIN, "of epoch 1 of task"),
        (signed(replace(ours, member=8), SIGNERS[0]), STATE, SIGNING_DOMAIN, "whom the task does not have"),
        (replace(BULLETIN[0], data=BULLETIN[0].data + b" "), STATE, SIGNING_DOMAIN, "no message of the schema"),
        (signed(replace(ours, body={"commitment": "0x"})), STATE, SIGNING_DOMAIN, "no message of the schema"),
    ]
    for case, state, domain, told in cases:
        with pytest.raises(VerificationError, match=told):
            open_message(case, state, domain)
