"""Contests on a real Ray cluster: who wins, who is paid, that strangers derive the same, and nothing else counts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import ray

from flock_ray.arena import Arena
from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.errors import RunDirectoryError, VerificationError
from flock_ray.protocol.contest_message import ContestKind
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.run import verify_run
from tests.contests import configure, overrides_of, play, resume, timeless
from tests.runs import Head, Run, tiny
from tests.verify.test_forgeries import HOSTILE, leaves, other

pytestmark = pytest.mark.ray

LIAR, LAZY, COPYCAT = 3, 4, 10


@pytest.fixture(scope="module")
def contest(whole_contest: Run) -> Run:
    return whole_contest


def verified(path: Path, anchor: str = "") -> list[str]:
    lines: list[str] = []
    verify_run(RunFolder(path, ""), anchor, "", lines.append)
    return lines


def test_the_whole_contest_can_be_derived_again(contest: Run) -> None:
    lines = verified(contest.path)
    assert any(line.startswith("day 2") and "7 submissions, 4 rungs" in line for line in lines)
    anchor = contest.events("task_created")[0]["anchor"]
    assert verified(contest.path, anchor)
    with pytest.raises(VerificationError, match="anchor of the run"):
        verified(contest.path, "00" * 32)


def test_the_leaderboard_shows_the_last_day(contest: Run) -> None:
    board = json.loads((contest.path / "leaderboard.json").read_text())
    last = contest.summary["days"][-1]
    assert len(board["days"]) == len(contest.summary["days"]) and board["task"] == contest.summary["task_id"]
    ranked = {one["payload"]: one["rank"] for one in last["submissions"] if one["rank"]}
    assert {one["payload"]: one["rank"] for one in board["days"][-1]["standings"] if one["rank"]} == ranked
    page = (contest.path / "leaderboard.html").read_text()
    assert all(payload[:10] in page for payload in ranked) and f"flock-ray verify {contest.path}" in page


def test_who_is_ranked_is_paid_and_who_cheats_is_not(contest: Run) -> None:
    first, second = contest.summary["days"]
    assert first["leader"] == next(one["payload"] for one in first["submissions"] if one["rank"] == 1)
    assert [one["reward"] > 0 for one in sorted(first["submissions"], key=lambda one: one["rank"])[:3]] == [True] * 3
    copy = next(one for one in second["submissions"] if one["member"] == COPYCAT)
    assert (copy["copy_of"], copy["reason"], copy["rank"]) == (first["leader"], "copy", None)
    for day in (first, second):
        judged = {one["member"]: one for one in day["validators"]}
        assert [judged[one]["failed"] for one in (0, 1, 2, LIAR, LAZY)] == [False, False, False, True, True]
        assert all(judged[one]["reward"] == 0 and judged[one]["slashed"] > 0 for one in (LIAR, LAZY))
    assert contest.hash == second["leader"]
    assert (contest.path / "adapter" / "adapter_config.json").is_file()


def test_neither_the_number_of_nodes_nor_the_order_of_arrival_changes_a_byte(
    contest: Run, head: Head, tiny_model_dir: Path, tmp_path: Path
) -> None:
    config = configure(*overrides_of(tiny_model_dir, tmp_path, "cluster.nodes=1"))

    def reversed_arrivals(results: Any) -> Any:
        return reversed(list(results))

    other = play(head, tmp_path / "outputs", config, arrivals=reversed_arrivals)
    assert other.records() == contest.records()
    assert timeless(other.summary) == timeless(contest.summary)


def test_a_contest_that_is_interrupted_goes_on_to_the_same_bytes(
    contest: Run, head: Head, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = Arena.exchange

    def interrupt(self: Arena, phase: str, kind: Any, results: Any) -> Any:
        second = (self.journal.path / "records" / "1.json").exists()  # type: ignore[attr-defined]
        known = exchange(self, phase, kind, results)
        if second and kind is ContestKind.RUNG_2_COMMITMENT:
            raise KeyboardInterrupt
        return known

    with monkeypatch.context() as patched:
        patched.setattr(Arena, "exchange", interrupt)
        with pytest.raises(KeyboardInterrupt):
            play(head, tmp_path / "outputs", configure(*overrides_of(tiny_model_dir, tmp_path)))
    path = (tmp_path / "outputs" / "latest").resolve()
    with pytest.raises(RunDirectoryError, match="unfinished run"):
        verified(path)
    resumed = resume(head, path)
    assert [event["epoch"] for event in resumed.events("resumed")] == [2]
    assert resumed.records() == contest.records()
    assert timeless(resumed.summary) == timeless(contest.summary)
    assert verified(path)


def test_a_worker_and_the_coordinator_that_die_in_a_day_change_nothing(
    contest: Run, head: Head, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker after its validators have committed to ballots, the coordinator when they are open."""
    exchange, killed = Arena.exchange, list[str]()

    def kill(self: Arena, phase: str, kind: Any, results: Any) -> Any:
        known = exchange(self, phase, kind, results)
        dies = {ContestKind.RUNG_2_COMMITMENT: "node-1-0", ContestKind.RUNG_3_BALLOT: "coordinator"}.get(kind)
        if dies and dies not in killed:
            killed.append(dies)
            ray.kill(ray.get_actor(dies))
        return known

    with monkeypatch.context() as patched:
        patched.setattr(Arena, "exchange", kill)
        other = play(head, tmp_path / "outputs", configure(*overrides_of(tiny_model_dir, tmp_path)))
    assert killed == ["node-1-0", "coordinator"]
    assert [event["cause"] for event in other.events("node_group_failed")] == ["worker_died"]
    assert [event["epoch"] for event in other.events("coordinator_lost")] == [1]
    assert other.records() == contest.records()


