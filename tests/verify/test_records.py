"""Every number that a record states is compared with what follows from the signed messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flock_ray.errors import VerificationError
from flock_ray.protocol.encoding import canonical_json
from flock_ray.verify.accounting import FEES_OWED
from flock_ray.verify.accuracy import ACCURACY
from flock_ray.verify.chain import SettledEpoch
from flock_ray.verify.epoch import Replay, replay
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.report import SigningDomain
from flock_ray.verify.run import _check_record
from flock_ray.verify.summary import _epoch
from tests.protocol.players import STAKE, TOKEN, Play, new_task

pytestmark = pytest.mark.chain  # the verifier of whole runs imports an EVM


def eventful() -> Replay:
    """An epoch in which every field of a record has something to say."""
    state = new_task(24, num_voters=11, num_proposers=6, mechanism="marginal", seed=4)
    good, bad, harmful, *_ = proposers = sorted(set(state.roles.proposers))
    lost, owing, slow, *_ = sorted(set(state.roles.voters))
    kept = {member: {ACCURACY: 800_000} for member in state.roles.voters}
    kept |= {
        lost: {ACCURACY: 1},
        owing: {ACCURACY: 800_000, FEES_OWED: TOKEN},
        slow: {ACCURACY: 800_000, FEES_OWED: STAKE // 100 - 1},
        bad: {FEES_OWED: STAKE // 100},
    }
    members = tuple(replace(member, noted=kept.get(number, {})) for number, member in enumerate(state.members))
    levels = {member: 30_000 + 1_000 * member for member in proposers} | {bad: 10, harmful: -90_000}
    play = Play(
        gain=lambda voter, member: levels[member],
        entering=lambda voter, member: levels[member] - voter,
        step_gain=lambda voter, step: 100 * step if step < 5 else -1,
    )
    state = replace(state, members=members)
    replayed = replay(state, play.messages(state))
    assert good in dict(replayed.candidate.weights)
    return replayed


EVENTFUL = eventful()


def test_an_eventful_epoch_states_something_everywhere() -> None:
    record = EVENTFUL.fields
    assert record["accepted"] and record["voiceless"] and record["withheld"]
    assert {slash.reason for slash in EVENTFUL.accounting.slashes} == {"harmful", "fees"}
    assert {proposal.status for proposal in EVENTFUL.proposals} == {"accepted", "rejected", "harmful"}
    assert EVENTFUL.candidate.step == 3 and len(EVENTFUL.candidate.steps) == 4
    rows = EVENTFUL.fees.rows
    assert any(charged for _, charged, _ in rows) and any(withheld for _, _, withheld in rows)
    assert any(member.noted.get(FEES_OWED) for member in EVENTFUL.accounting.members)
    assert 0 in EVENTFUL.rewards.values()  # of who earned less than it owed


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of all values that hold no others."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not value or not isinstance(value, dict | list):
        yield path
    for key, item in inner:
        yield from leaves(item, (*path, key))


def forged(change: Callable[[Any], None], folder: Path) -> None:
    """Check a record that was changed and written canonically."""
    record = json.loads(EVENTFUL.record)
    change(record)
    (folder / "store").mkdir(exist_ok=True)
    (folder / "records").mkdir(exist_ok=True)
    (folder / "task.json").write_text("{}")
    (folder / "records/1.json").write_bytes(canonical_json(record))
    _check_record(RunFolder(folder), EVENTFUL)


def test_the_record_itself_holds(tmp_path: Path) -> None:
    forged(lambda record: None, tmp_path)


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return f"{value}0" if isinstance(value, str) else 7


def owner_of(value: Any, path: Sequence[str | int]) -> Any:
    for key in path:
        value = value[key]
    return value


def test_every_value_of_a_record_is_compared(tmp_path: Path) -> None:
    whole = json.loads(EVENTFUL.record)
    paths = list(leaves(whole))
    told = {str(key) for path in paths for key in path}
    assert {"entering", "steps", "step", "voiceless", "fees", "withheld", ACCURACY, FEES_OWED} <= told
    few = [path for path in paths if all(isinstance(key, str) or key < 6 for key in path)]  # of long lists
    for *path, last in few:
        value = owner_of(whole, path)[last]
        for wrong in (other(value), None, []):
            if wrong != value:

                def put(record: Any, path: list[Any] = path, last: Any = last, wrong: Any = wrong) -> None:
                    owner_of(record, path)[last] = wrong

                with pytest.raises(VerificationError, match=r"epoch 1 record"):
                    forged(put, tmp_path)
                    pytest.fail(f"{path} {last} = {wrong!r} passes")


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["voiceless"].pop(),
        lambda record: record["voiceless"].append(99),
        lambda record: record["fees"].pop(),
        lambda record: record["fees"].append([99, 0, 0]),
        lambda record: record["fees"].reverse(),
        lambda record: record["candidate"]["steps"].pop(),
        lambda record: record["candidate"]["steps"].reverse(),
        lambda record: record["candidate"].pop("step"),
        lambda record: record.pop("withheld"),
        lambda record: record["proposals"][0]["entering"].pop("gains"),
        lambda record: record["proposals"][0]["entering"]["gains"].pop(),
        lambda record: record["proposals"][0]["entering"].update(weight=1),
        lambda record: record["rewards"].pop(),
        lambda record: record["members"][0][5].update(paid=1),
        lambda record: record["members"][0][5].clear(),
        lambda record: record["slashes"].pop(),
        lambda record: record["slashes"].reverse(),
    ],
)
def test_what_is_left_out_or_added_is_noticed(change: Callable[[Any], None], tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"epoch 1 record|records/1\.json is not the canonical text"):
        forged(change, tmp_path)


def test_a_summary_is_held_to_its_epochs_fees_steps_and_voices() -> None:
    """By the replay of one: what the summary of a run says of it."""
    [voter] = EVENTFUL.electorate.voiceless
    report = EVENTFUL.report(SigningDomain(0, bytes(20), bytes(20)), bytes(20))
    expected = _epoch(SettledEpoch(EVENTFUL, report, None, None))
    assert (expected["step"], expected["voiceless"]) == (3, [voter])
    rows = [(row["member"], row["charged_wei"], row["withheld_wei"]) for row in expected["fees"]]
    assert rows == list(EVENTFUL.fees.rows)
