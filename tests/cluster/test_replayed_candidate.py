"""The verifier makes the candidate of an epoch again from the payloads in the store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flock_ray.aggregation.registry import RULES
from flock_ray.errors import VerificationError
from flock_ray.protocol.message import Message
from flock_ray.store.blob_store import BlobMissingError, BlobStore
from flock_ray.verify.candidate import Payloads
from flock_ray.verify.epoch import Replay, replay
from tests.aggregation.rules import WithoutLargest
from tests.cluster.plain_alliance import PlainAlliance
from tests.cluster.test_worker import use_rule

pytestmark = pytest.mark.model


class Blobs:
    """What the verifier reads of a run's folder here."""

    def __init__(self, url: str) -> None:
        self._store = BlobStore(url)

    def blob(self, digest: bytes, max_bytes: int) -> bytes | None:
        try:
            return self._store.get(digest, max_bytes)
        except BlobMissingError:
            return None

    def lacking(self, what: str) -> VerificationError:
        return VerificationError(f"{what} is not there")


def played(alliance: PlainAlliance, mechanism: str) -> Replay:
    """An accepted epoch of several updates: weights as random as these make some candidates worse than none."""
    for _ in range(10):
        play = alliance.found(mechanism=mechanism)
        record, bulletin = play.until_signing()
        replayed = replay(play.state, [Message.parse(signed.data) for signed in bulletin])
        assert replayed.record == record.data
        play.attest(record, bulletin)
        if record.accepted and len(record.candidate.weights) > 1:
            return replayed
    raise AssertionError("no epoch was accepted")


def payloads(alliance: PlainAlliance) -> Payloads:
    folder: Any = Blobs(alliance.specs[0].store_url)
    return Payloads(folder, alliance.specs[0].terms)


@pytest.mark.parametrize("mechanism", ["open", "marginal1"])
def test_a_rule_that_leaves_an_update_out_is_replayed(
    alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    use_rule(WithoutLargest, alliance, monkeypatch)
    replayed = played(alliance, mechanism)
    weights = replayed.candidate.weights
    assert 0 in dict(weights).values()
    assert payloads(alliance).check(replayed) == len(replayed.proposals)
    paid = tuple((member, 1) for member, _ in weights)
    with pytest.raises(VerificationError, match="candidate weights"):
        payloads(alliance).check(replace(replayed, candidate=replace(replayed.candidate, weights=paid)))
    monkeypatch.undo()
    with pytest.raises(VerificationError, match="candidate weights"):
        payloads(alliance).check(replayed)


def test_a_quorum_that_names_a_candidate_where_the_rule_makes_none_is_caught(
    alliance: PlainAlliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed = played(alliance, "open")
    member = replayed.candidate.weights[0][0]
    monkeypatch.setitem(RULES, "mean", WithoutLargest)  # of a single update the largest
    alone = tuple(proposal for proposal in replayed.proposals if proposal.member == member)
    candidate = replace(replayed.candidate, weights=((member, 0),))
    with pytest.raises(VerificationError, match="every accepted update has weight 0"):
        payloads(alliance).check(replace(replayed, proposals=alone, candidate=candidate))
