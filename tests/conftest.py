from __future__ import annotations

from hypothesis import settings

# A slow machine is no failure, and the same examples everywhere make a failure repeatable.
settings.register_profile("kvplan", deadline=None, derandomize=True)
settings.load_profile("kvplan")
