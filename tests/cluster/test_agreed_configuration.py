from __future__ import annotations

from typing import Any

import pytest

from flock_ray.cluster.launch import configuration_texts
from flock_ray.config import Config, DataConfig

pytestmark = pytest.mark.model


def agreed(kind: str, **data: Any) -> dict[str, str]:
    return configuration_texts(Config(data=DataConfig(kind=kind, **data)))


@pytest.mark.parametrize("kind", ["jsonl", "hub"])
def test_members_agree_on_the_date_that_a_chat_template_is_told(kind: str) -> None:
    assert agreed(kind, template_date="2024-02-29")["data.template_date"] == "2024-02-29"
    assert agreed(kind) != agreed(kind, template_date="2024-02-29")


def test_where_no_chat_template_is_used_no_date_is_agreed_on() -> None:
    assert agreed("stdlib_code") == agreed("stdlib_code", template_date="2024-02-29")


def test_what_an_owner_refuses_of_its_own_data_is_its_own_affair() -> None:
    assert agreed("jsonl") == agreed("jsonl", path="/data", max_bad_rows=3, heldout_sequences=5)
