"""Cells, rows and figures of the robustness benchmark, without playing any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import robustness
from benchmarks.robustness import STAGES, Grid, Journal, code_version, options, play_all, result_of
from benchmarks.robustness_cells import ATTACKS, HEADLINE, SHARES, applies, cells_of, worst
from benchmarks.robustness_figures import curves, headline, highest, lost_gain, proposer_leakage, table
from benchmarks.robustness_rows import BACKDOORS, Conduct, Role, Row, conduct, honest_seats, role_pay, row_of
from benchmarks.robustness_world import LEFT_HANDED, NOISE, ODD, SHUFFLED, WHOLE, Cell, World
from benchmarks.tables import ROBUSTNESS
from benchmarks.tables import Row as TableRow
from flock_ray.adversary.registry import BEHAVIOURS
from flock_ray.chain.values import TOKEN
from flock_ray.cluster.preflight import check_names
from flock_ray.config import AdversaryConfig, check
from flock_ray.errors import ConfigError
from flock_ray.in_process import play
from flock_ray.protocol.state import Slash
from tests.cluster.plain_alliance import tiny_config

pytestmark = pytest.mark.model

CLEAN = Cell("marginal", "mean", "none", 0.0, 1)
HELD = Conduct(100, 40, 30, 1, 300.0, 5.0)


def record(epoch: int, proposers: Mapping[int, int], voters: Mapping[int, int], **more: Any) -> Any:
    """As much of a record as figures are made of; rewards in tokens."""
    rewards = {member: wei * TOKEN for member, wei in more.get("rewards", {}).items()}
    return SimpleNamespace(
        epoch=epoch,
        roles=SimpleNamespace(
            proposers=tuple(proposers), proposer_seats=Counter(proposers), voter_seats=Counter(voters)
        ),
        rewards=rewards,
        fees=more.get("fees", ()),
        proposals=[
            SimpleNamespace(member=member, status=status) for member, status in more.get("proposals", {}).items()
        ],
        slashes=more.get("slashes", ()),
        carried=more.get("carried", ()),
    )


def row(gain: float = 1.0, leakage: float = 0.0, dishonest: tuple[int, ...] = (0,), **more: Any) -> Row:
    """A row of twenty members that all gained alike."""
    of_proposers = Role(70, 21, 700.0, 210.0 * leakage)
    made = Row(
        (4.0,) * 20, (4.0 - gain,) * 20, dishonest, of_proposers, Role(130, 39, 300.0, 0.0), HELD, HELD, 8, 2,
        (10.0,) * 20, (4,) * 20, (1,) * 20, {},
    )  # fmt: skip
    return replace(made, **more)


# -- rows ------------------------------------------------------------------------------------------------------------


def test_leakage_is_the_share_of_gross_rewards_over_the_share_of_dishonest_seats() -> None:
    records = [
        record(1, {0: 1, 1: 2}, {2: 1, 3: 2}, rewards={0: 3, 1: 5, 2: 1, 3: 1}, fees=((0, 0, TOKEN),)),
        record(2, {0: 1, 2: 1}, {1: 1, 3: 1}, rewards={2: 1, 3: 4}),
    ]
    proposers = role_pay(records, True, {0})
    assert proposers == Role(5, 2, 10.0, 4.0)  # what was withheld for fees was earned
    assert proposers.leakage == pytest.approx(0.4 / 0.4)
    assert role_pay(records, True, {0}, {(2, 0)}).leakage == pytest.approx(0.4 / 0.2)
    assert role_pay(records, False, {3}) == Role(5, 3, 6.0, 5.0)
    assert role_pay(records, True, ()).leakage is None  # nobody cheats, or nobody is paid
    assert role_pay([record(1, {0: 1}, {1: 1})], True, {0}).leakage is None


def test_a_seat_is_honest_where_a_cheat_sent_what_an_honest_member_sends() -> None:
    records = [
        record(1, {0: 1, 1: 1, 2: 1}, {}, proposals={0: "accepted", 1: "missing", 2: "accepted"}),
        record(2, {0: 1, 1: 1, 3: 1}, {}, proposals={0: "accepted", 1: "rejected", 3: "accepted"}),
        record(3, {1: 1, 3: 1}, {}, proposals={1: "accepted", 3: "accepted"}),
    ]
    assert honest_seats("copy_noise", records, {0, 1}) == {(1, 0), (1, 1), (2, 1)}
    assert honest_seats("copy_noise@0.5+lazy_vote", records, {0, 1}) == {(1, 0), (1, 1), (2, 1)}
    assert honest_seats("shared_training", records, {0, 1}) == {(1, 0), (2, 0), (3, 1)}
    assert honest_seats("mimic", records, {0, 1}) == {(1, 0), (1, 1)}
    assert honest_seats("mimic", records, {0, 1, 2}) == {(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)}
    assert honest_seats("resubmit", records, {0, 1}) == set()


def test_conduct_counts_what_was_carried_on_once() -> None:
    slashes = [Slash(1, 300 * TOKEN, "harmful")], [Slash(1, 30 * TOKEN, "fees"), Slash(2, TOKEN, "fees")]
    records = [
        record(1, {1: 1, 2: 1}, {3: 2}, proposals={1: "harmful", 2: "missing"}, fees=((1, 2 * TOKEN, 0),)),
        record(
            2, {1: 1, 3: 1}, {2: 1}, proposals={1: "accepted", 3: "rejected"}, slashes=slashes[0], carried=slashes[1]
        ),
    ]
    assert conduct(records, {1}) == Conduct(2, 2, 1, 2, 330.0, 2.0)
    assert conduct(records, {2, 3}) == Conduct(5, 1, 0, 1, 1.0, 0.0)


def test_lost_gain_is_of_honest_members_alone() -> None:
    clean = Row.of({**row(dishonest=()).json(), "after": [3.0] * 10 + [2.0] * 10})
    attacked = replace(row(dishonest=tuple(range(10))), after=(9.0,) * 10 + (2.5,) * 10)
    assert attacked.lost_gain(clean) == pytest.approx(1 - 1.5 / 2)
    assert Row.of(attacked.json()) == attacked


def test_a_played_task_becomes_a_row(tiny_model_dir: Path) -> None:
    config = replace(tiny_config(tiny_model_dir), adversary=AdversaryConfig("gaussian+always_yes", members=[1, 4]))
    cell = Cell(config.mechanism.name, "mean", "gaussian+always_yes", 0.3, config.seed)
    task = play(config)
    made = row_of(cell, config, task)
    assert Row.of(made.json()) == made
    assert made.dishonest == (1, 4) and made.epochs == 2 and len(made.before) == 7
    assert made.proposers.seats == 2 * 3 and made.voters.seats == 2 * 4
    assert made.honest.seats + made.others.seats == 14
    assert made.proposers.dishonest_seats + made.voters.dishonest_seats == made.others.seats
    paid = sum(sum(one.rewards.values()) + sum(wei for _, _, wei in one.fees) for one in task.records)
    assert made.proposers.paid + made.voters.paid == pytest.approx(paid / TOKEN)
    assert sum(made.proposed) == made.honest.proposals + made.others.proposals
    assert sum(made.net) == pytest.approx(
        sum(member.earned - member.slashed for member in task.state.members) / TOKEN, abs=2.0
    )
    assert not made.backdoor
    clean = replace(config, adversary=AdversaryConfig())
    honest = row_of(cell.clean, clean, play(clean))
    assert not honest.dishonest and honest.lost_gain(honest) == 0 and set(honest.backdoor) == set(BACKDOORS)


# -- cells -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """One whose files nobody reads."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "robustness" / WHOLE.name
    folder.mkdir(parents=True)
    (folder / "shuffled.jsonl").write_text("")
    return World(WHOLE)


