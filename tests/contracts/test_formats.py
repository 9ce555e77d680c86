"""What every cache format must satisfy; a new file in ``kvplan/formats`` is held to it without an edit here."""

from __future__ import annotations

import math
from fractions import Fraction
from types import ModuleType

import pytest

from kvplan import formats
from kvplan.core.errors import UnsupportedError
from kvplan.core.format import CacheFormat, GroupFormat
from kvplan.core.part import Part
from kvplan.core.registry import modules
from kvplan.formats import format_names, get_format, names_of, parse_kv_format

PARTS = (
    Part(name="key", num_heads=8, width=128),
    Part(name="value", num_heads=8, width=128),
    Part(name="key", num_heads=2, width=64),
    Part(name="value", num_heads=1, width=256),
    Part(name="latent", num_heads=1, width=512, sharded=False),
    Part(name="latent", num_heads=1, width=448, sharded=False),
    Part(name="rope", num_heads=1, width=64, sharded=False),
    Part(name="index", num_heads=1, width=128, sharded=False),
)
NAMES = sorted({name for module in modules("kvplan.formats") for name in names_of(module)})


def holds(cache_format: CacheFormat, part: Part) -> bool:
    try:
        cache_format.check(part)
    except UnsupportedError:
        return False
    return True


def flush_rows(cache_format: CacheFormat) -> int:
    """Rows after which the residual window of keys per channel is in the same state again."""
    if isinstance(cache_format, GroupFormat) and cache_format.key_per_channel:
        return cache_format.residual or cache_format.group
    return 1


HELD = [
    pytest.param(get_format(name), part, id=f"{name}-{part.name}-{part.width}")
    for name in NAMES
    for part in PARTS
    if holds(get_format(name), part)
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_alias_and_preset_resolves_to_a_format_whose_own_name_round_trips(name: str) -> None:
    found = get_format(name)
    assert get_format(found.name) == found
    assert get_format(name.replace("_", "-").upper()) == found


def test_no_two_formats_share_a_name() -> None:
    names = [name for module in modules("kvplan.formats") for name in names_of(module)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("module", list(modules("kvplan.formats")), ids=lambda module: module.__name__)
def test_a_file_is_named_after_its_format_and_says_what_it_is(module: ModuleType) -> None:
    assert module.__name__.rsplit(".", 1)[1] == module.FORMAT.name
    assert module.FORMAT.summary
    assert len(module.__doc__.strip()) > 40


def test_the_registry_lists_every_file() -> None:
    assert format_names() == [module.FORMAT.name for module in modules(formats.__name__)]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_holds_some_part(name: str) -> None:
    assert any(holds(get_format(name), part) for part in PARTS)


@pytest.mark.parametrize(("cache_format", "part"), HELD)
def test_nothing_stored_takes_no_bytes_and_one_row_takes_some(cache_format: CacheFormat, part: Part) -> None:
    assert cache_format.stored_bytes(part, 0) == 0
    assert cache_format.stored_bytes(part, 1) > 0


@pytest.mark.parametrize(("cache_format", "part"), HELD)
def test_row_bytes_is_the_slope_of_stored_bytes(cache_format: CacheFormat, part: Part) -> None:
    start = getattr(cache_format, "residual", 0) + 1
    period = math.lcm(flush_rows(cache_format), getattr(cache_format, "group", 1))
    for rows in (start, start + 3 * period):
        step = cache_format.stored_bytes(part, rows + 8 * period) - cache_format.stored_bytes(part, rows)
        assert Fraction(step, 8 * period) == cache_format.row_bytes(part)


@pytest.mark.parametrize(("cache_format", "part"), HELD)
def test_more_rows_never_take_fewer_bytes(cache_format: CacheFormat, part: Part) -> None:
    step = flush_rows(cache_format)  # a flush shrinks the residual by design: compare equal states
    sizes = [cache_format.stored_bytes(part, rows) for rows in range(1, 700)]
    assert all(after >= before for before, after in zip(sizes, sizes[step:]))


@pytest.mark.parametrize(("cache_format", "part"), HELD)
def test_twice_the_heads_take_twice_the_payload(cache_format: CacheFormat, part: Part) -> None:
    once = cache_format.stored_bytes(part, 300) - getattr(cache_format, "tensor_bytes", 0)
    doubled = Part(name=part.name, num_heads=2 * part.num_heads, width=part.width)
    assert cache_format.stored_bytes(doubled, 300) - getattr(cache_format, "tensor_bytes", 0) == 2 * once
    assert cache_format.row_bytes(doubled) == 2 * cache_format.row_bytes(part)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_keys_and_values_together_never_take_fewer_bits_than_their_nominal_ones(name: str, head_dim: int) -> None:
    cache_format = get_format(name)
    parts = [Part(name=part, num_heads=1, width=head_dim) for part in ("key", "value")]
    if all(holds(cache_format, part) for part in parts):
        stored = sum(cache_format.row_bytes(part) for part in parts)
        assert 2 * head_dim * cache_format.nominal_bits <= 8 * stored


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_of_one_format_is_that_format(name: str) -> None:
    pair = parse_kv_format(f"{name}/{name}", "bf16")
    assert pair.key == pair.value
    assert pair.name == get_format(name).name
    assert hash(pair) == hash(parse_kv_format(name, "bf16"))
