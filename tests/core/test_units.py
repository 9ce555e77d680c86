from __future__ import annotations

from fractions import Fraction

import pytest

from kvplan.core.errors import UsageError
from kvplan.core.units import format_bytes, format_tokens, parse_bytes, parse_ratio, parse_tokens, round_up


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("128k", 131072),
        ("128K", 131072),
        ("1M", 1048576),
        ("128000", 128000),
        ("131,072", 131072),
        ("1.5k", 1536),
        ("32Ki", 32768),
    ],
)
def test_token_counts_are_binary_with_a_unit_and_themselves_without(text: str, tokens: int) -> None:
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "-1", "0", "12x", "1.3", "k", "1e6", "9" * 30, "128 000 k", "0x10", "١٢"])
def test_what_is_no_token_count_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_tokens(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("40GiB", 42949672960), ("80GB", 80 * 10**9), ("512 MiB", 536870912), ("1024", 1024), ("0.5GiB", 536870912)],
)
def test_gib_is_binary_and_gb_is_decimal(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "40 cows", "-1GiB", "0"])
def test_what_is_no_memory_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_bytes(text)


def test_ratios_are_exact() -> None:
    assert parse_ratio("0.2") * 10 == 2
    assert parse_ratio("20%") == Fraction(1, 5)


@pytest.mark.parametrize("text", ["0", "1.1", "-0.5", "x", "1/0", ""])
def test_what_is_no_ratio_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ratio(text)


def test_bytes_are_printed_in_binary_units() -> None:
    assert format_bytes(42949672960) == "40.00 GiB"
    assert format_bytes(327680) == "320.00 KiB"
    assert format_bytes(70272) == "68.62 KiB"
    assert format_bytes(2112) == "2,112 B"


def test_tokens_are_printed_as_people_say_them() -> None:
    assert [format_tokens(count) for count in (131072, 1048576, 128000, 4096)] == ["128k", "1M", "125k", "4k"]


def test_round_up_reaches_the_next_multiple() -> None:
    assert [round_up(value, 16) for value in (0, 1, 16, 17)] == [0, 16, 16, 32]
