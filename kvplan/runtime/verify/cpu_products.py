"""Matrix products in fp32 on a CPU, whatever the dtype of the model: shapes and dtypes stay, and runs take seconds.

Most CPUs have no units for bf16 or fp16; torch then multiplies up to 80 times slower than in fp32 (measured with
torch 2.13 on an AMD EPYC with AVX2). What lands in a cache keeps the model's own dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_PRODUCTS = frozenset(
    {
        *(torch.nn.functional.linear, torch.nn.functional.scaled_dot_product_attention),
        *(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm, torch.mm),
        *(torch.baddbmm, torch.addmm),
        *(torch.einsum, torch.nn.functional.conv1d),
    }
)
_HALVES = (torch.bfloat16, torch.float16)
_MOST_WIDENED_BYTES = 2 << 30
"""What weights may take in fp32 beside themselves; those beyond it are widened at every step."""


def fast_products(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which products of 16-bit tensors run in fp32 and are rounded back; nothing changes off the CPU."""
    return _ProductsInFp32() if device.type == "cpu" else nullcontext()


class _ProductsInFp32(TorchFunctionMode):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self._weights: dict[int, tuple[torch.nn.Parameter, torch.Tensor]] = {}
        self._left_bytes = _MOST_WIDENED_BYTES

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _PRODUCTS:
            return func(*args, **kwargs)
        halves = [value.dtype for value in args if _is_half(value)]
        if not halves:
            return func(*args, **kwargs)
        wide = {name: self._widened(value) for name, value in kwargs.items()}
        return func(*map(self._widened, args), **wide).to(halves[0])

    def _widened(self, value: Any) -> Any:
        """In fp32, where it has 16 bits; weights are widened once, as every step multiplies by them."""
        if not _is_half(value):
            return value
        if not isinstance(value, torch.nn.Parameter):
            return value.float()
        if id(value) in self._weights:
            return self._weights[id(value)][1]
        wide = value.float()
        if wide.nbytes <= self._left_bytes:
            self._left_bytes -= wide.nbytes
            self._weights[id(value)] = value, wide
        return wide


def _is_half(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in _HALVES