def _changed(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, sort_keys=True, separators=(",", ":")))


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("summary.json", lambda v: v["days"][0]["submissions"][0].update(reward=1), r"submissions\[0\].reward"),
        ("summary.json", lambda v: v["members"][0].update(earned=1), r"summary.json.members\[0\].earned"),
        ("records/1.json", lambda v: v["ranking"].reverse(), r"day 1: record.ranking\[0\]"),
        ("records/2.json", lambda v: v.update(extra=1), "day 2: the record has fields that no rule gives it"),
        ("receipts/1.json", lambda v: v["signatures"].clear(), "0 seats signed"),
        ("receipts/1.json", lambda v: v["messages"].popitem(), "day 1: record.messages"),
        ("receipts/2.json", lambda v: v["report"].update(model_hash="0x" + "00" * 32), "report.model_hash"),
        ("rows/1.json", lambda v: v["tokens"][0][0].reverse(), "rows/1.json: digest of the tokens of row 1"),
        ("rows/final.json", lambda v: (v["rows"].pop(), v["tokens"].pop()), "the rows of set B are not those"),
        ("task.json", lambda v: v["terms"].update(rung_rows=[2, 8]), "task id of this creator"),
        ("adapter/adapter_config.json", lambda v: v.update(lora_alpha=8), "adapter_config.json.lora_alpha"),
        ("task.json", lambda v: v["members"][11].__setitem__(3, 1), "member 11 staked less than it had to"),
    ],
)  # fmt: skip
def test_the_verifier_names_what_was_forged(
    contest: Run, tmp_path: Path, name: str, change: Callable[[Any], None], told: str
) -> None:
    forged = shutil.copytree(contest.path, tmp_path / "forged", symlinks=True)
    _changed(forged / name, change)
    with pytest.raises(VerificationError, match=told):
        verified(forged)


FREE = re.compile(
    r"(receipts/1\.json\.wall_seconds|summary\.json\.(run_id|model|days\.\d+\.wall_seconds|chain\.(backend|creator)"
    r"|((days\.\d+\.(submissions|validators)|members)\.\d+)\.adversary"
    r"|run\.(metric|scorer|model_dtype|num_parameters|placement|load_seconds|abandoned_epochs|versions)))(\..*)?"
)
"""What `verify` says that nobody outside can check, and what `config.yaml` says already."""


@pytest.mark.parametrize("name", ["task.json", "records/1.json", "receipts/1.json", "summary.json", "rows/2.json"])
def test_every_value_is_checked_or_known_to_be_free(contest: Run, tmp_path: Path, name: str) -> None:
    forged = shutil.copytree(contest.path, tmp_path / "forged", symlinks=True)
    whole = json.loads((forged / name).read_text())
    random = Random(5)
    for path in random.sample(list(leaves(whole)), 12):
        value = json.loads(json.dumps(whole))
        owner = value
        for key in path[:-1]:
            owner = owner[key]
        claimed = owner[path[-1]]
        for wrong in (other(claimed), random.choice([None, [], {}, -1, "", 10**90, "0x", [[]], True])):
            if wrong == claimed:
                continue
            owner[path[-1]] = wrong
            (forged / name).write_text(json.dumps(value, sort_keys=True, separators=(",", ":")))
            where = ".".join(map(str, (name, *path)))
            if FREE.fullmatch(where):
                verified(forged)
            else:
                with pytest.raises((VerificationError, RunDirectoryError)):
                    verified(forged)
                    pytest.fail(f"{where} = {wrong!r} passes")


