"""Values compare, hash and travel like the standard library's frozen dataclasses."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from kvplan.core.attention import FullAttention


def attention(**changed: int) -> FullAttention:
    return FullAttention(**{"num_kv_heads": 8, "head_dim": 128, **changed})


def test_equal_values_hash_alike_and_others_differ() -> None:
    assert {attention(), attention()} == {attention()}
    assert hash(attention()) == hash(attention())
    assert hash(attention()) != hash(attention(num_kv_heads=9))


def test_a_changed_copy_has_a_hash_of_its_own() -> None:
    one = attention()
    hash(one)
    changed = dataclasses.replace(one, num_kv_heads=9)
    assert changed != one
    assert hash(changed) == hash(attention(num_kv_heads=9))


def test_a_hash_does_not_travel() -> None:
    """Another process hashes otherwise, and a copy is compared by its fields alone."""
    one = attention()
    hash(one)
    assert set(one.__dict__) - set(copy.copy(one).__dict__) == {"_hash"}
    for made in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert (made, hash(made)) == (one, hash(one))
    assert repr(one) == repr(attention())
    assert dataclasses.asdict(one) == dataclasses.asdict(attention())


def test_values_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        attention().num_kv_heads = 9  # type: ignore[misc]
    with pytest.raises(TypeError, match="missing or unexpected"):
        attention(heads=8)
