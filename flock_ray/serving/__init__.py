"""Serving: many adapters over one resident base model, to many users at once; `engine.py` is the interface."""
