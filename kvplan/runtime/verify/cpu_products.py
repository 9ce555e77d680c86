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


def fast_products(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which products of 16-bit tensors run in fp32 and are rounded back; nothing changes off the CPU."""
    return _ProductsInFp32() if device.type == "cpu" else nullcontext()


class _ProductsInFp32(TorchFunctionMode):  # type: ignore[misc]
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _PRODUCTS:
            return func(*args, **kwargs)
        halves = [value.dtype for value in args if _is_half(value)]
        if not halves:
            return func(*args, **kwargs)
        wide = {name: _widened(value) for name, value in kwargs.items()}
        return func(*map(_widened, args), **wide).to(halves[0])


def _is_half(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in _HALVES


def _widened(value: Any) -> Any:
    return value.float() if _is_half(value) else value
