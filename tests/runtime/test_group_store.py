"""Groups behind a residual window: bytes, error bounds, and one store however the rows arrive."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")

from codec_laws import normal_rows  # noqa: E402
from torch import Tensor  # noqa: E402

from kvplan.core.errors import UnsupportedError  # noqa: E402
from kvplan.core.format import GroupFormat  # noqa: E402
from kvplan.core.part import Part  # noqa: E402
from kvplan.formats import get_format  # noqa: E402
from kvplan.runtime.codec import nbytes  # noqa: E402
from kvplan.runtime.group_codecs import group_codec  # noqa: E402
from kvplan.runtime.group_store import GroupStore  # noqa: E402
from kvplan.runtime.hadamard import transform  # noqa: E402
from kvplan.runtime.packing import unpack  # noqa: E402

PLAIN = (
    "int_group", "int8_group", "int2", "int_group:bits=3,group=4", "int_group:bits=5,group=3,residual=7",
    "int_group:bits=7,group=16,residual=1", "kivi", "kivi4", "kivi:bits=3,group=8,residual=16",
    "kivi:group=16,residual=0", "kivi:bits=1,group=4,residual=8", "quanto", "quanto2", "quanto:residual=127",
)  # fmt: skip
HQQ = ("hqq1", "hqq4", "hqq8")
EXL3 = ("exl3_2", "exl3_3", "exl3", "exl3_5", "exl3_8")
FORMATS = (*PLAIN, *HQQ, *EXL3)
SHAPES = ((1, 1, 64), (2, 3, 128), (1, 8, 12))
"""(batch, heads, width); the last suits groups of 3, 4 and 12, and exl3's of 32 over its 96 elements."""
LENGTHS = (0, 1, 128, 261)


def holds(name: str, part: str, shape: tuple[int, int, int]) -> bool:
    try:
        get_format(name).check(Part(name=part, num_heads=shape[1], width=shape[2]))
    except UnsupportedError:
        return False
    return True


CASES = [case for case in itertools.product(FORMATS, ("key", "value"), SHAPES) if holds(*case)]
CASES += [(name, "rope", (1, 8, 12)) for name in EXL3]


def group_format(name: str) -> GroupFormat:
    found = get_format(name)
    assert isinstance(found, GroupFormat)
    return found


def rows_of(batch: int, heads: int, tokens: int, width: int, seed: int = 0) -> Tensor:
    return normal_rows(width, tokens=tokens, batch=batch, heads=heads, seed=seed).to(torch.bfloat16)


def filled(name: str, part: str, rows: Tensor) -> GroupStore:
    store = GroupStore(group_format(name), part, rows.shape[3])
    store.append(rows)
    return store


def price(name: str, part: str, rows: Tensor, tokens: int) -> int:
    described = Part(name=part, num_heads=rows.shape[1], width=rows.shape[3])
    return rows.shape[0] * get_format(name).stored_bytes(described, tokens)


def same(one: GroupStore, other: GroupStore) -> bool:
    mine, theirs = one.tensors(), other.tensors()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def owns_its_memory(store: GroupStore) -> bool:
    return all(held.untyped_storage().nbytes() == nbytes({"": held}) for held in store.tensors().values())


@pytest.mark.parametrize(("name", "part", "shape"), CASES)
def test_bytes_are_the_price_and_nothing_else_is_held(name: str, part: str, shape: tuple[int, int, int]) -> None:
    for tokens in LENGTHS:
        rows = rows_of(shape[0], shape[1], tokens, shape[2])
        store = filled(name, part, rows)
        assert nbytes(store.tensors()) == price(name, part, rows, tokens)
        assert owns_its_memory(store)
        assert store.num_tokens == tokens
        assert store.read(torch.float32).shape == rows.shape


@pytest.mark.parametrize(("name", "part", "shape"), CASES)
def test_chunks_of_any_size_give_the_store_of_a_single_append(
    name: str, part: str, shape: tuple[int, int, int]
) -> None:
    rows = rows_of(shape[0], shape[1], 150, shape[2])
    whole = filled(name, part, rows)
    for sizes in ([17] * 8 + [14], [140] + [1] * 10, [1, 149], [64, 64, 22]):
        store = GroupStore(group_format(name), part, shape[2])
        for chunk in rows.split(sizes, dim=2):
            store.append(chunk)
        assert same(store, whole)
        assert owns_its_memory(store)


