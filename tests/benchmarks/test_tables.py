from __future__ import annotations

import pytest

from benchmarks.tables import PAGES, RESULTS, TABLES, rewritten


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_are_those_of_the_committed_results(page) -> None:
    text = page.read_text()
    assert "<!-- table " in text
    assert rewritten(text) == text, "run python benchmarks/tables.py"


def test_a_changed_result_changes_the_table(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.tables.RESULTS", tmp_path)
    names = "".join(f"<!-- table {name} -->\nold\n<!-- end -->\n" for name in TABLES)
    assert rewritten(names).count("No result is committed.") == len(TABLES)
    metrics = {row.metric: 1.25 for _, rows in TABLES.values() for row in rows}
    for benchmark, _ in TABLES.values():
        environment = '{"processor": "a", "cores": 2}'
        figures = str(metrics).replace("'", '"')
        (tmp_path / f"{benchmark}.json").write_text(f'{{"headline": {figures}, "environment": {environment}}}')
    found = rewritten(names)
    assert "old" not in found and found.count("1.25×") >= 4
    assert RESULTS.name == "results"