@pytest.mark.parametrize(
    "name", ["task.json", "config.yaml", "records/1.json", "receipts/2.json", "summary.json", "rows/1.json",
             "adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
)  # fmt: skip
def test_a_hostile_folder_ends_with_one_of_our_errors(contest: Run, tmp_path: Path, name: str) -> None:
    for number, spoil in enumerate(HOSTILE.values()):
        forged = shutil.copytree(contest.path, tmp_path / str(number), symlinks=True)
        with suppress(ValueError, AttributeError):  # what can be done to a JSON text only
            spoil(forged / name)
        with pytest.raises((VerificationError, RunDirectoryError)):
            verified(forged)
            (forged / name).unlink()  # not spoilt: missing at least
            verified(forged)
        shutil.rmtree(forged)


def test_an_alliance_starts_from_the_leader(contest: Run, head: Head, tiny_model_dir: Path, tmp_path: Path) -> None:
    """With alpha equal to the rank, as in a contest, the alliance's terms name the very bytes of the leader."""
    started = head.run(
        tmp_path,
        *tiny(tiny_model_dir, f"start_from={contest.path}", "lora.rank=4", "lora.alpha=4", "alliance.num_epochs=1",
              "chain=none"),
    )  # fmt: skip
    assert RunDirectory(started.path).read_task()[0]["terms"]["start_adapter"] == contest.hash
    assert any(line.startswith("start      adapter") and contest.hash in line for line in verified(started.path))


def test_a_contest_is_no_alliance(contest: Run, head: Head) -> None:
    with pytest.raises(
        RunDirectoryError, match=r"holds the run of a contest, not of an alliance: flock-ray arena resume="
    ):
        head.resume(contest.path)


def test_adapters_on_disk_enter_without_training(
    contest: Run, head: Head, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The leader of one contest, under another rank's name, and an adapter that does nothing, in another one."""
    store, submitted = contest.path / "store", contest.summary["days"][0]["submissions"]
    for place, one in enumerate(submitted[:3]):
        folder = shutil.copytree(contest.path / "adapter", tmp_path / "submissions" / f"node-{place}")
        digest = one["payload"].removeprefix("0x")
        shutil.copyfile(store / digest[:2] / digest, folder / "adapter_model.safetensors")
    config = configure(
        *overrides_of(
            tiny_model_dir, tmp_path, f"contest.submissions={tmp_path / 'submissions'}", "contest.train=[]",
            "contest.nodes=3", "adversary.members=null",
        )
    )  # fmt: skip
    other = play(head, tmp_path / "outputs", config)
    for day in other.summary["days"]:
        assert [one["payload"] for one in day["submissions"]] == [one["payload"] for one in submitted[:3]]
        assert not any(one["copy_of"] for one in day["submissions"])  # who submits its own again copies nobody
    assert verified(other.path)


@pytest.mark.chain
def test_every_day_is_settled_on_a_chain(contest: Run, head: Head, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Slashes, too: of a validator that lied, and of a training node that submitted what is not finite."""
    first = contest.summary["days"][0]["submissions"]
    spoiler = max(first, key=lambda one: one["rank"] or len(first) + 1)["member"]  # not the leader
    cheats = f"++adversary.members={{{spoiler}:not_finite}}"
    config = configure(*overrides_of(tiny_model_dir, tmp_path, "chain=eth_tester", cheats))
    settled = play(head, tmp_path / "outputs", config)
    assert [bool(day["settlement_tx"] and day["gas_used"]) for day in settled.summary["days"]] == [True, True]
    assert settled.hash == contest.hash  # the leader depends on no chain
    members = settled.summary["members"]
    for one in members:
        assert one["balance_end"] == one["balance_start"] + one["earned"] - one["slashed"]
    assert members[LIAR]["slashed"] > 0 and members[spoiler]["slashed"] > members[spoiler]["earned"] == 0
    submitted = [one for day in settled.summary["days"] for one in day["submissions"]]
    assert [one["reason"] for one in submitted if one["member"] == spoiler] == ["not_finite"] * 2
    assert any("settled" in line for line in verified(settled.path))
