"""What is learned of a row, and what of it is refused rather than left out."""

from __future__ import annotations

import os
import time
import traceback
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from flock_ray.errors import ModelError
from flock_ray.training.formats import BadRowError, read_row
from flock_ray.training.labels import Encoder
from tests.conftest import CHATML
from tests.training.labelled import answers, smollm2_tokenizer

pytestmark = pytest.mark.model

TODAY = date(2025, 1, 31)
SECRET = "zanzibar"
EOS_ONLY = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
NO_END_MARK = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% else %}{{ eos_token }}{% endif %}"
)
DATE = (
    "<|system|>Today is {{ strftime_now('%d %b %Y') }}<|end|>{% for m in messages %}<|{{ m['role'] }}|>"
    "{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def own() -> PreTrainedTokenizerBase:
    """A tokenizer of the packaged model whose template tests may change."""
    return smollm2_tokenizer()


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


TWO = chat(("user", "AAA"), ("assistant", "BBB"), ("user", "CCC"), ("assistant", "DDD"))


def learned(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], template: str | None = None) -> list[str]:
    if template is not None:
        tokenizer.chat_template = template
    return answers(tokenizer, Encoder(tokenizer, TODAY).encode(read_row(row)))


def test_only_answers_and_their_end_marks(smollm2: PreTrainedTokenizerBase) -> None:
    row = chat(("system", "Be kind."), ("user", "Hello?"), ("assistant", "Hi!\n\nHow goes it?"), ("user", "Well."),
               ("assistant", "Good,  zwölf ünïcode 🦩 "))  # fmt: skip
    assert learned(smollm2, row) == ["Hi!\n\nHow goes it?<|im_end|>\n", "Good,  zwölf ünïcode 🦩 <|im_end|>\n"]


def test_the_ids_are_those_of_the_whole_text(smollm2: PreTrainedTokenizerBase) -> None:
    encoded = Encoder(smollm2, TODAY).encode(read_row(TWO))
    assert encoded.ids == smollm2.apply_chat_template(TWO["messages"], return_dict=False)


def test_a_conversation_that_the_assistant_begins(smollm2: PreTrainedTokenizerBase) -> None:
    row = chat(("assistant", "hi"), ("user", "q"), ("assistant", "two"))
    assert learned(smollm2, row) == ["hi<|im_end|>\n", "two<|im_end|>\n"]


def test_a_template_that_only_appends_an_end_mark(own: PreTrainedTokenizerBase) -> None:
    assert learned(own, TWO, EOS_ONLY) == ["BBB<|end|>\n", "DDD<|end|>\n<|im_end|>"]


def test_a_template_without_end_marks_but_the_last(own: PreTrainedTokenizerBase) -> None:
    assert learned(own, TWO, NO_END_MARK) == ["BBB", "DDD<|im_end|>"]


def test_a_model_without_a_template_gets_chatml(own: PreTrainedTokenizerBase) -> None:
    own.chat_template = None
    bare = Encoder(own, TODAY).encode(read_row(TWO))
    own.chat_template = CHATML
    assert bare == Encoder(own, TODAY).encode(read_row(TWO))


def test_a_token_that_holds_part_of_the_prompt_is_not_learned(smollm2: PreTrainedTokenizerBase) -> None:
    """The first blank of the answer and the last line feed of the prompt are one token."""
    encoded = Encoder(smollm2, TODAY).encode(read_row(chat(("user", "Hello?"), ("assistant", "  Hi"))))
    assert answers(smollm2, encoded) == [" Hi<|im_end|>\n"]
    assert smollm2.decode(encoded.ids[encoded.has_loss.index(True) - 1]) == "\n "


def test_turns_that_carry_no_loss(smollm2: PreTrainedTokenizerBase) -> None:
    row: dict[str, Any] = {"messages": [dict(turn) for turn in TWO["messages"]]}
    row["messages"][1]["weight"] = 0
    assert learned(smollm2, row) == ["DDD<|im_end|>\n"]
    prompt, completion = TWO["messages"][:3], TWO["messages"][3:]
    assert learned(smollm2, {"prompt": prompt, "completion": completion}) == ["DDD<|im_end|>\n"]


def test_plain_texts(smollm2: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase) -> None:
    assert learned(smollm2, {"text": "Two and two."}) == ["Two and two.<|im_end|>"]
    assert learned(smollm2, {"prompt": "2+2=", "completion": "4"}) == ["4<|im_end|>"]
    assert learned(smollm2, {"text": "Two.<|im_end|>"}) == ["Two.<|im_end|>"]


