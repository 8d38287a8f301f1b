from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from flock_ray.serving.spans import SLOT_COST, SPAN_COST, Span, spans

COUNTS = st.dictionaries(st.integers(0, 40), st.integers(1, 300), min_size=1, max_size=9).map(
    lambda found: sorted(found.items())
)


def cost(found: list[Span]) -> int:
    return sum(SPAN_COST + (span.last - span.first) * (span.most + SLOT_COST) for span in found)


def cut(used: list[tuple[int, int]], borders: tuple[int, ...]) -> list[Span]:
    edges = [0, *borders, len(used)]
    parts = [used[begin:end] for begin, end in pairwise(edges)]
    return [Span(part[0][0], part[-1][0] + 1, max(tokens for _, tokens in part), 0, 0) for part in parts]


@given(COUNTS)
def test_spans_cover_each_adapters_tokens_once_at_the_least_cost(counts: list[tuple[int, int]]) -> None:
    found = spans(counts)
    start = sum(tokens for slot, tokens in counts if slot == 0)
    for span in found:
        own = [tokens for slot, tokens in counts if span.first <= slot < span.last]
        assert (span.start, span.stop, span.most) == (start, start + sum(own), max(own))
        start = span.stop
    assert start == sum(tokens for _, tokens in counts)
    used = [(slot, tokens) for slot, tokens in counts if slot]
    assert all(one.last <= other.first for one, other in pairwise(found))
    if used:
        every = [cut(used, borders) for n in range(len(used)) for borders in combinations(range(1, len(used)), n)]
        assert cost(found) == min(map(cost, every))


def test_a_long_prompt_does_not_pad_its_neighbours() -> None:
    assert spans([(0, 4), (1, 1), (2, 1), (3, 1)]) == [Span(1, 4, 1, 4, 7)]
    assert spans([(1, 1), (2, 250), (3, 1)]) == [Span(1, 2, 1, 0, 1), Span(2, 3, 250, 1, 251), Span(3, 4, 1, 251, 252)]
    assert spans([(0, 8)]) == []
