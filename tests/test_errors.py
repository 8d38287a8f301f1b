from __future__ import annotations

import pickle
import re
from pathlib import Path

from flock_ray import errors
from flock_ray.errors import FlockRayError

TABLE = Path(__file__).parents[1] / "docs" / "exit-codes.md"
CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, FlockRayError)]


def test_the_documented_exit_codes_are_those_of_the_classes() -> None:
    rows = re.findall(r"^\| (\d+) \| (?:`(\w+)`)? ?\| (.+) \|$", TABLE.read_text(), re.MULTILINE)
    documented = {name: int(code) for code, name, _ in rows if name}
    assert documented == {kind.__name__: kind.exit_code for kind in CLASSES}
    assert [int(code) for code, name, _ in rows if not name] == [0, 2, 130]
    codes = [int(code) for code, _, _ in rows]
    assert codes == sorted(set(codes))


def test_an_error_crosses_processes_as_it_is() -> None:
    for kind in CLASSES:
        sent = pickle.loads(pickle.dumps(kind("what, where, what would be right")))
        assert type(sent) is kind and str(sent) == "what, where, what would be right"
