"""Several processes: ``torchrun --nproc-per-node N -m kvplan verify --tp N`` has each rank allocate its own shard.

Ranks are numbered replica by replica, then stage by stage, as ``SizeResult.allocated_bytes_per_rank`` is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist

from kvplan.core.errors import KvplanError, UsageError
from kvplan.core.model import Model
from kvplan.core.parallel import Parallel
from kvplan.core.part import Part
from kvplan.core.units import cdiv
from kvplan.core.verification import Verification
from kvplan.runtime.verify.findings import named_lines


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One process of ``size``; ``local`` is its number on this host, and so its GPU."""

    index: int
    size: int
    local: int

    def device_word(self, word: str) -> str:
        """``cuda:N`` where a GPU is asked for, or found by ``auto``: each local rank has its own."""
        automatic = word.strip().lower() == "auto" and torch.cuda.is_available()
        return f"cuda:{self.local}" if automatic or word.strip().lower() == "cuda" else word

    def stage(self, parallel: Parallel) -> int:
        """The pipeline stage that the rank belongs to."""
        return self.index // parallel.tp % parallel.pp

    def groups(self, asked: Sequence[str]) -> tuple[str, ...]:
        """The groups of checks that the rank runs: model code, which knows no ranks, on the first alone.

        Raises UsageError for engines, which would start ranks of their own.
        """
        if "engine" in asked:
            raise UsageError("--against starts an engine of one rank", "run it without torchrun and --tp")
        return tuple(group for group in asked if group != "model code" or not self.index)

    def check(self, parallel: Parallel) -> None:
        """Raise UsageError where there are not as many processes as ranks."""
        wanted = parallel.tp * parallel.pp * parallel.dp
        if self.size != wanted:
            sizes = f"--tp {parallel.tp} x --pp {parallel.pp} x --dp {parallel.dp}"
            raise UsageError(
                f"{self.size} processes were started for the {wanted} ranks of {sizes}",
                f"torchrun --nproc-per-node {wanted} -m kvplan verify ...",
            )


def launched_rank(environment: Mapping[str, str] = os.environ) -> Rank | None:
    """The rank that torchrun gave this process; None where it was started alone."""
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    index = int(environment["RANK"])
    return Rank(index=index, size=int(environment["WORLD_SIZE"]), local=int(environment.get("LOCAL_RANK", str(index))))


@contextmanager
def process_group(device: torch.device, timeout: timedelta | None = None) -> Iterator[None]:
    """All ranks, joined by NCCL on GPUs and by Gloo elsewhere, while the block runs.

    ``timeout`` is how long one may wait for the others; None: torch's own, of half an hour and less.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


def verify_on_all(rank: Rank, device: torch.device, verify: Callable[[], Verification]) -> Verification:
    """What all ranks found, on each of them; checks and skipped lines carry the rank. Run inside ``process_group``.

    Ranks that share the host's memory take turns, so that none counts on what another takes. A KvplanError of any
    rank is raised on all.
    """
    mine: Verification | KvplanError | None = None
    for turn in range(rank.size if device.type != "cuda" else 1):
        if device.type == "cuda" or turn == rank.index:
            mine = _guarded(verify)
        if device.type != "cuda":
            dist.barrier()
    found: list[Verification | KvplanError] = [mine] * rank.size  # type: ignore[list-item]
    dist.all_gather_object(found, mine)
    for index, entry in enumerate(found):
        if isinstance(entry, KvplanError):
            raise _plain(entry, f"rank {index}: ")
    return _merged([entry for entry in found if isinstance(entry, Verification)])


def _guarded(verify: Callable[[], Verification]) -> Verification | KvplanError:
    """An error that travels: some kinds cannot be unpickled, and a rank that raised would leave the others waiting."""
    try:
        return verify()
    except KvplanError as error:
        return _plain(error)


def _plain(error: KvplanError, before: str = "") -> KvplanError:
    """The error without its class: with its words, ``before`` them, and its exit code."""
    plain = KvplanError(before + error.message, error.hint)
    plain.code, plain.exit_code = error.code, error.exit_code
    return plain


def _merged(found: list[Verification]) -> Verification:
    first = found[0]
    elsewhere = [
        f"{rank_words(index)} ran on {entry.device.name}"
        for index, entry in enumerate(found)
        if entry.device.name != first.device.name
    ]
    return replace(
        first,
        checks=tuple(
            replace(check, subject=rank_words(index)) for index, entry in enumerate(found) for check in entry.checks
        ),
        skipped=named_lines([(rank_words(index), entry.skipped) for index, entry in enumerate(found)]),
        notes=(*named_lines([(rank_words(index), entry.notes) for index, entry in enumerate(found)]), *elsewhere),
    )


def rank_words(index: int) -> str:
    """A rank as a check's subject."""
    return f"rank {index}"


def held_words(model: Model, parallel: Parallel, index: int) -> str:
    """What a rank holds of each part of the model: its heads, or that it has a copy of all."""
    position = index % parallel.tp // parallel.dcp
    parts = (part for layer in model.architecture.layers for kind in layer for part in kind.parts())
    named: dict[str, list[str]] = {}
    for part in dict.fromkeys(Part(name=p.name, num_heads=p.num_heads, width=1, sharded=p.sharded) for p in parts):
        named.setdefault(_share_words(part, position, parallel.head_ranks), []).append(part.name)
    return "; ".join(f"{' and '.join(names)} {words}" for words, names in named.items())


def _share_words(part: Part, position: int, ranks: int) -> str:
    if not part.sharded:
        return "whole, as on every rank"
    heads = held_heads(part.num_heads, position, ranks)
    if part.num_heads < ranks:
        return f"head {heads.start} of {part.num_heads}, a copy"
    each = cdiv(part.num_heads, ranks)
    counted = "" if len(heads) == each else f", counted as {each}"
    if not heads:
        return f"no head of {part.num_heads}{counted}"
    listed = f"heads {heads.start}-{heads.stop - 1}" if len(heads) > 1 else f"head {heads.start}"
    return f"{listed} of {part.num_heads}{counted}"


def held_heads(num_heads: int, position: int, ranks: int) -> range:
    """The heads of one of ``ranks`` tensor-parallel ranks; fewer heads than ranks are copied to several."""
    if num_heads < ranks:
        head = position * num_heads // ranks
        return range(head, head + 1)
    each = cdiv(num_heads, ranks)
    return range(min(position * each, num_heads), min((position + 1) * each, num_heads))