@pytest.mark.parametrize(("name", "part", "shape"), CASES)
def test_a_pruned_store_takes_the_price_of_what_is_left(name: str, part: str, shape: tuple[int, int, int]) -> None:
    rows = rows_of(shape[0], shape[1], 150, shape[2])
    for kept in (1, 20, 140, 150):
        store = filled(name, part, rows)
        store.keep(chosen_tokens(rows, kept))
        assert nbytes(store.tensors()) == price(name, part, rows, kept)
        assert owns_its_memory(store)
        assert store.num_tokens == kept


def chosen_tokens(rows: Tensor, kept: int) -> Tensor:
    """Other tokens for each head, ascending."""
    scores = torch.rand(rows.shape[:3], generator=torch.Generator().manual_seed(3))
    return scores.argsort(dim=-1)[..., :kept].sort(dim=-1).values


def gathered(rows: Tensor, index: Tensor) -> Tensor:
    return rows.gather(2, index[..., None].expand(*index.shape, rows.shape[3]))


@pytest.mark.parametrize("name", ["int_group", "int2", "quanto", "hqq4", "exl3", "exl3_3"])
def test_groups_along_rows_keep_their_codes_when_others_go(name: str) -> None:
    rows = rows_of(2, 3, 150, 64)
    store = filled(name, "key", rows)
    before, index = store.read(torch.float32), chosen_tokens(rows, 99)
    store.keep(index)
    assert torch.equal(store.read(torch.float32), gathered(before, index))


