"""A contest of the metric `sql` on a real Ray cluster: nodes write queries, and who answers right leads."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flock_ray.commands.main import main
from flock_ray.errors import VerificationError
from flock_ray.protocol.contest_scores import MICRO
from tests.contests import configure, play
from tests.runs import Head, Run
from tests.waiting import PATIENCE

pytestmark = pytest.mark.ray

SCHEMA = "SQL:\npet(id number primary key, age number)\nman(id number primary key, city text)"
COUNT, MEAN = "SELECT count(*) FROM pet", "SELECT avg(age) FROM pet"
LIAR = 3


def write_questions(folder: Path) -> tuple[Path, Path]:
    """Questions of few tokens: most ask for a count, so that a small model can learn what to answer."""
    stream = random.Random(4)

    def row(number: int) -> str:
        asked, gold = ("How many", COUNT) if stream.random() < 0.8 else ("How old", MEAN)
        said = [("user", f"{asked} are pets {number}?"), ("assistant", gold)]
        turns = [{"role": role, "content": content} for role, content in said]
        return json.dumps({"system": SCHEMA, "conversations": turns}) + "\n"

    scored, learned = folder / "rows.jsonl", folder / "train.jsonl"
    scored.write_text("".join(row(number) for number in range(40)))
    learned.write_text("".join(row(number) for number in range(100, 140)))
    return scored, learned


@pytest.fixture(scope="module")
def sql_contest(head: Head, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four nodes and five validators over two days. Its folder is shared: tests only read it."""
    scored, learned = write_questions(tmp_path_factory.mktemp("questions"))
    config = configure(
        "experiment=arena_tiny", "contest=sql", "model=folder", f"model.path={tiny_model_dir}",
        f"contest.data=[{scored}]", f"contest.train=[{learned}]", "contest.nodes=4", "contest.answer_tokens=24",
        "contest.max_row_tokens=200", "training.steps=360", "training.learning_rate=0.02", "adversary.members=null",
        f"cluster.placement_timeout={PATIENCE:g}",
    )  # fmt: skip
    config = replace(config, adversary=replace(config.adversary, members={LIAR: "lying_validator"}))
    return play(head, tmp_path_factory.mktemp("contest"), config)


def test_who_writes_the_right_queries_leads_and_is_paid(sql_contest: Run) -> None:
    days = sql_contest.summary["days"]
    assert sql_contest.summary["run"]["metric"] == "sql"
    told_apart = 0
    for day in days:
        ranked = sorted((one for one in day["submissions"] if one["rank"]), key=lambda one: one["rank"])
        scores = [one["score"] for one in ranked]
        assert scores == sorted(scores) and scores[-1] <= MICRO
        assert ranked[0]["payload"] == day["leader"] and ranked[0]["reward"] > 0
        judged = {one["member"]: one["failed"] for one in day["validators"]}
        assert not any(failed for member, failed in judged.items() if member != LIAR)
        if len(set(scores)) > 1:  # else there is no order that a liar could turn around
            told_apart += 1
            assert judged[LIAR]
    assert told_apart and min(one["score"] for day in days for one in day["submissions"]) < 0.7 * MICRO


def test_it_verifies_and_its_answers_are_judged_again(sql_contest: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(sql_contest.path), "--rescore"]) == 0
    output = capsys.readouterr().out.splitlines()
    count = sum(
        rung["contenders"] * rung["rows"] for day in sql_contest.summary["days"] for rung in day["rungs"]
    )  # fmt: skip
    assert any(line.startswith(f"rescored   {count} of {count} cells") for line in output)


def test_a_question_that_is_not_the_tokens_own_is_named(
    sql_contest: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No digest binds the texts of `rows/`, so that another gold query would change what is right."""
    copy = shutil.copytree(sql_contest.path, tmp_path / "run", symlinks=True)
    rows = json.loads((copy / "rows" / "1.json").read_text())
    rows["questions"][2][2] = "SELECT 1"
    (copy / "rows" / "1.json").write_text(json.dumps(rows))
    assert main(["verify", str(copy)]) == 0
    capsys.readouterr()
    assert main(["verify", str(copy), "--rescore"]) == VerificationError.exit_code
    assert "rows/1.json: the question of row 3 is not that of its tokens" in capsys.readouterr().err
