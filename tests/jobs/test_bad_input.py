"""Every mistake ends with one line that says what would be right, its own exit code, and nothing left behind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flock_ray.chain.anvil import find_anvil
from flock_ray.errors import ConfigError, DataError, ModelError
from tests.jobs.bad_inputs import ARENA, CHECKED, DOCS, RUN, SECRET, World, page, row, world
from tests.jobs.command import Ended, alliance
from tests.runs import Head, tiny

pytestmark = pytest.mark.ray

MISTAKES = [*RUN, *CHECKED, *ARENA]
ROWS = {found[1]: found[0] for found in re.finditer(r"^\| (.+?) \| `.*\n", DOCS.read_text(), re.MULTILINE)}


@pytest.fixture(scope="module")
def made(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("mistakes"), tiny_model_dir) as there:
        yield there


def test_the_page_shows_every_mistake() -> None:
    assert page(ROWS) == DOCS.read_text(), "python -m tests.jobs.bad_inputs writes it anew"
    assert len(MISTAKES) >= 30 and list(ROWS) == MISTAKES


@pytest.mark.parametrize("name", MISTAKES)
def test_it_ends_as_the_page_says(made: World, name: str) -> None:
    if name == "a port that is taken" and find_anvil() is None:
        pytest.skip("anvil is not found")
    ended = made.play(name)
    assert row(name, ended) == ROWS[name], "python -m tests.jobs.bad_inputs writes the page anew"
    assert ended.code > 1 and ended.line.startswith("error: ")
    assert SECRET not in ended.output + ended.line


IN_THE_NODES: dict[str, tuple[type[Exception], str]] = {
    "a malformed line": (DataError, "{folder}/silo-7.jsonl:3: malformed JSON; each line is one JSON object"),
    "a model without linear layers": (ModelError, "the model has no nn.Linear layer but its output head"),
    "stacked members of a model that cannot": (ModelError, "the model's attention has a soft cap"),
}


@pytest.fixture(scope="module")
def ended_in_the_nodes(head: Head, made: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """Runs that fail where members are hosted, two at a time on one cluster."""
    base = tiny(made.model, "cluster=existing", f"cluster.address={head.address}")

    def run(name: str) -> Ended:
        overrides = (word.strip("'").replace("{folder}", str(made.folder)) for word in CHECKED[name])
        return alliance(tmp_path_factory.mktemp("nodes"), *base, *overrides)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(IN_THE_NODES, pool.map(run, IN_THE_NODES), strict=True))


@pytest.mark.parametrize("name", IN_THE_NODES)
def test_a_run_is_refused_by_the_node_that_hosts_the_member(
    ended_in_the_nodes: dict[str, Ended], made: World, name: str
) -> None:
    """Before its task is created: nothing of it stays, and its folder is not named."""
    error, part = IN_THE_NODES[name]
    ended = ended_in_the_nodes[name]
    assert part.format(folder=made.folder) in ended.one_line
    assert ended.code == error.exit_code  # type: ignore[attr-defined]
    assert SECRET not in ended.output + ended.errors
    assert ended.left == [] and "Run folder" not in ended.output and "resume=" not in ended.one_line


def test_the_run_that_started_its_own_cluster_takes_it_down_again(tiny_model_dir: Path, tmp_path: Path) -> None:
    """`alliance` waits for every process that the command had started."""
    ended = alliance(tmp_path, *tiny(tiny_model_dir, "lora.target_modules=[w_proj]", "chain=eth_tester"))
    assert ended.code == ModelError.exit_code and "names no linear layer: w_proj" in ended.one_line
    assert ended.left == []


def test_several_configurations_leave_nothing_of_hydra(tmp_path: Path) -> None:
    ended = alliance(tmp_path, "-m", "seed=1,2", "training.steps=0")
    assert ended.code == ConfigError.exit_code and "training.steps is 0" in ended.one_line
    assert ended.left == []


def test_a_traceback_is_shown_to_who_asks_for_it(tmp_path: Path) -> None:
    ended = alliance(tmp_path, "training.steps=0", "traceback=true")
    assert ended.code == ConfigError.exit_code
    assert ended.errors.startswith("Traceback") and "ConfigError" in ended.errors
    assert ended.errors.splitlines()[-1] == "error: training.steps is 0; it must be 1 or more"
