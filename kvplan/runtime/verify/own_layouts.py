"""Layers whose cache an engine does not lay out as rows of heads: their bytes are the engine's rule and nothing else.

They are allocated as flat bytes, so that totals are real, but a shape built here could not prove the rule: the model's
own code (transformers) and the started engine do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from kvplan.core.attention import CompressedStream, HeadedKind, IndexKeys, Latent
from kvplan.core.engine import Allocation
from kvplan.core.format import GroupFormat, RowFormat
from kvplan.core.geometry import PlacedKind
from kvplan.core.model import Model
from kvplan.core.request import SizeRequest
from kvplan.engines.transformers.architectures import WHOLE_KV


class Planned(Protocol):
    """What is to be laid out: a SizeResult is one."""

    @property
    def model(self) -> Model:
        """The model."""
        ...

    @property
    def request(self) -> SizeRequest:
        """What was asked of it."""
        ...

    @property
    def engine(self) -> str:
        """The engine's name."""
        ...

    @property
    def allocation(self) -> Allocation:
        """What the engine allocates for the fullest replica."""
        ...


class Asked(NamedTuple):
    """One kind of a layer, in which answer, and how many kinds the rank holds."""

    item: PlacedKind
    plan: Planned
    num_kinds: int


_Rule = tuple[str, Callable[[Asked], bool]]


def _uneven_widths(asked: Asked) -> bool:
    kind = asked.item.kind
    return isinstance(kind, HeadedKind) and kind.v_head_dim not in (None, kind.head_dim)


def _has_row_scales(asked: Asked) -> bool:
    cache_format = asked.item.kv_format.key
    return isinstance(cache_format, RowFormat) and cache_format.scale_bytes > 0


def _narrow_heads_on_ranks(asked: Asked) -> bool:
    kind = asked.item.kind
    return asked.plan.request.parallel.tp > 1 and isinstance(kind, HeadedKind) and bool(kind.head_dim % 128)


EVERY_ENGINE: tuple[_Rule, ...] = (
    ("states in the engine's own columns and dtypes", lambda asked: bool(asked.item.kind.states())),
    (
        "rows in the engine's own dtype",
        lambda asked: (
            isinstance(asked.item.kind, (IndexKeys, CompressedStream))
            or (isinstance(asked.item.kind, Latent) and asked.item.kind.window_tokens is not None)
        ),
    ),
    ("tokens kept as the engine's policy keeps them", lambda asked: asked.plan.request.choice.policy.name != "none"),
    ("memory for a layer that stores nothing", lambda asked: not asked.item.kind.parts()),
)
"""Where no engine keeps rows as the model's geometry has them: the reason, and whether it holds."""

ENGINES: dict[str, tuple[_Rule, ...]] = {
    "vllm": (
        (
            "pages with scales, made equal among kinds of layers",
            lambda asked: _has_row_scales(asked) and (asked.num_kinds > 1 or _uneven_widths(asked)),
        ),
    ),
    "transformers": (
        ("KV heads repeated to all query heads", lambda asked: asked.plan.model.family == "falcon"),
        (
            "all KV heads on every rank",
            lambda asked: asked.plan.request.parallel.tp > 1 and asked.plan.model.family in WHOLE_KV,
        ),
        ("packed tensors of its quantized cache", lambda asked: isinstance(asked.item.kv_format.key, GroupFormat)),
    ),
    "exllamav3": (
        ("a fixed number of slots for windows", lambda asked: asked.item.kind.window_tokens is not None),
        ("values as wide as keys", _uneven_widths),
        ("heads dealt to ranks in units of 128 channels", _narrow_heads_on_ranks),
    ),
    "mlx": (("latents kept as keys and values", lambda asked: isinstance(asked.item.kind, Latent)),),
}
"""The same for one engine, beside those of every engine."""


def own_layout(asked: Asked) -> str | None:
    """Why an engine's bytes of a layer are not rows of heads; None where they are. Plain geometry is always rows."""
    if asked.plan.engine == "none":
        return None
    rules = (*EVERY_ENGINE, *ENGINES.get(asked.plan.engine, ()))
    return next((reason for reason, holds in rules if holds(asked)), None)
