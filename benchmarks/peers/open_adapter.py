"""Open an adapter folder with the PEFT of this environment, without a network, and print losses as one JSON object.

    python benchmarks/peers/open_adapter.py ADAPTER_DIR TEXT

It imports nothing of flock_ray: it runs in environments that have only PEFT and transformers, of any version.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"

import peft
import torch
import transformers

if __name__ == "__main__":
    folder, text = sys.argv[1:]
    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": text}]
    ids = tokenizer(text, return_tensors="pt").input_ids
    model = peft.AutoPeftModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    with torch.no_grad():
        adapted = model(input_ids=ids, labels=ids).loss.item()
        with model.disable_adapter():
            base = model(input_ids=ids, labels=ids).loss.item()
    found = {
        "peft": peft.__version__, "transformers": transformers.__version__, "base": base, "adapter": adapted,
        "ids": ids[0].tolist(), "chat": tokenizer.apply_chat_template(turns, tokenize=False),
    }  # fmt: skip
    print(json.dumps(found))