def test_every_behaviour_has_cells() -> None:
    names = {part.partition("@")[0] for attack in ATTACKS for part in attack.split("+")}
    assert names == set(BEHAVIOURS) - {"none"}


def test_the_most_telling_cells_come_first() -> None:
    order = [cell for stage in STAGES for cell in cells_of(stage, (1, 2), {})]
    first = order[: len(HEADLINE) + 1]
    assert first[0] == CLEAN and {(cell.mechanism, cell.rule, cell.seed) for cell in first} == {("marginal", "mean", 1)}
    for place, cell in enumerate(order):
        assert cell.clean in order[: place + 1], cell
    assert {cell.attack for cell in order} == {*ATTACKS, "none", ODD}


def test_every_cell_can_be_played_and_no_other_is_left_out(world: World) -> None:
    played = {CLEAN: row(dishonest=())} | {Cell("marginal", "mean", one, 0.3, 1): row() for one in HEADLINE}
    cells = {cell for stage in STAGES for cell in cells_of(stage, (1,), played)}
    assert len(cells) > 300 and {cell.share for cell in cells} == set(SHARES)
    for cell in cells:
        config = world.config(cell)
        check(config)
        check_names(config)
    for attack in ATTACKS:
        if not applies(attack, "open"):
            with pytest.raises(ConfigError, match="changes votes alone"):
                check_names(world.config(Cell("open", "mean", attack, 0.3, 1)))


