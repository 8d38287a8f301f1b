"""Where the marketplace keeps what it writes, unless other places are named."""

from __future__ import annotations

from pathlib import Path

DEFAULT_URL = "sqlite:///outputs/market/ledger.db"
"""Ledger of `flock-ray serve`, `flock-ray key` and `flock-ray usage`."""

DEFAULT_FOLDER = Path("outputs/market/batches")
"""Folder of settled batches, and the journal of what settles them."""
