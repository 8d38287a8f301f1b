"""Trackers: where a run's figures go while it runs, for tools that draw them."""
