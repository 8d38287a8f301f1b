"""The whole run is killed at the worst moments; `resume` goes on to the same bytes, and nobody equivocates."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from flock_ray.chain.anvil import find_anvil
from tests.runs import ALLIANCE, Head, Run, command_running, processes, read_summary, timeless, tiny
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.ray


RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own helpers, which sometimes outlive a raylet that dies with its driver."""


def only_run(output: Path) -> Path:
    return (output / "latest").resolve()


def play_until(reached: Callable[[], bool], log: Path, *overrides: str, command: Sequence[str] = ALLIANCE) -> None:
    """Start a run as a command, kill it with SIGKILL once `reached`, and see that nothing of ours stays alive."""
    with command_running([*command, *overrides], log) as process:
        wait_until(reached, process=process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        mark = process.mark  # type: ignore[attr-defined]
        wait_until(lambda: not [name for name in processes(mark).values() if not name.startswith(RAY_AGENTS)])


def play_to_the_end(log: Path, *overrides: str, command: Sequence[str] = ALLIANCE) -> None:
    with command_running([*command, *overrides], log) as process:
        assert process.wait(PATIENCE) == 0, (log / "output").read_text()[-3000:]


def signed_places(run: Path) -> list[tuple[str, int, str]]:
    """(member, epoch, kind) of everything that the members' journals say was signed."""
    places = []
    for journal in sorted(run.glob("members/*/slashing_protection.jsonl")):
        for line in journal.read_text().splitlines():
            _, epoch, _, kind, _ = json.loads(line)
            places.append((journal.parent.name, epoch, kind))
    return places


def test_killed_in_an_epoch_and_again_after_a_receipt(whole_run: Run, tiny_model_dir: Path, tmp_path: Path) -> None:
    play_until(
        lambda: any(kind == "ballot_a_commitment" for _, _, kind in signed_places(only_run(tmp_path))),
        tmp_path,
        *tiny(tiny_model_dir, f"output_dir={tmp_path}"),
    )
    run = only_run(tmp_path)
    assert not (run / "receipts" / "1.json").exists()
    play_until((run / "receipts" / "1.json").exists, tmp_path, f"resume={run}")
    assert not (run / "summary.json").exists()
    play_to_the_end(tmp_path, f"resume={run}")

    resumed = read_summary(run)
    assert resumed.records() == whole_run.records()
    assert timeless(resumed.summary) == timeless(whole_run.summary)
    assert chain_of(run) == chain_of(whole_run.path)
    places = signed_places(run)
    assert sorted(places) == sorted(set(places)) == sorted(signed_places(whole_run.path))
    assert [event["epoch"] for event in resumed.events("resumed")][-1] == 2
    assert f"Run folder: {run}" in (tmp_path / "output").read_text()


@pytest.mark.deep
def test_killed_on_anvil_and_a_cluster_that_lives_on(
    head: Head, whole_run: Run, tiny_model_dir: Path, tmp_path: Path
) -> None:
    if find_anvil() is None:
        pytest.skip("anvil is not found")
    play_until(
        lambda: (only_run(tmp_path) / "receipts" / "1.json").exists(),
        tmp_path,
        *tiny(tiny_model_dir, f"output_dir={tmp_path}", "chain=anvil"),
        *("cluster=existing", f"cluster.address={head.address}"),
    )
    run = only_run(tmp_path)
    play_to_the_end(tmp_path, f"resume={run}")
    resumed = read_summary(run).summary
    assert resumed["chain"]["backend"] == "anvil"
    assert resumed["final_adapter_hash"] == whole_run.hash
    assert [member["balance_end_wei"] for member in resumed["members"]] == [
        member["balance_end_wei"] for member in whole_run.summary["members"]
    ]
    assert all(epoch["gas_used"] for epoch in resumed["epochs"])


def chain_of(run: Path) -> list[str]:
    return (run / "chain" / "blocks.jsonl").read_text().splitlines()


def test_signed_but_unsettled_epochs_are_sent_first(head: Head, whole_run: Run, tmp_path: Path) -> None:
    run = tmp_path / "day" / "time"
    shutil.copytree(whole_run.path, run)
    shutil.rmtree(run / "adapter")
    for name in ("summary.json", "report.html", "chain/outbox.sqlite"):
        (run / name).unlink()
    for receipt in (run / "receipts").iterdir():
        receipt.write_text(json.dumps({**json.loads(receipt.read_text()), "settlement": None}))
    blocks = chain_of(run)
    seed = whole_run.receipt(1)["report"]["seed"][2:]
    first = max(number for number, block in enumerate(blocks) if seed in block)  # genesis names it before
    (run / "chain" / "blocks.jsonl").write_text("".join(f"{block}\n" for block in blocks[:first]))

    resumed = head.resume(run)
    assert timeless(resumed.summary) == timeless(whole_run.summary)
    assert chain_of(run) == blocks
    assert [resumed.receipt(epoch)["settlement"] for epoch in (1, 2)] == [
        whole_run.receipt(epoch)["settlement"] for epoch in (1, 2)
    ]
    assert resumed.events("trained") == whole_run.events("trained")
