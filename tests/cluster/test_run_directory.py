from __future__ import annotations

import json
from pathlib import Path

import pytest

from flock_ray.chain.eip712 import report_hash
from flock_ray.cluster.attestation import Settlement
from flock_ray.cluster.run_directory import RunDirectory, load_config
from flock_ray.config import Config
from flock_ray.errors import RunDirectoryError
from flock_ray.protocol.epoch import advance, skip
from flock_ray.store.blob_store import BlobStore
from tests.cluster.plain_alliance import PlainAlliance, Play

pytestmark = pytest.mark.model


def test_a_new_run_is_no_latest_one_until_its_task_is_founded(alliance: PlainAlliance, tmp_path: Path) -> None:
    first = RunDirectory.create(tmp_path, Config(seed=5))
    assert not first.started and not (tmp_path / "latest").exists()
    assert load_config(first.path) == Config(seed=5)
    play = alliance.found()
    first.write_task(play.state, play.relayer, play.ledger.facts(), play.ledger.balances(None), {"schema": "test"})
    assert first.started and (tmp_path / "latest").resolve() == first.path

    second = RunDirectory.create(tmp_path, Config())  # in the same second: a name of its own
    assert second.path != first.path and (tmp_path / "latest").resolve() == first.path
    second.discard()
    assert not second.path.exists() and first.path.exists()


def test_the_only_run_of_a_day_takes_the_day_with_it(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, Config()).discard()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_run_or_with_another_version_s_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"holds no run \(config\.yaml is missing\)"):
        RunDirectory.open(tmp_path)
    for text in ("alliance: {num_voterz: 4}", "seed: many", "{", "- 1"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(RunDirectoryError, match="no configuration of this version"):
            load_config(RunDirectory.open(tmp_path).path)


@pytest.fixture
def written(alliance: PlainAlliance, tmp_path: Path) -> tuple[Play, RunDirectory]:
    """Two epochs, the first of them settled."""
    play = alliance.found()
    run = RunDirectory.create(tmp_path, play.alliance.config)
    run.write_task(play.state, play.relayer, play.ledger.facts(), play.ledger.balances(None), {"schema": "test"})
    for _ in range(2):
        record, bulletin = play.until_signing()
        run.write_epoch(record, play.attest(record, bulletin), bulletin, {"train": 1.5})
    run.write_settlement(Settlement(1, "0xabc", 21_000))
    return play, run


def replayed(play: Play, run: RunDirectory) -> list[int]:
    store = BlobStore(play.alliance.specs[0].store_url)
    state = run.first_state(play.state.terms)
    return [one.record.epoch for one in run.signed_epochs(state, play.domain, play.relayer, store)[0]]


def test_signed_epochs_are_read_back_from_their_messages(written: tuple[Play, RunDirectory]) -> None:
    play, run = written
    store = BlobStore(play.alliance.specs[0].store_url)
    first_state = run.first_state(play.state.terms)
    (first, second), state = run.signed_epochs(first_state, play.domain, play.relayer, store)
    assert state == play.state
    assert first.settlement == Settlement(1, "0xabc", 21_000) and second.settlement is None
    assert first.wall_seconds == {"train": 1.5}
    assert second.record.adapter == play.state.adapter and second.record.members == play.state.members
    assert set(second.attestation.signatures) == set(second.record.roles.voters)


def test_without_its_receipt_an_epoch_was_not_signed(written: tuple[Play, RunDirectory]) -> None:
    play, run = written
    (run.path / "receipts" / "2.json").unlink()
    assert replayed(play, run) == [1]


def test_what_an_abandoned_epoch_voids_is_put_aside(written: tuple[Play, RunDirectory]) -> None:
    play, run = written
    run.write_abandoned(2, 3)
    store = BlobStore(play.alliance.specs[0].store_url)
    (first,), state = run.signed_epochs(run.first_state(play.state.terms), play.domain, play.relayer, store)
    after_first = advance(first.state, first.record, report_hash(first.attestation.report))
    assert state == skip(after_first) and run.abandoned_epochs == [2]
    assert sorted(path.name for path in (run.path / "records").iterdir()) == ["1.json"]
    assert (run.path / "void/2/records/2.json").is_file() and (run.path / "void/2/receipts/2.json").is_file()


@pytest.mark.parametrize("part", ["record", "message", "signatures"])
def test_a_record_that_its_messages_do_not_give_is_refused(written: tuple[Play, RunDirectory], part: str) -> None:
    play, run = written
    record, receipt = run.path / "records" / "2.json", run.path / "receipts" / "2.json"
    if part == "record":
        record.write_text(record.read_text().replace('"pool_left":', '"pool_left":1', 1))
    else:
        value = json.loads(receipt.read_text())
        value["signatures" if part == "signatures" else "messages"].popitem()
        if part == "signatures":  # three of four are a quorum still, two are not
            value["signatures"].popitem()
        receipt.write_text(json.dumps(value))
    with pytest.raises(RunDirectoryError, match=r"2\.json is not what its signed messages give"):
        replayed(play, run)


@pytest.mark.parametrize(
    "text",
    ["", '{"epoch": 2,', "[]", "{}", '{"messages": 5}', '{"messages": {"0x12": "0x"}}', "\0"],
)
def test_a_damaged_receipt_is_refused_in_one_line(written: tuple[Play, RunDirectory], text: str) -> None:
    play, run = written
    (run.path / "receipts" / "2.json").write_text(text)
    with pytest.raises(RunDirectoryError, match=r"2\.json (is no JSON file|does not read as|holds no)") as refused:
        replayed(play, run)
    assert "\n" not in str(refused.value)


def test_a_torn_last_event_is_left_out(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.logged("epoch") == []
    run.events.write_text('{"kind":"epoch","n":1}\n{"kind":"other"}\n{"kind":"epoch","n":2}\n{"kind":"epo')
    assert [event["n"] for event in run.logged("epoch")] == [1, 2]