def test_odd_silos_are_rows_of_their_own(world: World) -> None:
    config = world.config(Cell("marginal", "mean", ODD, 0.0, 1))
    assert config.data.kind == "mixed" and len(config.data.path) == 20
    assert config.data.path[LEFT_HANDED].endswith("left_handed.jsonl")
    assert config.data.path[SHUFFLED].endswith("shuffled.jsonl")
    assert config.adversary.members == [NOISE]


def test_curves_are_of_the_worst_attacks() -> None:
    played = {CLEAN: row(dishonest=())}
    for number, attack in enumerate(HEADLINE):
        played[Cell("marginal", "mean", attack, 0.3, 1)] = row(gain=1 - number / 100)
    assert worst(played) == list(reversed(HEADLINE))[:6]
    assert not curves(played)
    cells = list(cells_of("curves", (1,), played))
    assert {cell.attack for cell in cells} == set(worst(played))
    assert {cell.mechanism for cell in cells} == {"marginal", "open"}
    assert not [cell for cell in cells if cell.mechanism == "open" and not applies(cell.attack, "open")]
    for cell in cells:
        played[cell] = row(gain=1 - cell.share)
    played[CLEAN.clean] = row(dishonest=())
    lines = curves(played)
    assert [line["attack"] for line in lines if line["mechanism"] == "marginal"] == worst(played)
    assert [point[0] for point in lines[0]["lost_gain"]] == list(SHARES)
    assert lines[0]["lost_gain"][-1] == pytest.approx([0.5, 0.5, 0.5, 0.5])


# -- the journal -----------------------------------------------------------------------------------------------------


