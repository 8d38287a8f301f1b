"""Labels under the chat templates of all families, as the package trl ships them."""

from __future__ import annotations

import importlib.util
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from transformers import AddedToken, PreTrainedTokenizerBase

from flock_ray.training.chat_template import ChatTemplate
from flock_ray.training.formats import BadRowError, read_row
from flock_ray.training.labels import Encoder
from tests.training.labelled import answers, smollm2_tokenizer
from tests.training.school import FORMATS, questions

pytestmark = pytest.mark.model

TODAY = date(2025, 1, 31)


def folder() -> Path:
    """Where trl has its templates, without importing it."""
    package = importlib.util.find_spec("trl")
    assert package is not None and package.submodule_search_locations, "trl is one of the packages for development"
    return Path(package.submodule_search_locations[0]) / "chat_templates"


TEMPLATES = {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder().glob("*.jinja"))}
ORIGINAL = [name for name in TEMPLATES if not name.endswith("_training")]
MARKED = [name for name, text in TEMPLATES.items() if re.search(r"{%-?\s*generation\s*-?%}", text)]
SPECIAL = re.compile(
    r"<\|[^|<>\s]+\|>|<｜[^｜]+｜>|<(?:start|end)_of_[a-z]+>|</?s>|</?think>|<\|?(?:turn|tool_call|tool_response)\|?>"
)

CHATML = ("{}<|im_end|>\n",) * 2
EMPTY_THOUGHTS = ("{}<|im_end|>\n", "<think>\n\n</think>\n\n{}<|im_end|>\n")  # the template adds them to the last turn
GEMMA4 = ("{}<turn|>\n",) * 2
LEARNED = {
    "cohere": ("{}<|END_OF_TURN_TOKEN|>",) * 2,
    "cohere2": ("{}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",) * 2,
    "deepseek_r1_distill": ("{}<｜end▁of▁sentence｜>",) * 2,
    "deepseekv3": ("{}<｜end▁of▁sentence｜>",) * 2,
    "diffusion_gemma": GEMMA4,
    "gemma": ("{}<end_of_turn>\n",) * 2,
    "gemma3": ("{}<end_of_turn>\n",) * 2,
    "gemma4": GEMMA4,
    "gemma4_v2": GEMMA4,
    "gemma4_v3": GEMMA4,
    "gemma4_v4": GEMMA4,
    "gemma4_v5": GEMMA4,
    "glm4moe": ("\n<think></think>\n{}",) * 2,  # it has no end mark
    "gptoss": ("<|channel|>final<|message|>{}<|end|>", "<|channel|>final<|message|>{}<|return|>"),
    "idefics3": (" {}<end_of_utterance>\n",) * 2,
    "lfm2": CHATML,
    "lfm2_2_5": CHATML,
    "lfm2_2_5_v2": CHATML,
    "lfm2_2_5_vl": CHATML,
    "lfm2_v2": CHATML,
    "llama3": ("{}<|eot_id|>",) * 2,
    "llama3_1": ("{}<|eot_id|>",) * 2,
    "llama3_2": ("{}<|eot_id|>",) * 2,
    "llava_next": (" {}</s>", " {}</s> "),
    "muse_glimmer": (" to=user<|message|>{}<|eot|>",) * 2,
    "nemotron_3_5_lightning": ("</think>{}<|im_end|>\n",) * 2,  # a prompt ends with <think>
    "nemotron_3_nano": ("</think>{}<|im_end|>\n",) * 2,
    "nemotron_3_super": ("</think>{}<|im_end|>\n",) * 2,
    "nemotron_3_ultra": ("</think>{}<|im_end|>\n",) * 2,
    "phi3": ("{}<|end|>\n", "{}<|end|>\n<|im_end|>"),  # the tokenizer's end mark after the whole
    "phi3_5": ("{}<|end|>\n", "{}<|end|>\n<|im_end|>"),
    "qwen2_5": CHATML,
    "qwen2_5_vl": CHATML,
    "qwen3": EMPTY_THOUGHTS,
    "qwen3_5_nothink": EMPTY_THOUGHTS,
    "qwen3_5_think": EMPTY_THOUGHTS,
    "qwen3_6": EMPTY_THOUGHTS,
    "qwen3_8": ("</think>\n\n{}<|im_end|>\n",) * 2,  # a prompt ends with <think>
    "qwen3_instruct_2507": CHATML,
    "qwen3_vl": CHATML,
    "smolvlm": (" {}<end_of_utterance>\n",) * 2,
}
"""What is learned of two answers: the text after the prompt, up to and with the end mark."""


@pytest.fixture(scope="module")
def family() -> PreTrainedTokenizerBase:
    """The packaged model's tokenizer, with the special tokens of all families."""
    tokenizer = smollm2_tokenizer()
    marks = sorted({mark for text in TEMPLATES.values() for mark in SPECIAL.findall(text)})
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks], special_tokens=True)
    return tokenizer


