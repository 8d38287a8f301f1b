from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flock_ray.cluster.launch import configuration_hash
from flock_ray.cluster.pruning import prune, superfluous
from flock_ray.cluster.run_directory import RunDirectory
from flock_ray.cluster.signing_log import entries_of
from flock_ray.config import Config, Keep, StoreConfig
from flock_ray.errors import StoreError
from flock_ray.store.blob_store import BlobStore
from flock_ray.store.files import write_json
from tests.cluster.plain_alliance import PlainAlliance, Play

pytestmark = pytest.mark.chain


@pytest.fixture
def whole(alliance: PlainAlliance, tmp_path: Path) -> tuple[Play, RunDirectory]:
    """Two epochs in a run folder with a store of its own, in which another run has put blobs as well."""
    play = alliance.found()
    run = RunDirectory.create(tmp_path, alliance.config)
    run.write_task(play.state, play.relayer, play.ledger.facts(), play.ledger.balances(None), {"schema": "test"})
    for _ in range(2):
        record, bulletin = play.until_signing()
        run.write_epoch(record, play.attest(record, bulletin), bulletin, {})
    shutil.copytree(alliance.specs[0].store_url, run.store)
    write_json(run.summary, {"final_adapter_hash": play.state.adapter, "chain": {}})
    return play, run


def blobs(run: RunDirectory) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in run.store.glob("??/*")}


def records(run: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads((run.path / f"records/{epoch}.json").read_text()) for epoch in (1, 2)]


def messages(run: RunDirectory) -> set[str]:
    receipts = [json.loads(path.read_text()) for path in (run.path / "receipts").iterdir()]
    return {name[2:] for receipt in receipts for name in receipt["messages"]}


def named(run: RunDirectory) -> set[str]:
    """What the run names, read from it in another way than the module does."""
    texts = [path.read_text() for folder in ("records", "receipts") for path in (run.path / folder).iterdir()]
    return {name for name in blobs(run) for text in [*texts, (run.path / "task.json").read_text()] if name in text}


def test_a_replay_keeps_messages_payloads_and_the_first_and_final_adapters(whole: tuple[Play, RunDirectory]) -> None:
    play, run = whole
    before, told = blobs(run), list[str]()
    between = records(run)[0]["adapter"][2:]
    assert between not in (play.first_adapter.hex(), play.state.adapter.hex())
    prune(run, StoreConfig(keep=Keep.replay), told.append)
    gone = before.keys() - blobs(run).keys()
    assert gone == {between}
    assert not (run.store / entries_of(play.state.scope.task)).exists() and (run.store / "signed").exists()
    (event,) = run.logged("store_pruned")
    assert (event["keep"], event["removed"]) == ("replay", 2) and event["bytes"] > before[between]
    (line,) = told
    assert line == f"Store pruned (store.keep=replay): 2 removed, {event['bytes'] / 1e6:.1f} MB"
    earlier, state = run.signed_epochs(
        run.first_state(play.state.terms), play.domain, play.relayer, BlobStore(str(run.store))
    )
    assert len(earlier) == 2 and state == play.state


def test_an_adapter_keeps_the_final_one_and_what_others_put_there(whole: tuple[Play, RunDirectory]) -> None:
    play, run = whole
    before, own = blobs(run), named(run)
    assert messages(run) < own < before.keys()
    prune(run, StoreConfig(keep=Keep.adapter), lambda line: None)
    assert before.keys() - blobs(run).keys() == own - {play.state.adapter.hex()}


def test_a_rejected_candidate_and_a_payload_that_nobody_decodes_go(whole: tuple[Play, RunDirectory]) -> None:
    _, run = whole
    first, second = records(run)
    candidate, adapter, payload = ("0x" + mark * 32 for mark in ("c1", "ad", "9a"))
    second["candidate"]["adapter"] = candidate
    second["proposals"] = [
        {**one, "status": status, "payload": one["payload"] if status == "rejected" else payload}
        for one, status in zip(second["proposals"], ("rejected", "unseen", "copied"), strict=True)
    ]
    second["proposals"].append({"member": 6, "status": "missing", "payload": None})
    write_json(run.path / "records/2.json", second)
    write_json(run.summary, {"final_adapter_hash": adapter, "chain": {}})
    gone = {digest.hex() for digest in superfluous(run, Keep.replay)}
    kept = {second["proposals"][0]["payload"][2:], *(one["payload"][2:] for one in first["proposals"])}
    assert {candidate[2:], payload[2:], first["adapter"][2:]} <= gone
    assert not gone & (kept | messages(run) | {adapter[2:]})