class Played:
    """Cells that were played, in place of `play` and `row_of`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_at: int = 1_000) -> None:
        self.cells: list[Cell] = []
        monkeypatch.setattr(robustness, "play", lambda config: None)
        monkeypatch.setattr(robustness, "row_of", self.row_of)
        self._fails_at = fails_at

    def row_of(self, cell: Cell, config: Any, task: Any) -> Row:
        if len(self.cells) == self._fails_at:
            raise KeyboardInterrupt
        self.cells.append(cell)
        return row(dishonest=(0,) if cell.share else ())


def test_a_run_goes_on_where_it_was_stopped(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = list(cells_of("headline", (1,), {}))[:6]
    path = tmp_path / "rows.jsonl"
    first = Played(monkeypatch, fails_at=3)
    with pytest.raises(KeyboardInterrupt):
        play_all(Grid(world, Journal(path)), [("headline", cells)], 1)
    assert first.cells == cells[:3]
    path.write_bytes(path.read_bytes()[:-20])  # the end of the last line was never written
    again = Played(monkeypatch)
    grid = Grid(world, Journal(path))
    play_all(grid, [("headline", cells[:4]), ("others", cells)], 1)
    assert again.cells == cells[2:] and list(grid.rows) == [cells[0], cells[1], *cells[2:]]
    none = Played(monkeypatch)
    play_all(Grid(world, Journal(path)), [("headline", cells)], 1)
    assert none.cells == []


def test_no_cell_begins_after_the_time(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(monkeypatch)
    grid = Grid(world, Journal(tmp_path / "rows.jsonl"))
    play_all(grid, [("headline", cells_of("headline", (1,), {}))], 0)
    assert played.cells == [] and result_of(grid)["headline"] == {}


def test_rows_are_of_one_configuration_one_world_and_one_code(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [Grid(world, Journal(tmp_path / "rows.jsonl")).id_of(CLEAN)]
    for cell in (replace(CLEAN, seed=2), replace(CLEAN, mechanism="flock"), Cell("marginal", "mean", "zero", 0.3, 1)):
        names.append(Grid(world, Journal(tmp_path / "rows.jsonl")).id_of(cell))
    (world.folder / "shuffled.jsonl").write_text("{}\n")
    names.append(Grid(world, Journal(tmp_path / "rows.jsonl")).id_of(CLEAN))
    monkeypatch.setattr(robustness, "code_version", lambda: "another")
    names.append(Grid(world, Journal(tmp_path / "rows.jsonl")).id_of(CLEAN))
    assert len(set(names)) == len(names)


def test_comments_are_no_code(tmp_path: Path) -> None:
    for name in robustness._DECIDES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path = path if path.suffix else path / "part.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text('"""What it does."""\n\n\ndef two() -> int:\n    return 2\n')
    before = code_version(tmp_path)
    part = tmp_path / "flock_ray" / "protocol" / "part.py"
    part.write_text('"""Something else."""\n\n\ndef two() -> int:\n    """2."""\n    return  2  # of course\n')
    assert code_version(tmp_path) == before
    part.write_text("def two() -> int:\n    return 3\n")
    assert code_version(tmp_path) != before


def test_options() -> None:
    assert options([]) == (STAGES, (1, 2, 3), float("inf"))
    assert options(["cells=open,headline", "seeds=4,2", "minutes=5"]) == (("headline", "open"), (4, 2), 5.0)
    for override in ("cells=all", "seeds=x", "minutes=", "seed=1", "cells="):
        with pytest.raises(SystemExit, match="robustness knows no"):
            options([override])


# -- figures ---------------------------------------------------------------------------------------------------------


def whole(seeds: tuple[int, ...] = (1, 2)) -> dict[Cell, Row]:
    """Every cell of the stages that the headline is made of."""
    rows: dict[Cell, Row] = {}
    for stage in ("headline", "clean", "odd", "flock", "open", "multi_krum", "marginal1"):
        for cell in cells_of(stage, seeds, {}):
            rows[cell] = row(dishonest=(0,) if cell.share else (NOISE, SHUFFLED) if cell.attack == ODD else ())
            if cell.attack in (*BACKDOORS, "none"):
                names = BACKDOORS if cell.attack == "none" else (cell.attack,)
                rows[cell] = replace(rows[cell], backdoor=dict.fromkeys(names, 0.25 if cell.share else 0.01))
    return rows


def test_the_highest_of_several_attacks_waits_for_all_of_them() -> None:
    rows = whole()
    for seed, gain in ((1, 0.8), (2, 0.6)):
        rows[Cell("marginal", "mean", "ipm", 0.3, seed)] = row(gain, leakage=0.5)
        rows[Cell("marginal", "mean", "zero", 0.3, seed)] = row(0.9, leakage=0.6 - seed / 10)
    found = highest(rows, lost_gain, "marginal", HEADLINE)
    assert found is not None and found[0] == pytest.approx(0.3) and found[1] == "ipm"
    assert highest(rows, proposer_leakage, "marginal", HEADLINE) == (pytest.approx(0.5), "ipm")
    assert highest(rows, lost_gain, "open", ("lazy_vote", "zero")) is not None  # nobody votes under open
    for seed in (1, 2):
        del rows[Cell("marginal", "mean", "gauge", 0.3, seed)]
    assert highest(rows, lost_gain, "marginal", HEADLINE) is None
    assert highest({**rows, **{CLEAN: row()}}, lost_gain, "flock", HEADLINE) is not None


def test_the_headline_has_the_names_that_were_asked_for() -> None:
    rows = whole()
    for seed in (1, 2):
        rows[Cell("marginal", "mean", "one_step", 0.3, seed)] = row(leakage=0.1 * seed)
        rows[Cell("marginal", "mean", "shared_training", 0.3, seed)] = row(leakage=1.5)
        odd = Cell("marginal", "mean", ODD, 0.0, seed)
        net = tuple(30.0 if member == SHUFFLED else -5.0 if member == NOISE else 20.0 for member in range(20))
        rows[odd] = replace(rows[odd], net=net, accepted=(3,) * 20)
        rows[replace(CLEAN, seed=seed)] = replace(rows[replace(CLEAN, seed=seed)], after=(2.8,) * 20)
    figures, behind = headline(rows)
    assert figures["one_step_leakage"] == pytest.approx(0.15)
    assert figures["shared_training_leakage"] == pytest.approx(1.5)
    assert figures["gain_against_marginal1"] == pytest.approx(1.2)
    assert figures["backdoor_success"] == 0.25 and figures["backdoor_success_untaught"] == 0.01
    assert figures["epochs_lost_to_withheld_reveals"] == 0.25
    assert figures["honest_slash_rate"] == 0.01 and figures["honest_accept_rate"] == 0.75
    assert figures["left_handed_accepted"] == 0.75
    assert figures["shuffled_net_over_honest_mean"] == pytest.approx(1.5)
    assert figures["noise_net_over_honest_mean"] == pytest.approx(-0.25)
    assert set(robustness.TARGETS) <= set(figures) and set(behind) <= set(figures)
    assert {one.metric for one in ROBUSTNESS} <= set(figures)
    few, _ = headline({CLEAN: row(dishonest=(), backdoor=dict.fromkeys(BACKDOORS, 0.01))})
    assert "max_lost_gain_at_30pct" not in few and "left_handed_accepted" not in few
    shown = TableRow("a", "max_lost_gain_at_30pct", "{:.3f}")
    assert shown.written(few) == "not measured" and shown.written(figures) != "not measured"


def test_the_table_has_a_line_for_what_was_played() -> None:
    lines = table(whole())
    (ours,) = [one for one in lines if (one["mechanism"], one["rule"], one["attack"]) == ("marginal", "mean", "zero")]
    assert ours["seeds"] == [1, 2] and ours["lost_gain"] == [0.0, 0.0, 0.0] and ours["epochs_lost"] == 4
    assert ours["honest_accept_rate"] == 0.75 and ours["dishonest_slashes"] == 2 and ours["voter_leakage"] == [0, 0, 0]
    assert not [one for one in lines if one["attack"] == "lazy_vote" and one["mechanism"] == "open"]


def test_curves_are_drawn_alike_twice(tmp_path: Path) -> None:
    points = [[share, share, share / 2, 2 * share] for share in SHARES]
    lines = [{"attack": "ipm", "mechanism": name, "lost_gain": points} for name in ("marginal", "open")]
    for name in ("a.svg", "b.svg"):
        robustness.draw(lines, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "ipm" in (tmp_path / "a.svg").read_text()