@pytest.fixture
def learned(family: PreTrainedTokenizerBase, request: pytest.FixtureRequest) -> Any:
    """Gives the texts that are learned of a row, under the template that the test names."""
    family.chat_template = TEMPLATES[request.getfixturevalue("name")]
    encoder = Encoder(family, TODAY)

    def texts(row: dict[str, Any]) -> list[str]:
        return answers(family, encoder.encode(read_row(row)))

    return texts


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def squeezed(text: str) -> str:
    return "".join(text.split())


TWO = chat(("user", "Ask me."), ("assistant", "First of all"), ("user", "Again."), ("assistant", "And last"))


def test_the_table_has_every_template() -> None:
    assert sorted(LEARNED) == ORIGINAL


@pytest.mark.parametrize("name", ORIGINAL)
def test_answers_and_their_end_marks_are_learned(learned: Any, name: str) -> None:
    expected = [form.format(text) for form, text in zip(LEARNED[name], ("First of all", "And last"), strict=True)]
    assert learned(TWO) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_the_rendering(family: PreTrainedTokenizerBase, name: str) -> None:
    """As transformers renders it, tokenised whole, with no second begin mark; `strftime_now` aside."""
    family.chat_template = re.sub(r"strftime_now\(([^)]*)\)", "'31 Jan 2025'", TEMPLATES[name])
    encoded = Encoder(family, TODAY).encode(read_row(TWO))
    messages: Any = TWO["messages"]
    if name.split("_")[0] in ("idefics3", "smolvlm", "llava"):
        messages = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in messages]
    text = family.apply_chat_template(messages, tokenize=False, date_string="31 Jan 2025")
    assert encoded.ids == family(text, add_special_tokens=False)["input_ids"]
    assert family.decode(encoded.ids) == text
    assert encoded.ids.count(family.bos_token_id) == text.count(family.bos_token)


@pytest.mark.parametrize("name", MARKED)
def test_a_template_that_marks_the_answers_is_believed(
    family: PreTrainedTokenizerBase, learned: Any, name: str
) -> None:
    messages: Any = TWO["messages"]
    if name.split("_")[0] in ("idefics3", "smolvlm", "llava"):
        messages = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in messages]
    masked = family.apply_chat_template(
        messages, return_assistant_tokens_mask=True, return_dict=True, date_string="31 Jan 2025"
    )
    theirs = [t for t, mask in zip(masked["input_ids"], masked["assistant_masks"], strict=True) if mask]
    assert "".join(learned(TWO)).strip() == family.decode(theirs).strip()


@pytest.mark.parametrize("name", ORIGINAL)
def test_an_empty_answer_is_its_end_mark(learned: Any, name: str) -> None:
    row = chat(("user", "Ask me."), ("assistant", ""), ("user", "Again."), ("assistant", "And last"))
    if name == "glm4moe":  # leaves out a line feed before an empty answer, and has no end mark to learn
        with pytest.raises(BadRowError, match="the model's chat template changes message 1, or what stands around it"):
            learned(row)
        return
    assert learned(row) == [form.format(text) for form, text in zip(LEARNED[name], ("", "And last"), strict=True)]


@pytest.mark.parametrize("name", ORIGINAL)
def test_a_conversation_may_begin_with_the_assistant(learned: Any, name: str) -> None:
    row = chat(("assistant", "First of all"), ("user", "Again."), ("assistant", "And last"))
    if name in ("cohere", "cohere2", "gemma", "gemma3", "llava_next"):  # they want turns to alternate
        with pytest.raises(BadRowError, match="the model's chat template"):
            learned(row)
        return
    expected = [form.format(text) for form, text in zip(LEARNED[name], ("First of all", "And last"), strict=True)]
    assert learned(row) == expected


@pytest.mark.parametrize("name", ORIGINAL)
def test_white_space_is_kept_or_counted(family: PreTrainedTokenizerBase, name: str) -> None:
    family.chat_template = TEMPLATES[name]
    row = chat(("user", " Ask me. \n"), ("assistant", "\n4 "))
    encoded = Encoder(family, TODAY).encode(read_row(row))
    [answer] = answers(family, encoded)
    kept = LEARNED[name][1].format("\n4 ")
    assert answer == kept or (encoded.rewritten and squeezed(answer) == squeezed(kept))
    whole = family.decode(encoded.ids)
    assert (" Ask me. \n" in whole and answer == kept) != encoded.rewritten


CALL = {
    "tools": [{"name": "weather", "description": "of a city", "parameters": {"type": "object", "properties": {}}}],
    "messages": [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": {"city": "Oslo"}}]},
        {"role": "tool", "content": "It does."},
        {"role": "assistant", "content": "Yes."},
    ],
}
WITHOUT_TOOLS = {
    "cohere", "cohere2", "deepseek_r1_distill", "deepseekv3", "gemma", "gemma3", "idefics3", "lfm2", "llama3",
    "llava_next", "phi3", "phi3_5", "qwen2_5_vl", "smolvlm",
}  # fmt: skip


