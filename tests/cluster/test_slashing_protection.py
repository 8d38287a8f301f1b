from __future__ import annotations

from pathlib import Path

import pytest

from flock_ray.cluster.slashing_protection import SlashingProtection
from flock_ray.errors import ProtocolError
from flock_ray.protocol.hashing import sha256
from flock_ray.store.batch import Batch

TASK, OTHER_TASK = sha256(b"task"), sha256(b"another task")
SEED, OTHER_SEED = sha256(b"seed"), sha256(b"seed after an abandoned epoch")
FIRST, SECOND = sha256(b"first"), sha256(b"second")


def record(protection: SlashingProtection, task: bytes, epoch: int, seed: bytes, kind: str, digest: bytes) -> None:
    with Batch() as batch:
        protection.record(task, epoch, seed, kind, digest, batch)


def test_one_place_takes_one_digest(tmp_path: Path) -> None:
    protection = SlashingProtection(tmp_path)
    record(protection, TASK, 1, SEED, "ballot_a", FIRST)
    record(protection, TASK, 1, SEED, "ballot_a", FIRST)
    with pytest.raises(
        ProtocolError, match=r"refusing to sign a second ballot_a of epoch 1: .*slashing_protection\.jsonl"
    ):
        record(protection, TASK, 1, SEED, "ballot_a", SECOND)
    assert protection.signed(TASK, 1, SEED) == {"ballot_a": FIRST}
    assert len((tmp_path / "slashing_protection.jsonl").read_text().splitlines()) == 1


def test_task_epoch_seed_and_kind_are_places_of_their_own(tmp_path: Path) -> None:
    protection = SlashingProtection(tmp_path)
    record(protection, TASK, 1, SEED, "ballot_a", FIRST)
    record(protection, OTHER_TASK, 1, SEED, "ballot_a", SECOND)
    record(protection, TASK, 2, SEED, "ballot_a", SECOND)
    record(protection, TASK, 1, SEED, "report", SECOND)
    record(protection, TASK, 1, OTHER_SEED, "ballot_a", SECOND)
    assert protection.signed(TASK, 1, SEED) == {"ballot_a": FIRST, "report": SECOND}
    assert protection.signed(TASK, 1, OTHER_SEED) == {"ballot_a": SECOND}
    assert protection.signed(OTHER_TASK, 1, SEED) == protection.signed(TASK, 2, SEED) == {"ballot_a": SECOND}
    assert protection.signed(OTHER_TASK, 2, SEED) == {}


def test_what_was_signed_before_a_restart_binds_after_it(tmp_path: Path) -> None:
    record(SlashingProtection(tmp_path), TASK, 1, SEED, "report", FIRST)
    again = SlashingProtection(tmp_path)
    record(again, TASK, 1, SEED, "report", FIRST)
    with pytest.raises(ProtocolError):
        record(again, TASK, 1, SEED, "report", SECOND)
    record(again, TASK, 2, SEED, "report", SECOND)
    assert SlashingProtection(tmp_path).signed(TASK, 2, SEED) == {"report": SECOND}


@pytest.mark.parametrize("kept", [1, 10, 60, -1])
def test_a_line_torn_by_a_crash_was_never_signed_for(tmp_path: Path, kept: int) -> None:
    """The line is on disk whole before the signature leaves; a torn one means that none left."""
    protection = SlashingProtection(tmp_path)
    record(protection, TASK, 1, SEED, "ballot_a", FIRST)
    whole = (tmp_path / "slashing_protection.jsonl").read_bytes()
    record(protection, TASK, 1, SEED, "ballot_b", FIRST)
    torn = (tmp_path / "slashing_protection.jsonl").read_bytes()[len(whole) :][:kept]
    (tmp_path / "slashing_protection.jsonl").write_bytes(whole + torn)

    again = SlashingProtection(tmp_path)
    assert again.signed(TASK, 1, SEED) == {"ballot_a": FIRST}
    with pytest.raises(ProtocolError):
        record(again, TASK, 1, SEED, "ballot_a", SECOND)
    record(again, TASK, 1, SEED, "ballot_b", SECOND)
    assert SlashingProtection(tmp_path).signed(TASK, 1, SEED) == {"ballot_a": FIRST, "ballot_b": SECOND}
