"""Replays a run from its signed messages without trusting whoever ran it, and names the first claim that fails.

A second implementation on purpose, written from `protocol`'s rules and not from its code: it computes seeds, seats,
scores, money, leaves and report again, so that a mistake on one side shows as a difference. It shares only the schemas
with the rest: messages, ballots, terms, hashing, canonical JSON. A test forbids more.
"""
