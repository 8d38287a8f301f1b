"""A store that is not the same everywhere is refused before anything is created."""

from __future__ import annotations

from pathlib import Path

import pytest

from flock_ray.errors import StoreError
from tests.runs import Head, tiny

pytestmark = pytest.mark.ray


def test_a_store_that_each_process_has_for_itself_is_refused(head: Head, tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"every node must reach store\.url") as refused:
        head.run(tmp_path, *tiny(tiny_model_dir, "store.url=memory://blobs"))
    assert refused.value.exit_code == 60
    assert not list(tmp_path.rglob("task.json")) and not list(tmp_path.rglob("blocks.jsonl"))
