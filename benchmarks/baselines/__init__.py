"""The contracts that are only measured: other designs than ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from benchmarks.common import ROOT
from flock_ray.chain.abi import Contract


def compile_contracts(*names: str) -> dict[str, Contract]:
    """Contracts of this folder, by name, as the project's compiler makes them; needs node."""
    settings = {
        "evmVersion": "prague",
        "optimizer": {"enabled": True, "runs": 1_000_000},
        "outputSelection": {"*": {"*": ["abi", "evm.bytecode.object"]}},
    }
    sources = {name: {"content": Path(__file__).with_name(f"{name}.sol").read_text()} for name in names}
    asked = json.dumps({"language": "Solidity", "sources": sources, "settings": settings})
    command = [str(ROOT / "contracts" / "tools" / "solc"), "--standard-json"]
    output = json.loads(subprocess.run(command, input=asked, capture_output=True, text=True, check=True).stdout)
    made = {name: output["contracts"][name][name] for name in names}
    return {
        name: Contract(name, {"abi": m["abi"], "bytecode": m["evm"]["bytecode"]["object"]}) for name, m in made.items()
    }
