"""Which members of a logical host train in the same batch: a pure function of their sizes and a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence


def cohorts(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Pack jobs so that a cohort's largest job times its number of jobs stays within the budget.

    Jobs of similar size go together, since a stacked cohort pads all jobs to its largest.

    Args:
        sizes: tokens of each job's largest step.
        budget: tokens of a cohort's step; a job above it gets a cohort of its own.

    Returns:
        Indices into `sizes`, each once; ascending within a cohort, and cohorts ascending by their first index.
    """
    packed: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda job: (-sizes[job], job)):
        if packed and sizes[packed[-1][0]] * (len(packed[-1]) + 1) <= budget:
            packed[-1].append(index)
        else:
            packed.append([index])
    return sorted(sorted(cohort) for cohort in packed)
