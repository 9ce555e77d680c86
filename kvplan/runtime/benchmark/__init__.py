"""What ``python -m kvplan.runtime.bench`` measures, and how."""

from __future__ import annotations
