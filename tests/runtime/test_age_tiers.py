"""Age tiers: sizes as the policy says, every tier encoded from the original values, originals only in host memory."""

from __future__ import annotations

import pytest

from kvplan.core.errors import UnsupportedError
from kvplan.core.part import Part
from kvplan.core.policy import Place
from kvplan.formats import get_format
from kvplan.policies.tiers import AgeTiers, parse

pytest.importorskip("torch")
import torch
from torch import Tensor

from kvplan.runtime.age_tiers import AgeTierStore, WaitingRows
from kvplan.runtime.stores import build_store

WIDTH = 64
POLICY = parse("5=bf16,11=int8,rest=int4")
DROPPING = parse("5=bf16,11=int4,rest=drop")
GROUPS = parse("8=bf16,40=kivi4,rest=int2")


def store(policy: AgeTiers, limit: int | None = None, name: str = "key") -> AgeTierStore:
    part = Part(name=name, num_heads=2, width=WIDTH, limit_tokens=limit)
    return AgeTierStore(policy, part, lambda name: get_format(name or "fp8"))


def rows(tokens: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 2, tokens, WIDTH, generator=generator).bfloat16()


def encoded_once(name: str, original: Tensor) -> Tensor:
    """The original values after one trip through a format."""
    once = build_store(get_format(name), "key", WIDTH)
    once.append(original)
    return once.read(torch.bfloat16)


def fill(policy: AgeTiers, original: Tensor, steps: list[int], limit: int | None = None) -> AgeTierStore:
    filled, start = store(policy, limit), 0
    for tokens in steps:
        filled.append(original[:, :, start : start + tokens])
        start += tokens
    assert start == original.shape[2]
    return filled


@pytest.mark.parametrize("steps", [[40], [20, 20], [1] * 40, [3, 30, 1, 1, 5], [17, 1, 22]])
def test_every_token_is_encoded_once_from_its_original_whatever_the_steps(steps: list[int]) -> None:
    original = rows(40)
    read = fill(POLICY, original, steps).read(torch.bfloat16)
    expected = torch.cat(
        [
            encoded_once("int4", original[:, :, :24]),
            encoded_once("int8", original[:, :, 24:35]),
            original[:, :, 35:],
        ],
        dim=2,
    )
    assert torch.equal(read, expected)


def test_an_encoded_copy_would_have_given_other_values() -> None:
    """The law above can fail: int4 of int8 of the original differs from int4 of the original."""
    original = rows(40)
    assert not torch.equal(encoded_once("int4", encoded_once("int8", original)), encoded_once("int4", original))


@pytest.mark.parametrize("steps", [[100], [60, 1, 1, 38], [1] * 100])
def test_groups_along_tokens_are_those_of_the_tiers_own_tokens(steps: list[int]) -> None:
    """KIVI's keys group 32 tokens: the 40 tokens of the middle tier are encoded as if they were all there is."""
    original = rows(100)
    read = fill(GROUPS, original, steps).read(torch.bfloat16)
    assert torch.equal(read[:, :, 52:92], encoded_once("kivi4", original[:, :, 52:92]))
    assert torch.equal(read[:, :, :52], encoded_once("int2", original[:, :, :52]))


@pytest.mark.parametrize("policy", [POLICY, DROPPING, GROUPS])
def test_tiers_are_as_large_as_the_policy_says_after_every_step(policy: AgeTiers) -> None:
    grown = store(policy)
    for tokens in range(1, 60):
        grown.append(rows(1, seed=tokens))
        sizes = [tier.tokens for tier in policy.tiers(tokens, Place(0, 1))]
        assert grown.num_tokens == sum(sizes)
        assert [tier.num_tokens for tier in grown._tiers][: len(sizes)] == sizes


@pytest.mark.parametrize("steps", [[60], [30, 1, 29], [1] * 60])
def test_what_is_dropped_is_the_oldest(steps: list[int]) -> None:
    original = rows(60)
    read = fill(DROPPING, original, steps).read(torch.bfloat16)
    assert read.shape[2] == 16
    assert torch.equal(read[:, :, -5:], original[:, :, -5:])
    assert torch.equal(read[:, :, :11], encoded_once("int4", original[:, :, 44:55]))


@pytest.mark.parametrize("steps", [[60], [30, 1, 29], [1] * 60])
@pytest.mark.parametrize("last", ["int4", "kivi4"])
def test_a_window_ends_the_last_tier(steps: list[int], last: str) -> None:
    original = rows(60)
    read = fill(parse(f"5=bf16,rest={last}"), original, steps, limit=45).read(torch.bfloat16)
    assert read.shape[2] == 45
    assert torch.equal(read[:, :, :40], encoded_once(last, original[:, :, 15:55]))


def test_originals_wait_in_host_memory_until_the_last_tier() -> None:
    grown = store(POLICY)
    for step in range(200):
        grown.append(rows(1, seed=step))
        waiting = sum(tensor.shape[2] for tensor in grown.host_tensors().values())
        assert waiting == min(step + 1, 16)
    assert all(
        tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16 for tensor in grown.host_tensors().values()
    )


def test_a_long_prompt_leaves_no_more_in_host_memory_than_waits() -> None:
    filled = store(POLICY)
    filled.append(rows(500))
    assert [tensor.shape[2] for tensor in filled.host_tensors().values()] == [16]
    assert all(tensor.is_contiguous() and tensor._base is None for tensor in filled.host_tensors().values())


def test_host_memory_is_no_cache_memory() -> None:
    filled = store(POLICY)
    filled.append(rows(40))
    stored = sum(tensor.nbytes for tensor in filled.tensors().values())
    assert stored == 2 * 2 * (5 * 2 * WIDTH + 11 * (WIDTH + 4) + 24 * (WIDTH // 2 + 4))
    assert sum(tensor.nbytes for tensor in filled.host_tensors().values()) == 2 * 2 * 16 * 2 * WIDTH


def test_waiting_rows_waste_less_than_half_of_a_chunk() -> None:
    waiting = WaitingRows()
    for tokens in [100, 1, 1, 30, 1, 1, 1]:
        waiting.append(rows(tokens), 40)
        held = sum(tensor.shape[2] for tensor in waiting.tensors().values())
        assert 40 <= held < 80


def test_sequences_move_with_their_originals() -> None:
    original = rows(40)
    moved, plain = fill(POLICY, original, [40]), fill(POLICY, original[[1, 1, 0]], [40])
    moved.select_sequences(torch.tensor([1, 1, 0]))
    newer = rows(3, seed=9)[[0, 1, 0]]
    moved.append(newer)
    plain.append(newer)
    assert torch.equal(moved.read(torch.float32), plain.read(torch.float32))


def test_tokens_cannot_be_picked_from_tiers() -> None:
    filled = store(POLICY)
    filled.append(rows(8))
    with pytest.raises(UnsupportedError, match="drop tokens by age"):
        filled.keep(torch.zeros(2, 2, 1, dtype=torch.int64))