def test_what_an_abandoned_epoch_voided_keeps_its_messages_only(whole: tuple[Play, RunDirectory]) -> None:
    play, run = whole
    said, (first, second) = messages(run), records(run)
    run.write_abandoned(2, 3)
    write_json(run.summary, {"final_adapter_hash": first["adapter"], "chain": {}})
    gone = {digest.hex() for digest in superfluous(run, Keep.replay)}
    assert gone == {play.state.adapter.hex(), *(one["payload"][2:] for one in second["proposals"])}
    assert said <= {digest.hex() for digest in superfluous(run, Keep.adapter)}


@pytest.mark.parametrize("why", ["all", "pending", "unfinished", "shared"])
def test_nothing_goes_that_somebody_may_need(whole: tuple[Play, RunDirectory], why: str) -> None:
    _, run = whole
    config = StoreConfig(keep=Keep.all if why == "all" else Keep.adapter)
    if why == "pending":
        summary = json.loads(run.summary.read_text())
        write_json(run.summary, {**summary, "chain": {"rewards_pending": True}})
    elif why == "unfinished":
        run.summary.unlink()
    elif why == "shared":
        config = replace(config, url=str(run.store))
    before, told = blobs(run), list[str]()
    prune(run, config, told.append)
    assert blobs(run) == before and told == [] and not run.events.exists()


def test_a_store_of_its_own_elsewhere_is_pruned_too(whole: tuple[Play, RunDirectory], tmp_path: Path) -> None:
    play, run = whole
    elsewhere = tmp_path / "elsewhere"
    run.store.rename(elsewhere)
    prune(run, StoreConfig(str(elsewhere), Keep.adapter, shared=False), lambda line: None)
    store = BlobStore(str(elsewhere))
    assert store.has(play.state.adapter) and not store.has(play.first_adapter)


def test_private_copies_of_payloads_go_and_count_where_they_take_room(whole: tuple[Play, RunDirectory]) -> None:
    _, run = whole
    vault = run.path / "members/member-0/vault/ab"
    vault.mkdir(parents=True)
    journal = vault.parents[1] / "slashing_protection.jsonl"
    journal.write_text("line\n")
    payload = records(run)[0]["proposals"][0]["payload"][2:]
    (vault / "linked").hardlink_to(run.store / payload[:2] / payload)
    (vault / "copied").write_bytes(b"x" * 1000)
    told = list[str]()
    prune(run, StoreConfig(f"{run.store}", Keep.replay), told.append)
    assert told == ["Store pruned (store.keep=replay): 1 removed, 0.0 MB"]
    assert list(vault.iterdir()) == [] and journal.exists() and payload in blobs(run)


def test_a_prune_that_fails_is_one_line_and_another_finishes_it(
    whole: tuple[Play, RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    play, run = whole
    own, told, calls = named(run), list[str](), 0
    remove: Callable[[BlobStore, bytes], int | None] = BlobStore.remove

    def failing(store: BlobStore, digest: bytes) -> int | None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise StoreError("the store is\nread-only")
        return remove(store, digest)

    with monkeypatch.context() as patch:
        patch.setattr(BlobStore, "remove", failing)
        prune(run, StoreConfig(keep=Keep.adapter), told.append)
    assert told == [f"Store not pruned to the end, resume={run.path} goes on with it: the store is read-only"]
    assert len(named(run)) == len(own) - 3
    prune(run, StoreConfig(keep=Keep.adapter), told.append)
    assert (
        named(run) == {play.state.adapter.hex()} and f": {len(own) - 4} removed" in told[-1]
    )  # the signing entries went before
    prune(run, StoreConfig(keep=Keep.adapter), told.append)
    assert len(told) == 2, "nothing is left to do and nothing is told"


def test_what_is_kept_shapes_no_bytes() -> None:
    kept = {configuration_hash(Config(store=StoreConfig(keep=keep))) for keep in Keep}
    assert kept == {configuration_hash(Config())}
