"""Codes in registers: from 16-bit units of a stored row to planes of 16-bit floats that tensor cores multiply.

A unit is two bytes of a row, so the loads, the shared memory and ``ldmatrix`` treat a quantized cache as a 16-bit one
that is 2 or 4 times narrower, transposed values included. The codes then become float16 without a conversion
instruction: or-ing a code into the mantissa of 1024.0 makes 1024 + code, and one subtraction, exact, leaves the code.
Two neighbouring units share a register, so each instruction makes two elements.

Plane by plane, unit ``u`` of a row of width D holds

==========  =====  ==============================================================
int8, fp8     2    elements 2u and 2u + 1
int4          4    elements 2u, 2u + D/2 (times 16), 2u + 1, 2u + 1 + D/2 (times 16)
native        1    element u
==========  =====  ==============================================================

An int8 plane is the code; an int4 plane the code minus 8; an fp8 plane the e4m3 value times 2**-8, which is its bits
moved into float16's exponent and mantissa.
"""

from __future__ import annotations

from kvplan.runtime.kernels.lang import jit, tl


@jit
def planes(units, KIND: tl.constexpr, ASSEMBLY: tl.constexpr) -> tl.tuple:
    """The planes of int16 ``units``, a tuple; ASSEMBLY makes two elements per instruction, with the same results."""
    if KIND == "int8":
        return _int8_assembly(units) if ASSEMBLY else _int8(units)
    elif KIND == "fp8":
        return _fp8_assembly(units) if ASSEMBLY else _fp8(units)
    elif KIND == "int4":
        return _int4_assembly(units) if ASSEMBLY else _int4(units)
    else:
        return (units,)


@jit
def raised_planes(units, KIND: tl.constexpr, ASSEMBLY: tl.constexpr) -> tl.tuple:
    """The planes of keys: int4 planes without the subtraction, each code (or code times 16) plus 1024, exactly.

    A score of such planes is too large by 1024 times the sum of the query's planes, whatever the key.
    """
    if KIND == "int4":
        return _raised_assembly(units) if ASSEMBLY else _raised(units)
    else:
        return planes(units, KIND, ASSEMBLY)


@jit
def _as_half(bits) -> tl.tensor:
    return bits.to(tl.int16).to(tl.float16, bitcast=True)


@jit
def _int8(units) -> tl.tuple:
    units = units.to(tl.int32)
    low = _as_half((units & 0xFF) ^ 0x6480) - 1152.0
    high = _as_half(((units >> 8) & 0xFF) ^ 0x6480) - 1152.0
    return low, high


@jit
def _fp8(units) -> tl.tuple:
    units = units.to(tl.int32)
    low = _as_half(((units << 7) & 0x3F80) | ((units << 8) & 0x8000))
    high = _as_half(((units >> 1) & 0x3F80) | (units & 0x8000))
    return low, high


@jit
def _int4(units) -> tl.tuple:
    units = units.to(tl.int32)
    upper = units >> 8
    first = _as_half((units & 0xF) | 0x6400) - 1032.0
    second = _as_half((units & 0xF0) | 0x6400) - 1152.0
    third = _as_half((upper & 0xF) | 0x6400) - 1032.0
    fourth = _as_half((upper & 0xF0) | 0x6400) - 1152.0
    return first, second, third, fourth


@jit
def _int8_assembly(units) -> tl.tuple:
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 high, magic;
        mov.b32 magic, 0x64806480;
        shr.b32 high, $2, 8;
        lop3.b32 $0, $2, 0x00ff00ff, magic, 0x6a;
        lop3.b32 $1, high, 0x00ff00ff, magic, 0x6a;
        sub.f16x2 $0, $0, magic;
        sub.f16x2 $1, $1, magic;
        }""",
        "=&r,=&r,r",
        [units],
        dtype=(tl.float16, tl.float16),
        is_pure=True,
        pack=2,
    )


@jit
def _fp8_assembly(units) -> tl.tuple:
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 moved, sign;
        shl.b32 moved, $2, 7;
        shl.b32 sign, $2, 8;
        and.b32 sign, sign, 0x80008000;
        lop3.b32 $0, moved, 0x3f803f80, sign, 0xea;
        shr.b32 moved, $2, 1;
        and.b32 sign, $2, 0x80008000;
        lop3.b32 $1, moved, 0x3f803f80, sign, 0xea;
        }""",
        "=&r,=&r,r",
        [units],
        dtype=(tl.float16, tl.float16),
        is_pure=True,
        pack=2,
    )


@jit
def _int4_assembly(units) -> tl.tuple:
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 upper, thousand, low, high;
        mov.b32 thousand, 0x64006400;
        mov.b32 low, 0x64086408;
        mov.b32 high, 0x64806480;
        shr.b32 upper, $4, 8;
        lop3.b32 $0, $4, 0x000f000f, thousand, 0xea;
        lop3.b32 $1, $4, 0x00f000f0, thousand, 0xea;
        lop3.b32 $2, upper, 0x000f000f, thousand, 0xea;
        lop3.b32 $3, upper, 0x00f000f0, thousand, 0xea;
        sub.f16x2 $0, $0, low;
        sub.f16x2 $1, $1, high;
        sub.f16x2 $2, $2, low;
        sub.f16x2 $3, $3, high;
        }""",
        "=&r,=&r,=&r,=&r,r",
        [units],
        dtype=(tl.float16, tl.float16, tl.float16, tl.float16),
        is_pure=True,
        pack=2,
    )


@jit
def _raised(units) -> tl.tuple:
    units = units.to(tl.int32)
    upper = units >> 8
    return (
        _as_half((units & 0xF) | 0x6400),
        _as_half((units & 0xF0) | 0x6400),
        _as_half((upper & 0xF) | 0x6400),
        _as_half((upper & 0xF0) | 0x6400),
    )


@jit
def _raised_assembly(units) -> tl.tuple:
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 upper, thousand;
        mov.b32 thousand, 0x64006400;
        shr.b32 upper, $4, 8;
        lop3.b32 $0, $4, 0x000f000f, thousand, 0xea;
        lop3.b32 $1, $4, 0x00f000f0, thousand, 0xea;
        lop3.b32 $2, upper, 0x000f000f, thousand, 0xea;
        lop3.b32 $3, upper, 0x00f000f0, thousand, 0xea;
        }""",
        "=&r,=&r,=&r,=&r,r",
        [units],
        dtype=(tl.float16, tl.float16, tl.float16, tl.float16),
        is_pure=True,
        pack=2,
    )
