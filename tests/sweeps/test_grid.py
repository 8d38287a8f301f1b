from __future__ import annotations

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flock_ray.errors import ConfigError
from flock_ray.sweeps.grid import MAX_POINTS, parse_grid

NUMBERS = st.integers(-5, 5) | st.floats(-2, 2, allow_nan=False).map(lambda value: round(value, 3))
WORDS = st.text("ab=, ", min_size=1, max_size=4).map(lambda text: f"'{text}'") | st.sampled_from(("x", "null", "[1,2]"))
VALUES = st.lists(NUMBERS | WORDS, min_size=1, max_size=3, unique_by=str)
KEYS = ("seed", "training.steps", "+mechanism.parameters.voter_share", "mechanism", "alliance.num_epochs")


def values(loader: ConfigLoader, word: str) -> tuple[str, ...]:
    (axis,) = parse_grid([word], loader).axes
    return axis.values


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_the_points_are_those_that_hydra_itself_would_play(
    loader: ConfigLoader, chosen: dict[str, list[object]]
) -> None:
    words = [f"{key}={','.join(map(str, of_key))}" for key, of_key in chosen.items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
    (theirs,) = BasicSweeper.split_arguments(parsed, None)
    grid = parse_grid(words, loader)
    ours = [grid.overrides(point) for point in grid.points()]
    assert sorted(map(sorted, ours)) == sorted(map(sorted, theirs))
    assert grid.size == len(ours) and {axis.name for axis in grid.axes} <= {key.lstrip("+") for key in chosen}
    assert ours == [tuple(sorted(point, key=ours[0].index)) if len(ours) == 1 else point for point in ours]


def test_every_form_of_the_grammar(loader: ConfigLoader) -> None:
    assert values(loader, "seed=1,2") == ("1", "2")
    assert values(loader, "training.learning_rate=choice(1e-3,2e-3)") == ("0.001", "0.002")
    assert values(loader, "alliance.num_epochs=range(1,6,2)") == ("1", "3", "5")
    assert values(loader, "mechanism=glob(*)") == ("flock", "marginal", "marginal1", "open")
    assert values(loader, "mechanism=glob([m*,o*],exclude=open)") == ("marginal", "marginal1")
    assert values(loader, "adversary.members=choice([3],[3,5])") == ("[3]", "[3,5]")
    assert sorted(values(loader, "seed=shuffle(1,2,3)")) == ["1", "2", "3"]
    assert parse_grid(["data.path='a,b'", "seed=7"], loader).axes == ()


def test_the_first_axis_changes_slowest(loader: ConfigLoader) -> None:
    grid = parse_grid(["chain=none", "seed=1,2", "+mechanism.parameters.x=3,4"], loader)
    assert grid.fixed == ("chain=none",) and grid.size == 4
    assert [grid.overrides(point)[1:] for point in grid.points()] == [
        ("seed=1", "+mechanism.parameters.x=3"), ("seed=1", "+mechanism.parameters.x=4"),
        ("seed=2", "+mechanism.parameters.x=3"), ("seed=2", "+mechanism.parameters.x=4"),
    ]  # fmt: skip


def test_plan_only_is_no_override_of_the_points(loader: ConfigLoader) -> None:
    assert parse_grid(["plan_only=true", "seed=1"], loader).plan_only
    assert not parse_grid(["plan_only=false"], loader).plan_only
    assert parse_grid(["plan_only=true", "seed=1"], loader).fixed == ("seed=1",)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nonsense"], "'nonsense' is no override such as seed=1,2,3: missing EQUAL"),
        (["seed=1,"], "'seed=1,' is no override"),
        (["seed=interval(0,1)"], "has no list of values; a sweep plays those of a,b,c"),
        (["seed=range(5,1)"], "'seed=range(5,1)' has no values"),
        (["mechanism=glob(zz*)"], "has no values"),
        (["seed=1,2,1"], "'seed=1,2,1' has the value 1 twice"),
        (["seed=1,2", "seed=3"], "seed is set twice, by 'seed=1,2' and 'seed=3', and the first has no effect"),
        (["+seed=1", "seed=3"], "seed is set twice"),
        (["output_dir=a,b"], "'output_dir=a,b' has no place in a sweep: the runs of a sweep lie in its own folder"),
        (["output_dir=a"], "has no place in a sweep"),
        (["resume=a"], "'resume=a' has no place in a sweep: the same command resumes"),
        (["plan_only=true,false"], "plan_only has one value in a sweep"),
        (["plan_only=maybe"], "plan_only must be true or false"),
        (["traceback=true,false"], "traceback has one value"),
        (["hydra.sweep.dir=x"], "is a setting of Hydra itself"),
        ([f"seed=range({MAX_POINTS})", "training.steps=1,2"], "the grid has 2,000 points, and a sweep at most 1,000"),
        (["seed=range(1000000000)"], "the grid has at least 1,001 points"),
    ],
)  # fmt: skip
def test_what_is_refused(loader: ConfigLoader, words: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_grid(words, loader)
    assert told in str(caught.value) and "\n" not in str(caught.value)