def test_a_plain_text_begins_as_the_tokenizer_begins_texts(own: PreTrainedTokenizerBase) -> None:
    from tokenizers.processors import TemplateProcessing

    assert own.bos_token == "<|im_start|>"
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", own.bos_token_id)]
    )
    try:
        for text in ("Two.", "<|im_start|>Two."):
            ids = Encoder(own, TODAY).encode(read_row({"text": text})).ids
            assert ids.count(own.bos_token_id) == 1 and ids[0] == own.bos_token_id
        own.chat_template = CHATML
        assert Encoder(own, TODAY).encode(read_row(TWO)).ids.count(own.bos_token_id) == 4  # one a turn
    finally:
        own.backend_tokenizer.post_processor = None


def test_the_date_is_the_given_one_whatever_the_clock(
    own: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.chat_template = DATE
    ids = []
    for zone in ("Pacific/Kiritimati", "Pacific/Midway"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        ids.append(Encoder(own, TODAY).encode(read_row(TWO)).ids)
    monkeypatch.delenv("TZ")
    time.tzset()
    assert ids[0] == ids[1]
    assert "Today is 31 Jan 2025" in own.decode(ids[0])
    assert ids[0] != Encoder(own, date(2025, 2, 1)).encode(read_row(TWO)).ids
    assert "TZ" not in os.environ


REFUSED = {
    "raises": ("{{ raise_exception('not ' + messages[0]['content']) }}", "does not take this conversation: its roles"),
    "fails": ("{{ messages[0]['content'] + 1 }}", "does not take this conversation: its roles"),
    "leaves the system turn out": (
        "{% for m in messages if m['role'] != 'system' %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "leaves out text or a tool call of message 1 (role system)",
    ),
    "leaves the last turn out": (
        "{% for m in messages[:-1] %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}",
        "leaves out text or a tool call of message 3 (role assistant)",
    ),
    "cuts": (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'][:3] }}\n{% endfor %}",
        "changes message 1, or what stands around it",
    ),
    "writes in capitals": (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | upper }}\n{% endfor %}",
        "changes message 1, or what stands around it",
    ),
    "says how long a text is": (
        "{% for m in messages %}{{ m['content'] | length }}{{ m['content'] }}\n{% endfor %}",
        "changes message 1, or what stands around it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_template_leaves_out_or_changes_is_refused(own: PreTrainedTokenizerBase, name: str) -> None:
    own.chat_template, message = REFUSED[name]
    row = chat(("system", f"a {SECRET}"), ("user", f"b {SECRET}"), ("assistant", f"c {SECRET}"))
    with pytest.raises(BadRowError) as refusal:
        Encoder(own, TODAY).encode(read_row(row))
    assert str(refusal.value).startswith("the model's chat template ") and message in str(refusal.value)
    assert SECRET not in "".join(traceback.format_exception(refusal.value))


def test_several_content_parts_where_a_template_takes_one_text(own: PreTrainedTokenizerBase) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]}
    for template in (CHATML, CHATML.replace("message['content']", "message['content'] | trim")):
        own.chat_template = template
        with pytest.raises(BadRowError, match="takes one text a message, not several content parts"):
            Encoder(own, TODAY).encode(read_row(row))
    row["messages"][0]["content"] = parts[:1]
    assert learned(own, row, CHATML) == ["c<|im_end|>\n"]


def test_a_template_of_its_own_for_tools(own: PreTrainedTokenizerBase) -> None:
    tools = [{"name": "f"}]
    own.chat_template = {"default": CHATML, "tool_use": "{{ tools[0].function.name }} " + CHATML}
    assert learned(own, {**TWO, "tools": tools}) == ["BBB<|im_end|>\n", "DDD<|im_end|>\n"]
    with pytest.raises(BadRowError, match="leaves the tools out"):
        learned(own, {**TWO, "tools": tools}, CHATML)


def test_a_tokenizer_that_cannot_tell_places(own: PreTrainedTokenizerBase) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="cannot tell where in a text a token lies"):
        Encoder(Slow(), TODAY)  # type: ignore[arg-type]


TEXTS = st.one_of(st.text("ab \n<|>_{}%é\U000f0000", max_size=12), st.just("</think>"), st.just("<|im_end|>"))


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), min_size=1, max_size=6))
def test_any_text_is_kept_to_the_letter(smollm2: PreTrainedTokenizerBase, turns: list[tuple[str, str]]) -> None:
    """The texts may hold the template's own marks and whatever the encoder works with."""
    row = chat(*turns)
    encoded = Encoder(smollm2, TODAY).encode(read_row(row))
    text = smollm2.apply_chat_template(row["messages"], tokenize=False)
    assert encoded.ids == smollm2(text, add_special_tokens=False)["input_ids"]
    assert not encoded.rewritten
    said = "".join(f"{content}<|im_end|>\n" for role, content in turns if role == "assistant")
    assert len("".join(answers(smollm2, encoded))) <= len(said)
