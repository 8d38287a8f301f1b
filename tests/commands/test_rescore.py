"""`flock-ray verify --rescore` on whole contests: what is measured again, and what is named when it does not agree."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from flock_ray.cluster.run_directory import load_arena_config
from flock_ray.commands.main import main
from flock_ray.commands.rescore import Extent, Rescore
from flock_ray.errors import ConfigError, ModelError, RunDirectoryError, VerificationError
from flock_ray.telemetry.table import Console
from flock_ray.verify.folder import RunFolder
from flock_ray.verify.run import verify_run
from tests.contests import configure, overrides_of, play
from tests.runs import Head, Run

pytestmark = pytest.mark.ray

Told = tuple[int, list[str], list[str]]
Verify = Callable[..., Told]


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    """The command's exit code, and the lines of its output and of its errors."""

    def run(path: Path, *options: str) -> Told:
        code = main(["verify", str(path), *options])
        output, errors = capsys.readouterr()
        return code, output.splitlines(), errors.splitlines()

    return run


def cells_of(run: Run, *days: int) -> int:
    """Losses in the ballots of all rungs of these days."""
    rungs = [rung for day in run.summary["days"] if day["day"] in days for rung in day["rungs"]]
    return sum(rung["contenders"] * rung["rows"] for rung in rungs)


def test_every_loss_of_a_true_contest_is_measured_again(whole_contest: Run, verify: Verify) -> None:
    code, output, errors = verify(whole_contest.path, "--rescore")
    assert (code, errors) == (0, [])
    [line] = [line for line in output if line.startswith("rescored")]
    count = cells_of(whole_contest, 1, 2)
    told = re.fullmatch(
        rf"rescored   {count} of {count} cells in .* s: largest difference (0\.\d+) nats.*allowed", line
    )
    assert told and float(told[1]) <= 1e-5 and line.endswith("0.001000 allowed")
    assert any(line.startswith("score day 2 final again: ") for line in output)
    assert output[-1] == "Everything that can be checked holds."


def test_a_part_is_drawn_by_the_seed_and_what_is_left_out_is_told(whole_contest: Run, verify: Verify) -> None:
    asked = ("--rescore", "--days", "2", "--rows", "3", "--seed", "5", "--tolerance", "20")
    code, output, _ = verify(whole_contest.path, *asked)
    rungs = whole_contest.summary["days"][1]["rungs"]
    count, total = sum(rung["contenders"] * min(rung["rows"], 3) for rung in rungs), cells_of(whole_contest, 1, 2)
    at = next(place for place, line in enumerate(output) if line.startswith("rescored"))
    assert code == 0 and output[at].startswith(f"rescored   {count} of {total} cells in ")
    assert output[at].endswith("0.000020 allowed")
    first, other = cells_of(whole_contest, 1), cells_of(whole_contest, 2) - count
    assert output[at + 1 : -1] == [
        f"           not scored again: {first} cells of days that --days does not name",
        f"           not scored again: {other} cells of rows that --rows 3 left out; drawn with --seed 5",
    ]
    code, output, _ = verify(whole_contest.path, *asked[:5])
    assert code == 0 and any(re.search(r"drawn with --seed \d+$", line) for line in output)


