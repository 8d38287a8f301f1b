"""What byzfl and Flower make of vectors: the figures that `tests/aggregation/test_peers.py` holds our rules to.

`python -m benchmarks.peers.robust_rules` installs both into an environment of their own, as `environments` does, and
writes `tests/data/robust_rules.json` anew. There it runs itself, with the cases on stdin: only then are they imported.

byzfl's Krum sums distances to n - f - 1 neighbours, where the paper and Flower take n - f - 2: it is asked with f + 1.
Of its Multi-Krum nothing is taken, since that would also choose one update less.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]

GOLDEN = Path(__file__).parents[2] / "tests" / "data" / "robust_rules.json"
SIZES = ((7, 1), (7, 2), (9, 3), (12, 4))  # n, f
_SIZE = 12


def cases() -> list[dict[str, Any]]:
    """Vectors on a grid that float32 and fixed point hold exactly, of which f are elsewhere, in three ways."""
    generator, made = np.random.default_rng(20), []
    for count, malicious in SIZES:
        honest = 0.2 + 0.3 * generator.normal(size=(count, _SIZE)) * generator.uniform(0.5, 1.5, size=(count, 1))
        which = generator.choice(count, malicious, replace=False)
        for sent in (None, -20.0, 0.4):
            vectors = honest.copy()
            if sent is not None:
                vectors[which] = sent + 0.05 * generator.normal(size=(malicious, _SIZE))
            made.append({"f": malicious, "vectors": (np.rint(vectors * 2**16) / 2**16).tolist()})
    return made


def results(vectors: Vectors, malicious: int) -> dict[str, list[float]]:
    """What each peer makes of the vectors, by `peer rule` or `peer pre-aggregation+rule`."""
    return {
        name: np.asarray(vector).tolist()
        for name, vector in (_byzfl(vectors, malicious) | _flower(vectors, malicious)).items()
    }


def _byzfl(vectors: Vectors, malicious: int) -> dict[str, Vectors]:
    from byzfl.aggregators import aggregators as byzfl
    from byzfl.aggregators import preaggregators as pre

    before: dict[str, Callable[[Vectors], Vectors]] = {
        "": lambda given: given,
        "nnm+": pre.NNM(malicious),
        "arc+": pre.ARC(malicious),
        "arc+nnm+": lambda given: pre.NNM(malicious)(pre.ARC(malicious)(given)),
    }
    found = {}
    for name, applied in before.items():
        seen = applied(vectors.copy())  # its clipping changes what it is given
        length = float(np.median(np.linalg.norm(seen, axis=1)))
        found[f"byzfl {name}geometric_median"] = byzfl.GeometricMedian(nu=1e-6 * length, T=32)(seen)
        found[f"byzfl {name}centered_clipping"] = byzfl.CenteredClipping(L=3, tau=length)(seen)
        if "nnm" not in name:  # equal mixtures are ties
            found[f"byzfl {name}krum"] = byzfl.Krum(malicious + 1)(seen)
    found["byzfl coordinate_median"] = byzfl.Median()(vectors)
    found["byzfl trimmed_mean"] = byzfl.TrMean(malicious)(vectors)
    return found


def _only_aggregators() -> None:
    """Have `byzfl` found without the benchmark that it imports: PyPI's torchvision is of another build of torch."""
    package, found = ModuleType("byzfl"), importlib.util.find_spec("byzfl")
    assert found is not None and found.submodule_search_locations is not None
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["byzfl"] = package


def _flower(vectors: Vectors, malicious: int) -> dict[str, Vectors]:
    from flwr.app import ArrayRecord, RecordDict
    from flwr.server.strategy.aggregate import aggregate_median, aggregate_trimmed_avg
    from flwr.serverapp.strategy.multikrum import select_multikrum

    contents = [RecordDict({"arrays": ArrayRecord([vector])}) for vector in vectors]
    results = [([vector], 1) for vector in vectors]

    def chosen(number: int) -> Vectors:
        kept = select_multikrum(contents, malicious, number)
        mean: Vectors = np.mean([one.array_records["arrays"].to_numpy_ndarrays()[0] for one in kept], axis=0)
        return mean

    return {
        "flower krum": chosen(1),
        "flower multi_krum": chosen(len(vectors) - malicious),
        "flower coordinate_median": aggregate_median(results)[0],
        "flower trimmed_mean": aggregate_trimmed_avg(results, (malicious + 0.5) / len(vectors))[0],
    }


def main() -> None:
    """Ask the peers, and write what they say."""
    from benchmarks.common import step
    from benchmarks.peers.environments import python_of

    python = python_of("robust_rules")
    with step("asking byzfl and Flower"):
        asked = json.dumps(cases())
        done = subprocess.run([python, __file__], input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: the peers do not answer: {done.stderr.strip().splitlines()[-1]}")
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(done.stdout)
    print(f"wrote {GOLDEN}")


if __name__ == "__main__":
    if __package__:
        main()
    else:
        _only_aggregators()
        given = [case | {"results": results(np.array(case["vectors"]), case["f"])} for case in json.load(sys.stdin)]
        print(json.dumps(given))
