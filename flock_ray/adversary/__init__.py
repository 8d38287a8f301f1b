"""Dishonest behaviours as objects: each changes what a member sends or how it votes, in a few lines."""
