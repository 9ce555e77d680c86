"""Triton's names, or stand-ins on a machine without it, so that kernels can be imported and read anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

tl: Any
jit: Callable[[Any], Any]

try:
    import triton
    import triton.language as _tl

    tl, jit = _tl, triton.jit
except ImportError:
    tl, jit = None, lambda function: function
