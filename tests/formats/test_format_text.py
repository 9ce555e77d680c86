"""What ``--kv-dtype`` takes, and how it refuses."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import pytest

from kvplan.core.errors import UnknownNameError, UsageError
from kvplan.formats import get_format, parse_kv_format


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("fp8", "fp8_e4m3"),
        ("int8", "int8_per_token_head"),
        ("int4", "int4_per_token_head"),
        ("bfloat16", "bf16"),
        ("float16", "fp16"),
        ("f16", "fp16"),
        ("INT8-per-token-head", "int8_per_token_head"),
        ("kivi4", "kivi:bits=4"),
        ("kivi2", "kivi"),
        ("int2", "int_group:bits=2"),
        ("int_group:8,group=32", "int_group:bits=8,group=32"),
    ],
)
def test_a_name_becomes_one_canonical_text(alias: str, name: str) -> None:
    assert get_format(alias).name == name


@pytest.mark.parametrize("text", ["auto", "fp16", "float16", "AUTO"])
def test_auto_is_the_dtype_of_the_model(text: str) -> None:
    kv_format = parse_kv_format(text, "fp16")
    assert kv_format.key == kv_format.value == kv_format.native == get_format("fp16")
    assert kv_format.nominal_ratio == 1


def test_a_pair_stores_keys_and_values_apart() -> None:
    kv_format = parse_kv_format("q8_0/q4_0", "fp16")
    assert (kv_format.key.name, kv_format.value.name) == ("q8_0", "q4_0")
    assert kv_format.name == "q8_0/q4_0"
    assert kv_format.nominal_ratio == Fraction(32, 12)


def test_a_turboquant_preset_says_half_bits_where_keys_and_values_differ() -> None:
    assert get_format("turboquant_k3v4_nc").nominal_bits == Fraction(7, 2)


@pytest.mark.parametrize(
    ("text", "near"),
    [("int3", "int4"), ("mxpf4", "mxfp4"), ("turboquant_k8v3", "turboquant_k8v4"), ("fp8_e4m4", "fp8_e4m3")],
)
def test_an_unknown_name_is_answered_with_near_ones(text: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        parse_kv_format(text, "bf16")
    assert near in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "neither one format nor a pair"),
        ("q8_0/", "neither one format nor a pair"),
        ("q8_0/q4_0/q4_0", "neither one format nor a pair"),
        ("bf16:bits=8", "no option 'bits'"),
        ("bf16:8", "at most 0 values"),
        ("kivi:bits=9", "bits must be one of"),
        ("hqq:bits=3", "1, 2, 4, 8"),
        ("kivi2:bits=4", "sets bits itself"),
        ("kivi:colour=red", "no option 'colour'"),
        ("int_group:group=0", "group must be"),
        ("kivi:bits=2,bits=4", "bits twice"),
    ],
)
def test_a_malformed_format_is_a_usage_error(text: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        parse_kv_format(text, "bf16")


def test_an_exact_name_imports_its_own_file_only() -> None:
    probe = (
        "import sys; from kvplan.formats import parse_kv_format; parse_kv_format('int8_per_token_head', 'bf16');"
        "print(sorted(name for name in sys.modules if name.startswith('kvplan.formats.')))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['kvplan.formats.bf16', 'kvplan.formats.int8_per_token_head']"