@pytest.mark.parametrize("name", ["kivi:residual=32", "int_group:bits=5,group=8,residual=32"])
def test_rows_that_leave_the_residual_by_pruning_are_quantized_from_the_originals(name: str) -> None:
    """Only rows that the smaller residual takes back out of the quantized ones were rounded before."""
    rows = rows_of(1, 1, 200, 64)
    residual = group_format(name).residual
    store = filled(name, "value", rows)
    before = store.read(torch.float32)
    index = torch.cat([torch.arange(0, 60), torch.arange(200 - residual, 200 - residual // 2)])[None, None]
    store.keep(index)
    quantized = index.shape[2] - residual
    fresh = filled(name, "value", torch.cat([rows, rows_of(1, 1, residual, 64)], dim=2)).read(torch.float32)[:, :, :200]
    after = store.read(torch.float32)
    staying, waiting = index[0, 0, :quantized], index[0, 0, quantized:]
    assert torch.equal(after[:, :, :quantized], fresh[:, :, staying])
    assert torch.equal(after[:, :, quantized:], before[:, :, waiting].to(torch.bfloat16).float())


def test_groups_along_tokens_are_encoded_anew_from_decoded_rows() -> None:
    rows = rows_of(2, 2, 300, 64)
    store = filled("kivi4", "key", rows)
    before, index = store.read(torch.bfloat16), chosen_tokens(rows, 200)
    store.keep(index)
    assert same(store, filled("kivi4", "key", gathered(before, index)))


def test_keeping_everything_changes_no_group_along_rows() -> None:
    rows = rows_of(2, 2, 200, 64)
    for name in ("int_group:bits=3,residual=10", "hqq4", "exl3_5"):
        store = filled(name, "value", rows)
        store.keep(torch.arange(200).expand(2, 2, 200))
        assert same(store, filled(name, "value", rows))


@pytest.mark.parametrize("name", FORMATS)
def test_sequences_are_selected_with_everything_that_is_theirs(name: str) -> None:
    rows = rows_of(3, 8, 150, 192)
    store = filled(name, "value", rows)
    store.select_sequences(torch.tensor([2, 0, 0, 1]))
    assert same(store, filled(name, "value", rows[[2, 0, 0, 1]]))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("part", ["key", "value"])
def test_an_error_is_at_most_half_a_scale_and_the_rounding_of_the_scale(bits: int, part: str) -> None:
    rows = rows_of(2, 2, 64, 64)
    rows[..., ::8] += 20
    store = filled(f"kivi:bits={bits},group=16,residual=0", part, rows)
    scale = store.tensors()["scale"].float()
    spread = scale.repeat_interleave(16, dim=2 if part == "key" else 3)
    bound = spread * (0.5 + ((1 << bits) - 1) * 2.0**-9)
    assert ((store.read(torch.float32) - rows.float()).abs() <= bound * 1.0001).all()


@pytest.mark.parametrize("bits", range(2, 9))
def test_exl3_errs_by_at_most_half_a_cell_after_its_transform(bits: int) -> None:
    rows = rows_of(2, 2, 16, 64)
    error = filled(f"exl3_{bits}", "key", rows).read(torch.float32) - rows.float()
    transformed = transform(rows.float(), block=32).unflatten(-1, (2, 32))
    cell = transformed.abs().amax(-1, keepdim=True) / (1 << (bits - 1))
    assert (transform(error, block=32).unflatten(-1, (2, 32)).abs() <= cell * (0.5 + 2.0**-11 * 2**bits)).all()


@pytest.mark.parametrize("name", ["int_group:bits={}", "kivi:bits={}", "exl3_{}"])
@pytest.mark.parametrize("part", ["key", "value"])
def test_more_bits_are_never_worse(name: str, part: str) -> None:
    rows = rows_of(1, 2, 256, 64)
    rows[..., ::8] += 10
    errors = [
        float((filled(name.format(bits), part, rows).read(torch.float32) - rows.float()).norm()) for bits in range(2, 9)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 30


def test_hqq_beats_plain_groups_of_the_same_size_and_more_bits_are_better() -> None:
    rows = rows_of(1, 2, 64, 128)
    errors = [
        float((filled(f"hqq{bits}", "key", rows).read(torch.float32) - rows.float()).norm()) for bits in (1, 2, 4, 8)
    ]
    plain = [
        float((filled(f"int_group:bits={bits}", "key", rows).read(torch.float32) - rows.float()).norm())
        for bits in (1, 2, 4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert all(error < 0.98 * other for error, other in zip(errors, plain))


@pytest.mark.parametrize("name", [*PLAIN, *HQQ])
@pytest.mark.parametrize("value", [0.0, 3.3, -40.0, 1e-6, 6e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_constant_groups_are_exact(name: str, value: float, dtype: torch.dtype) -> None:
    rows = torch.full((1, 2, 128, 192), value, dtype=dtype)
    for part in ("key", "value"):
        assert torch.equal(filled(name, part, rows).read(dtype), rows)


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_are_exact(name: str) -> None:
    rows = torch.zeros(1, 2, 128, 192, dtype=torch.bfloat16)
    assert torch.equal(filled(name, "key", rows).read(torch.float32), rows.float())


@pytest.mark.parametrize("name", ["int_group", "int2", "quanto", *HQQ, *EXL3])
def test_nan_is_zero_and_infinity_the_largest_of_its_row(name: str) -> None:
    damaged = rows_of(1, 2, 64, 192)
    damaged[..., 5], damaged[..., 6], damaged[..., 7] = float("nan"), float("inf"), float("-inf")
    largest = damaged[..., 8:].abs().amax(-1).maximum(damaged[..., :5].abs().amax(-1))
    mended = damaged.clone()
    mended[..., 5], mended[..., 6], mended[..., 7] = 0, largest, -largest
    assert same(filled(name, "key", damaged), filled(name, "key", mended))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("part", ["key", "value"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_quantized_is_always_finite(name: str, part: str, dtype: torch.dtype) -> None:
    values = torch.tensor([float("nan"), float("inf"), -3.3e38, 3.3e38, 65504.0, 1e-40, 6e-8, -1e5])
    rows = values[torch.arange(64 * 192) % 8].reshape(1, 1, 64, 192).roll(1, dims=2)
    rows = torch.cat([rows, values.repeat_interleave(24).expand(1, 1, 192, 192)], dim=2).to(dtype)
    store = filled(name, part, rows)
    quantized = group_format(name).quantized_rows(Part(name=part, num_heads=1, width=192), rows.shape[2])
    for wanted in (torch.float32, torch.float16, torch.bfloat16):
        assert store.read(wanted)[:, :, :quantized].isfinite().all()


def test_kivi_quantizes_keys_by_channel_in_whole_residuals_and_values_one_by_one() -> None:
    """KIVI ``quant/new_pack.py``: minimum and (maximum - minimum) / 3 of 32 tokens, or of 32 neighbours in a row."""
    rows = rows_of(1, 1, 300, 64)
    key, value = filled("kivi", "key", rows).tensors(), filled("kivi", "value", rows).tensors()
    assert torch.equal(key["residual"], rows[:, :, 256:])
    assert torch.equal(value["residual"], rows[:, :, 172:])
    assert key["scale"].shape == (1, 1, 8, 64)
    assert value["scale"].shape == (1, 1, 172, 2)
    assert torch.equal(key["minimum"][0, 0, 3], rows[0, 0, 96:128].amin(0))
    assert torch.equal(value["minimum"][0, 0, 100, 1], rows[0, 0, 100, 32:].amin())
    group = rows[0, 0, 96:128, 7].float()
    scale = ((group.amax() - group.amin()) / 3).bfloat16().float()
    codes = unpack(key["codes"], 2, 64)[0, 0, 96:128, 7]
    assert torch.equal(codes.float(), ((group - group.amin()) / scale).round().clamp(0, 3))


def test_rows_that_do_not_end_on_a_byte_share_their_last_bytes() -> None:
    """12 codes of 3 bits are 36 bits a row: 150 rows take 675 bytes, not 750."""
    store = filled("int_group:bits=3,group=4", "value", rows_of(1, 1, 150, 12))
    assert nbytes({"codes": store.tensors()["codes"]}) == 675


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16), (torch.float32, torch.bfloat16)],
)
def test_scales_and_residual_have_the_models_dtype_of_two_bytes(dtype: torch.dtype, scale: torch.dtype) -> None:
    tensors = filled("kivi", "value", normal_rows(64, tokens=200).to(dtype)).tensors()
    assert {tensors[name].dtype for name in ("scale", "minimum", "residual")} == {scale}


def test_exl3_scales_are_float16_and_rotary_keys_stay_as_they_are() -> None:
    rows = rows_of(2, 8, 20, 12)
    assert filled("exl3", "key", rows).tensors()["scale"].dtype == torch.float16
    assert torch.equal(filled("exl3", "rope", rows).read(torch.bfloat16), rows)
    assert filled("exl3", "rope", rows).tensors().keys() == {"residual"}


def test_exl3_codes_are_the_cells_of_its_kernel() -> None:
    """1.6.5 ``q_cache_kernels.cuh``: floor(x / amax * 2**(bits-1) + 2**(bits-1)) of 32 transformed elements."""
    rows = rows_of(1, 2, 4, 64)
    tensors = filled("exl3", "key", rows).tensors()
    groups = transform(rows.float(), block=32).unflatten(-1, (2, 32))
    torch.testing.assert_close(tensors["scale"].float(), groups.abs().amax(-1), rtol=2**-11, atol=0)
    cells = (groups / tensors["scale"].float()[..., None] * 8 + 8).floor().clamp(0, 15).flatten(-2)
    assert torch.equal(unpack(tensors["codes"], 4, 64).float(), cells)


def test_rows_that_groups_do_not_divide_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="groups of 64 do not divide a value row of 80"):
        filled("int_group", "value", rows_of(1, 1, 4, 80))
    with pytest.raises(UnsupportedError, match="groups of 32 do not divide"):
        filled("exl3", "key", rows_of(1, 1, 4, 80))


def test_a_store_without_rows_holds_nothing_and_cannot_be_read() -> None:
    store = GroupStore(group_format("kivi"), "key", 64)
    assert store.tensors() == {}
    assert store.num_tokens == 0
    with pytest.raises(ValueError, match="nothing was appended"):
        store.read(torch.float32)


def test_a_group_format_without_code_is_named() -> None:
    unknown = GroupFormat(name="other:bits=2", summary="", bits=2, group=8, residual=0)
    with pytest.raises(LookupError, match="other has no codec"):
        group_codec(unknown, torch.bfloat16)
