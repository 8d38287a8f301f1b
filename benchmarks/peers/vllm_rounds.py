"""vLLM's CPU build, serving many adapters over one base model, in turn; runs in the peer's environment.

`vllm_rounds.py CASE`: CASE is a JSON file with `model`, `dtype`, `threads`, `rank`, `adapters` (folders of PEFT's
layout), `users`, `length`, `answer` and `turns`: for each, requests as [prompt, number of the adapter]. All requests of
a turn are handed over at once, and vLLM answers as many at a time as there are users.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

CASE = json.loads(Path(sys.argv[1]).read_text())
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": str(CASE["threads"]),
}

from turns import Turns  # noqa: E402 - before vLLM, which prints
from vllm import LLM, SamplingParams  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402


def main() -> None:
    """Load, then play turn after turn."""
    turns, number = Turns(), len(CASE["adapters"])
    model = LLM(
        model=CASE["model"], dtype=CASE["dtype"], enforce_eager=True, max_model_len=CASE["length"],
        max_num_seqs=CASE["users"], enable_prefix_caching=False, seed=0, enable_lora=True,
        max_loras=min(number, CASE["users"]), max_cpu_loras=number, max_lora_rank=CASE["rank"],
    )  # fmt: skip
    adapters = [LoRARequest(f"a{at}", at + 1, folder) for at, folder in enumerate(CASE["adapters"])]
    how = SamplingParams(temperature=0, max_tokens=CASE["answer"], ignore_eos=True)

    def answer(asked: list[tuple[list[int], int]]) -> list[list[int]]:
        prompts = [{"prompt_token_ids": prompt} for prompt, _ in asked]
        wanted = [adapters[adapter] for _, adapter in asked]
        found = model.generate(prompts, how, lora_request=wanted, use_tqdm=False)
        return [list(one.outputs[0].token_ids) for one in found]

    answer([(CASE["turns"][0][0][0], at) for at in range(number)])  # loads every adapter
    turns.ready()
    for asked in CASE["turns"]:
        turns.begin()
        answers = answer(asked)
        turns.end(tokens=sum(map(len, answers)), answers=answers)


if __name__ == "__main__":
    main()