@pytest.mark.parametrize("name", ORIGINAL)
def test_tool_calls_are_rendered_or_refused(learned: Any, name: str) -> None:
    if name in WITHOUT_TOOLS:
        with pytest.raises(BadRowError, match=r"the model's chat template (leaves|does not take)"):
            learned(CALL)
        return
    call, answer = learned(CALL)
    assert "weather" in call and "Oslo" in call and "Rain?" not in call and "It does." not in call
    assert squeezed(answer) == squeezed(LEARNED[name][1].format("Yes."))


@pytest.mark.parametrize("name", ORIGINAL)
def test_tools_that_a_template_leaves_out_are_refused(learned: Any, name: str) -> None:
    row = {**chat(("user", "Rain?"), ("assistant", "Yes.")), "tools": CALL["tools"]}
    if name in WITHOUT_TOOLS - {"lfm2"}:
        with pytest.raises(BadRowError, match="leaves the tools out"):
            learned(row)
    else:
        assert len(learned(row)) == 1


THOUGHT = "<think>\nHm {}.\n</think>\n\nYes {}."


@pytest.mark.parametrize("name", ORIGINAL)
def test_earlier_thoughts_that_a_template_leaves_out_are_counted(family: PreTrainedTokenizerBase, name: str) -> None:
    family.chat_template = TEMPLATES[name]
    turns = [
        ("user", "A?"), ("assistant", THOUGHT.format(1, 1)), ("user", "B?"), ("assistant", THOUGHT.format(2, 2)),
    ]  # fmt: skip
    if name.startswith("deepseek"):  # of the last turn, too
        with pytest.raises(BadRowError, match=r"leaves out the thoughts of message 4 \(role assistant\)"):
            Encoder(family, TODAY).encode(read_row(chat(*turns)))
        return
    encoded = Encoder(family, TODAY).encode(read_row(chat(*turns)))
    first, last = answers(family, encoded)
    assert "Yes 1." in first and "Hm 2." in last and "Yes 2." in last
    assert ("Hm 1." in first) != encoded.rewritten


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think"])
def test_forms_of_thoughts(learned: Any, name: str) -> None:
    for content in ("<think>Hm.</think>Yes.", "Hm.</think>Yes.", "<think>\nHm.\n</think>\n\n\nYes."):
        assert learned(chat(("user", "A?"), ("assistant", content))) == ["<think>\nHm.\n</think>\n\nYes.<|im_end|>\n"]
    row = {"messages": [{"role": "user", "content": "A?"},
                        {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}]}  # fmt: skip
    assert learned(row) == ["<think>\nHm.\n</think>\n\nYes.<|im_end|>\n"]
    with pytest.raises(BadRowError, match=r"leaves out text or a tool call of message 2 \(role assistant\)"):
        learned(chat(("user", "A?"), ("assistant", "Well. <think>Hm.</think>Yes.")))


@pytest.mark.parametrize("name", ["llama3_2", "gptoss", "llama3_1", "muse_glimmer"])
def test_a_template_is_told_the_date_of_the_configuration(family: PreTrainedTokenizerBase, name: str) -> None:
    family.chat_template = TEMPLATES[name]
    text, _ = ChatTemplate(family, TODAY).render(TWO["messages"])
    assert "31 Jan 2025" in text or "2025-01-31" in text


@pytest.mark.parametrize("name", sorted(set(ORIGINAL) - WITHOUT_TOOLS))
def test_several_calls_in_a_turn_and_several_turns_of_calls(learned: Any, name: str) -> None:
    calls = [{"name": "weather", "arguments": {"city": city}} for city in ("Oslo", "Rome")]
    row = {
        "tools": CALL["tools"],
        "messages": [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": "I look.", "tool_calls": calls[:1] if name.startswith("llama") else calls},
            {"role": "tool", "content": "It does."},
            {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": {"city": "Riga"}}]},
            {"role": "tool", "content": "It does not."},
            {"role": "assistant", "content": "Here and there."},
            {"role": "user", "content": "Thanks."},
            {"role": "assistant", "content": "Yes."},
        ],
    }
    try:
        texts = learned(row)
    except BadRowError as bad:  # some take one call a turn, or no text beside it
        assert name.startswith(("llama", "gptoss", "gemma4", "muse", "diffusion")) and "chat template" in str(bad)
        return
    whole = "".join(texts)
    for said in ("I look.", "Oslo", "Rome", "Riga", "Here and there.", "Yes."):
        assert whole.count(said) == 1, said
    for heard in ("Rain?", "It does", "Thanks."):
        assert heard not in whole


@pytest.mark.parametrize("name", ORIGINAL)
def test_every_format_gives_the_same_ids_and_labels(family: PreTrainedTokenizerBase, name: str) -> None:
    family.chat_template = TEMPLATES[name]
    encoder = Encoder(family, TODAY)
    [(question, answer)] = questions(1, 1)
    first, *others = (encoder.encode(read_row(form(question, answer))) for form in FORMATS.values())
    assert others == [first] * (len(FORMATS) - 1)
    assert answers(family, first) == [LEARNED[name][1].format(answer)]
