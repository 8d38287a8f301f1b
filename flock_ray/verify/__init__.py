"""Replays a run from its signed messages with no trust in whoever ran it, and names the first thing that does not hold.

Written a second time on purpose, from `protocol`'s rules and not from its code: seeds, seats, scores, money, leaves and
report are computed here once more, so that a mistake of one side shows as a difference. Shared with the rest are the
schemas alone: messages, ballots, terms, hashing, canonical JSON. A test forbids more.
"""
