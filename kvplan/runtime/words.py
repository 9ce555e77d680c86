"""kvplan's words (``int4``, ``h2o:keep=0.2``) as the choice that caches are built from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from kvplan.core.geometry import CacheChoice
from kvplan.formats import get_format, parse_kv_format
from kvplan.policies import get_policy


def parse_choice(
    kv_dtype: str = "auto",
    policy: str = "none",
    native: str = "bf16",
    *,
    native_layers: Iterable[int] = (),
    native_windows: bool = False,
) -> CacheChoice:
    """The formats and the policy that the words name; ``native`` is the dtype that the model computes in.

    ``native_layers`` and ``native_windows`` leave layers, or all windowed layers, in ``native``. Raises
    UnknownNameError or UsageError.
    """
    kv_format = replace(
        parse_kv_format(kv_dtype, native), native_layers=frozenset(native_layers), native_windows=native_windows
    )
    chosen = get_policy(policy)
    names: tuple[str, ...] = getattr(chosen, "format_names", ())
    return CacheChoice(kv_format=kv_format, policy=chosen, tier_formats={name: get_format(name) for name in names})
