"""Which members of a logical host train in one batch: a pure function of their sizes and a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence


def cohorts(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Pack jobs so that the largest of a cohort times their number stays within the budget.

    Jobs of similar size go together, since those of a stacked cohort are filled up to its largest.

    Args:
        sizes: tokens of each job's largest step.
        budget: tokens of a cohort's step; a job above it has a cohort of its own.

    Returns:
        Indices into `sizes`, each once; rising in every cohort, and cohorts by their first.
    """
    packed: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda job: (-sizes[job], job)):
        if packed and sizes[packed[-1][0]] * (len(packed[-1]) + 1) <= budget:
            packed[-1].append(index)
        else:
            packed.append([index])
    return sorted(sorted(cohort) for cohort in packed)
