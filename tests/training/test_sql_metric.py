from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path

import pytest

from flock_ray.errors import DataError
from flock_ray.protocol.contest_scores import Row, strict_score
from flock_ray.training.sql_databases import fill, parse_schema
from flock_ray.training.sql_metric import SqlMetric, SqlQuestion
from flock_ray.training.sql_text import mutants, normalised, text_of, tokens

DATA = Path(__file__).parents[1] / "data" / "text2sql"
NAMES = ("concert_singer", "museum_visit", "pets_1")
SEED = bytes(range(32))


@cache
def load(name: str) -> tuple[str, tuple[str, ...]]:
    rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
    return rows[0]["system"], tuple(row["conversations"][1]["content"] for row in rows)


@cache
def metric(name: str, seed: bytes = SEED) -> SqlMetric:
    return SqlMetric(*load(name), seed)


def question(name: str, gold: str) -> SqlQuestion:
    found = metric(name).question(gold)
    assert found is not None
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [SEED, bytes(32)])
def test_nearly_all_gold_queries_count_and_match_themselves(name: str, seed: bytes) -> None:
    _, golds = load(name)
    judged = metric(name, seed)
    questions = [judged.question(gold) for gold in golds]
    counting = [(one, gold) for one, gold in zip(questions, golds, strict=True) if one]
    assert len(counting) >= 0.9 * len(golds)
    for one, gold in counting:
        assert judged.matches(one, gold) and judged.matches(one, f"\n {gold} ; ;\n")


def test_other_gold_queries_rarely_pass_where_on_empty_tables_most_do() -> None:
    """The two that pass mean the same: `year > 2013` and `year >= 2014`, in whole numbers."""
    passing = empty_passing = total = 0
    for name in NAMES:
        judged = metric(name)
        found = {one.query: one for gold in load(name)[1] if (one := judged.question(gold))}
        schema = judged.schema
        bare = SqlMetric(load(name)[0], (), SEED)
        for database in bare._databases:
            database._connection.set_authorizer(None)
            database._connection.execute("PRAGMA query_only = OFF")
            for table in schema.tables:
                database._connection.execute(f"DELETE FROM {table}")
        for query, one in found.items():
            others = [other for other in found if other.lower() != query.lower()]
            passing += any(judged.matches(one, other) for other in others)
            empty = SqlQuestion(query, one.ordered, tuple(database.run(query) or () for database in bare._databases))
            empty_passing += any(bare.matches(empty, other) for other in others)
            total += 1
    assert (passing, total) == (2, 66) and empty_passing > 0.6 * total


def test_wrong_answers_do_not_match() -> None:
    one = question("pets_1", "SELECT count(*) FROM pets WHERE weight  >  10")
    assert metric("pets_1").matches(one, "select COUNT(*) from Pets where Weight > 10;")
    assert metric("pets_1").matches(one, "SELECT count(PetID) FROM pets WHERE NOT weight <= 10")
    for wrong in (
        "SELECT count(*) FROM pets WHERE weight >= 10",
        "SELECT count(*) FROM pets",
        "SELECT count(*) FROM student",
        "SELECT 12",
        "SELECT count(*), 1 FROM pets WHERE weight > 10",
        "SELECT count(*) FROM nothing",
        "pets",
        "",
        ";",
        "SELECT count(*) FROM pets WHERE weight > 10; SELECT 1",
        "SELECT count(*) FROM pets WHERE weight > 10 --" + " " * 30_000,
    ):
        assert not metric("pets_1").matches(one, wrong), wrong


def test_losses_of_answers_make_the_share_of_wrong_ones_a_score() -> None:
    golds = ["SELECT count(*) FROM pets WHERE weight  >  10", "SELECT PetID FROM pets ORDER BY weight"]
    questions = [question("pets_1", gold) for gold in golds]
    losses = metric("pets_1").losses(questions, [golds[0], "SELECT PetID FROM pets ORDER BY pet_age"])
    assert losses == (0, 1_000_000)
    assert strict_score(losses, [Row(bytes(32), 1, 1)] * 2) == 500_000


def test_order_counts_where_the_gold_query_orders() -> None:
    ordered = question("pets_1", "SELECT PetID FROM pets ORDER BY weight")
    assert not metric("pets_1").matches(ordered, "SELECT PetID FROM pets ORDER BY weight DESC")
    free = question("pets_1", "SELECT PetID FROM pets WHERE weight IN (SELECT weight FROM pets ORDER BY weight)")
    assert metric("pets_1").matches(free, "SELECT PetID FROM pets WHERE weight IS NOT NULL ORDER BY PetID DESC")


