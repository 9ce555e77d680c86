"""What a given memory holds: transformers has no blocks, so this is the size rule solved for tokens and sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kvplan.core.errors import DoesNotFitError
from kvplan.core.frozen import dataclass
from kvplan.core.search import last_true
from kvplan.core.units import format_bytes
from kvplan.engines.transformers.layers import CacheQuestion, Held, LayerCounts, group_layers, hold_layers


def held_bytes(held: Mapping[Held, int], sequences: int) -> int:
    """What one rank holds for all sequences."""
    return sum(count * (sequences * entry.sequence_bytes + entry.batch_bytes) for entry, count in held.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What ``memory_bytes`` of every rank hold of a cache."""

    question: CacheQuestion
    memory_bytes: int
    stages: tuple[LayerCounts, ...]

    def longest_context(self) -> int | None:
        """The longest context that all sequences can have at once; None where the cache stops growing."""
        sequences = self.question.request.sequences
        return last_true(lambda tokens: self._needed(tokens, sequences) <= self.memory_bytes)

    def most_sequences(self) -> int | None:
        """How many sequences of the longest length fit; None where they store nothing.

        Raises DoesNotFitError where not even one does.
        """
        length = self.question.request.max_model_len
        one = self._needed(length, 1)
        if one > self.memory_bytes:
            raise DoesNotFitError(
                f"one sequence of {length:,} tokens takes {format_bytes(one)} of {format_bytes(self.memory_bytes)}",
                "shorten --ctx or --max-model-len, or give more --kv-memory",
            )
        return last_true(lambda sequences: self._needed(length, sequences) <= self.memory_bytes)

    def _needed(self, tokens: int, sequences: int) -> int:
        """Bytes on the fullest rank for sequences of ``tokens`` tokens."""
        settings = replace(self.question.request.settings, max_model_len=tokens)
        request = replace(self.question.request, context_tokens=tokens, settings=settings)
        question = replace(self.question, request=request)
        return max(held_bytes(hold_layers(layers, question), sequences) for layers in self.stages)


def capacity_of(question: CacheQuestion, memory_bytes: int) -> Capacity:
    """The capacity of a memory; layers are grouped once for the whole search."""
    policy = question.request.choice.policy
    stages = tuple(group_layers(stage, policy) for stage in question.request.stages)
    return Capacity(question=question, memory_bytes=memory_bytes, stages=stages)
