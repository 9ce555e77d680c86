"""Tensors on a device: allocated, measured by the device's own figures, written, read back and given back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from kvplan.core.errors import UnsupportedError
from kvplan.core.units import MIB
from kvplan.runtime.verify.stored_tensors import TensorShape
from kvplan.runtime.verify.torch_allocator import PoolBytes

_CHUNK_BYTES = 32 * MIB
"""Read back at once: comparing takes as many bytes again."""

_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Settings that change the allocator's rules."""


def allocate(tensor: TensorShape, device: torch.device) -> Tensor:
    """A tensor of that shape, not written yet.

    Raises UnsupportedError for a dtype that the device does not have, and whatever torch raises without memory.
    """
    try:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    except (TypeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        words = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
        reason = (str(error).splitlines() or [""])[0]
        raise UnsupportedError(f"{device.type} cannot hold {words}: {reason}", "verify on cuda or cpu") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch says that there was no memory; on a CPU and on Apple's GPUs its words alone tell."""
    words = str(error)
    return isinstance(error, torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(said in words for said in ("can't allocate memory", "not enough memory", "out of memory"))
    )


def pool_bytes(device: torch.device) -> PoolBytes:
    """What torch's allocator for a CUDA device holds now."""
    stats = torch.cuda.memory_stats(device)
    return PoolBytes(
        requested_bytes=stats["requested_bytes.all.current"],
        allocated_bytes=stats["allocated_bytes.all.current"],
        reserved_bytes=stats["reserved_bytes.all.current"],
    )


def held_bytes(tensors: Iterable[Tensor], device: torch.device) -> int:
    """What tensors have requested: on CUDA all that live there, by the allocator; else by their own storages."""
    if device.type == "cuda":
        return pool_bytes(device).requested_bytes
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def unpredictable(device: torch.device) -> str | None:
    """Why the allocator's rounding cannot be predicted; None where it can. Ask after ``release``."""
    if device.type != "cuda":
        return "only CUDA's allocator tells what it rounds to"
    if torch.cuda.get_allocator_backend() != "native":
        return f"the allocator is {torch.cuda.get_allocator_backend()}, not torch's own"
    if found := [name for name in _SETTINGS if os.environ.get(name)]:
        return f"{found[0]} changes torch's allocator"
    if torch.cuda.memory_stats(device)["inactive_split_bytes.all.current"]:
        return "blocks of other tensors are still cached"
    return None


def write_pattern(tensors: Sequence[Tensor]) -> None:
    """Fill each tensor with a byte of its own."""
    for index, tensor in enumerate(tensors):
        _bytes_of(tensor).fill_(_byte(index))


def count_pattern(tensors: Sequence[Tensor]) -> int:
    """Bytes that still hold what ``write_pattern`` wrote; fewer than all where tensors overlap or memory is bad."""
    return sum(
        int(torch.count_nonzero(chunk == _byte(index)))
        for index, tensor in enumerate(tensors)
        for chunk in _bytes_of(tensor).split(_CHUNK_BYTES)
    )


def _byte(index: int) -> int:
    """1 to 251: a prime, so that tensors of repeating layers rarely share one."""
    return 1 + index % 251


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.flatten().view(torch.uint8)


def holds_tensors(shapes: Iterable[TensorShape], device: torch.device) -> bool:
    """Whether all of them are allocated at once; they are given back either way."""
    held: list[Tensor] = []
    try:
        for shape in shapes:
            held.append(allocate(shape, device))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        held.clear()
    return True