@pytest.fixture(scope="module")
def collusion(head: Head, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A day on which all validators turn the order around: they agree, so no audit finds anything."""
    config = configure(
        *overrides_of(
            tiny_model_dir, tmp_path_factory.mktemp("rows"), "contest.days=1", "contest.nodes=3",
            "contest.rung_rows=[2,4]", "contest.final_rows=2", "cluster.nodes=1", "adversary.members=null",
        )
    )  # fmt: skip
    liars = dict.fromkeys(range(config.contest.validators), "lying_validator")
    config = replace(config, adversary=replace(config.adversary, members=liars))
    return play(head, tmp_path_factory.mktemp("collusion"), config)


def test_a_quorum_that_lies_in_concert_is_named(collusion: Run, verify: Verify) -> None:
    assert not any(one["failed"] for one in collusion.summary["days"][0]["validators"])
    assert verify(collusion.path)[0] == 0, "every signature is valid, and everything follows from the ballots"
    code, output, [line] = verify(collusion.path, "--rescore")
    assert code == VerificationError.exit_code and "Everything that can be checked holds." not in output
    assert re.fullmatch(
        r"does not hold: day 1 rung_1, node \d's payload 0x\w{6}\.\.\w{4}, row \d: the ballots' median is"
        r" \d+\.\d{6} nats, scored again it is \d+\.\d{6} nats; 0\.001000 a token are allowed, on \d+ of them",
        line,
    )
    code, output, _ = verify(collusion.path, "--rescore", "--tolerance", "10000000")
    [told] = [line for line in output if line.startswith("rescored")]
    largest = re.search(r"largest difference (\d\.\d{6}) nats a token \(day 1 ", told)
    assert code == 0 and largest and float(largest[1]) > 0.001


def test_a_payload_that_the_gate_refused_is_inspected_again(whole_contest: Run) -> None:
    """Had a quorum said of a valid payload that it is malformed, its node would be slashed."""
    folder = RunFolder(whole_contest.path)
    first = verify_run(folder, "", "", lambda line: None).days[0]
    terms = first.state.terms
    again = Rescore(folder, load_arena_config(whole_contest.path), terms, Extent(None, 1, 0, 1_000), 1)
    one = first.submissions[2]
    assert one.payload
    slandered = replace(one, steps=[*one.steps[:2], ("refused", "gate", "malformed")])
    with pytest.raises(VerificationError) as caught:
        again.day(replace(first, submissions=[slandered]), Console())
    payload = "0x" + one.payload.hex()
    told = f"day 1: the gate refused node {one.member}'s payload {payload} as malformed, and it is valid"
    assert str(caught.value) == told
    lost = replace(slandered, payload=bytes(32))
    again.day(replace(first, submissions=[lost], rungs=[]), Console())
    assert "1 payloads that the gate refused were inspected again; 1 are not in the store" in "".join(
        again.tally.lines(Extent(None, 1, 0, 1_000), 1.0)
    )


def test_a_payload_that_is_not_there_is_named(whole_contest: Run, verify: Verify, tmp_path: Path) -> None:
    copy = shutil.copytree(whole_contest.path, tmp_path / "run", symlinks=True)
    one = next(one for one in whole_contest.summary["days"][0]["submissions"] if one["rank"] == 5)
    digest = one["payload"].removeprefix("0x")
    (copy / "store" / digest[:2] / digest).unlink()
    assert verify(copy)[0] == 0
    code, _, [line] = verify(copy, "--rescore")
    assert code == VerificationError.exit_code
    assert f"day 1 rung_1: node {one['member']}'s payload {one['payload']}, which is to be scored again, is not" in line
    assert verify(copy, "--rescore", "--days", "2")[0] == 0


def test_a_base_model_that_is_not_there_or_is_another(
    whole_contest: Run, verify: Verify, tiny_model_dir: Path, tmp_path: Path
) -> None:
    code, _, [line] = verify(whole_contest.path, "--rescore", "--model", str(tmp_path / "nowhere"))
    assert code == ModelError.exit_code and "is no model folder: config.json is missing" in line
    other = shutil.copytree(tiny_model_dir, tmp_path / "other")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        AutoModelForCausalLM.from_config(AutoModelForCausalLM.from_pretrained(other).config).save_pretrained(other)
    code, _, [line] = verify(whole_contest.path, "--rescore", "--model", str(other))
    assert code == ModelError.exit_code
    assert line.endswith(f"is another base model than that of the run in {whole_contest.path}: its weights differ")
    copy = shutil.copytree(whole_contest.path, tmp_path / "run", symlinks=True)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace(str(tiny_model_dir), "/nowhere"))
    code, _, [line] = verify(copy, "--rescore", "--rows", "1")
    assert code == ModelError.exit_code and "model.path='/nowhere' is no model folder" in line
    assert verify(copy, "--rescore", "--rows", "1", "--model", str(tiny_model_dir))[0] == 0


def test_what_cannot_be_asked_is_refused(whole_contest: Run, verify: Verify, tmp_path: Path) -> None:
    code, _, [line] = verify(whole_contest.path, "--rescore", "--days", "1,3")
    assert code == ConfigError.exit_code and line == "error: --days names day 3; the contest has days 1 to 2"
    code, _, [line] = verify(whole_contest.path, "--rows", "2")
    assert code == ConfigError.exit_code and "--rows says how a contest is scored again; it goes with --rescore" in line
    code, _, [line] = verify(whole_contest.path, "--rescore", "--seed", "2")
    assert code == ConfigError.exit_code and "--seed draws the rows of --rows N, which is not given" in line
    (tmp_path / "store").mkdir()
    (tmp_path / "task.json").write_text(json.dumps({"terms": {"schema": "flock_ray/terms/3"}}))
    code, _, [line] = verify(tmp_path, "--rescore")
    assert (
        code == RunDirectoryError.exit_code and "holds the run of an alliance: only the owners of its private" in line
    )
    for wrong in (("--rows", "0"), ("--days", "1,x"), ("--tolerance", "-1")):
        with pytest.raises(SystemExit):
            verify(whole_contest.path, "--rescore", *wrong)