@pytest.mark.parametrize(
    "hostile",
    [
        "DELETE FROM pets",
        "DROP TABLE pets",
        "INSERT INTO pets VALUES (1, 2, 3, 4)",
        "UPDATE pets SET weight = 0",
        "CREATE TABLE t (a)",
        "ATTACH '/tmp/x.db' AS x",
        "PRAGMA query_only = OFF",
        "SELECT load_extension('x')",
        "SELECT randomblob(1000000000)",
        "SELECT zeroblob(1000000000)",
        "SELECT sql FROM sqlite_master",
        "SELECT date('now')",
        "SELECT hex(pet_age) FROM pets",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c",
        "VACUUM INTO '/tmp/x.db'",
    ],
)
def test_what_is_no_plain_reading_fails_and_changes_nothing(hostile: str) -> None:
    judged = metric("pets_1")
    one = question("pets_1", "SELECT count(*) FROM pets")
    assert all(database.run(hostile) is None for database in judged._databases)
    assert not judged.matches(one, hostile)
    assert judged.matches(one, "SELECT count(*) FROM pets")


def test_a_query_without_end_is_stopped_by_its_steps() -> None:
    endless = "SELECT count(*) FROM " + ", ".join(f"pets AS p{i}" for i in range(12))
    started = time.process_time()
    assert metric("pets_1")._databases[0].run(endless) is None
    assert time.process_time() - started < 5
    huge = "SELECT * FROM pets AS a, pets AS b, pets AS c, pets AS d"
    assert metric("pets_1")._databases[0].run(huge) is None
    long = "SELECT " + "replace(" * 7 + "'a'" + ", 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa')" * 7
    assert metric("pets_1")._databases[0].run(long) is None


def test_rows_that_tell_nothing_do_not_count() -> None:
    judged = metric("pets_1")
    assert judged.question("SELECT PetID FROM pets WHERE weight > 100000") is None
    assert judged.question("SELECT count(*) FROM pets WHERE weight > 100000") is None
    assert judged.question("SELECT 1") is None  # its mutants cannot be told apart on any data but by the number
    assert judged.question("no query") is None


def test_the_same_seed_makes_the_same_databases_and_another_one_others() -> None:
    schema = parse_schema(load("pets_1")[0])
    golds = [tokens(normalised(gold, schema.names)) for gold in load("pets_1")[1]]
    assert fill(schema, golds, SEED) == fill(schema, golds, SEED)
    assert fill(schema, golds, SEED) != fill(schema, golds, bytes(32))
    rows = {statement: rows for statement, rows in fill(schema, golds, SEED) if rows}
    pets = next(rows[statement] for statement in rows if '"pets"' in statement)
    assert pets[0] == (1, "pettype 5", 204, 10)
    assert "dog" in {row[1] for row in pets}  # a literal of the gold queries


def test_double_quoted_strings_are_strings_on_every_build() -> None:
    names = parse_schema(load("pets_1")[0]).names
    assert normalised('SELECT "PetID" FROM pets WHERE pettype = "it\'s"; ;', names) == (
        "SELECT \"PetID\" FROM pets WHERE pettype = 'it''s'"
    )


def test_mutants_are_plausible_and_in_a_fixed_order() -> None:
    schema = parse_schema(load("pets_1")[0])
    parsed = tokens("SELECT max ( weight ) FROM pets WHERE pet_age > 2 ORDER BY weight DESC LIMIT 3")
    made = list(mutants(parsed, schema))
    assert made == list(mutants(parsed, schema)) and text_of(parsed) not in made
    assert any("min ( weight )" in one for one in made) and any("LIMIT 3 + 1" in one for one in made)
    assert any("pet_age <= 2" in one for one in made) and any("asc LIMIT" in one for one in made)


def test_a_schema_is_read_line_by_line() -> None:
    schema = parse_schema("Some words.\na(x number primary key, y z text)\nsqlite_sequence(name text)\nb(t time)\n(c)")
    assert {name: [one.name for one in columns] for name, columns in schema.tables.items()} == {
        "a": ["x", "y z"],
        "b": ["t"],
    }
    with pytest.raises(DataError, match="table"):
        SqlMetric("no schema here", (), SEED)
