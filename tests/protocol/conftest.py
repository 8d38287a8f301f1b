from __future__ import annotations

from hypothesis import settings

settings.load_profile("tests")  # anew: that of the chain's tests would still hold
