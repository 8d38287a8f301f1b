"""Attacks as objects: each changes what a dishonest member sends or how it votes, in a few lines."""
