"""Triton kernels: rows in and out of their formats, and attention that reads them as they are stored.

Everything here has a twin in plain torch that gives the same values (``kvplan.runtime.codecs`` and the reference of
``kvplan.runtime.decode_attention``). Modules import without Triton, so only a caller that asked ``available`` may
launch. With ``TRITON_INTERPRET=1`` in the environment when they are first imported they run on the CPU, slowly, for
tests that call them directly.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch


def available(device: torch.device) -> bool:
    """Whether kernels run fast on tensors of this device: a CUDA or ROCm GPU, and Triton is installed."""
    return device.type == "cuda" and find_spec("triton") is not None
