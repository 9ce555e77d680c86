"""The methods that are compared, as words: a cache format, a policy, both joined by ``+``, or ``none``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from kvplan import formats, policies
from kvplan.core.errors import UnknownNameError, UsageError
from kvplan.core.evaluation import BASELINE
from kvplan.core.policy import describe_policy
from kvplan.core.registry import modules, split_call
from kvplan.formats import get_format
from kvplan.policies import get_policy
from kvplan.runtime.selectors import selector_of
from kvplan.runtime.transformers_cache import CompressedCache

_EXAMPLE = "write int8, h2o:keep=0.5 or int8+snapkv:keep=0.5, for example"
_NATIVE = "auto"
_CONTINUES = re.compile(r"[^:+]*=|[\d./%]+[kKmM]?(\+|$)")
"""A piece of a list that goes on with the options of the piece before: ``sinks=4``, ``rest=int4``, or a bare number."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to keep a cache: ``kv_dtype`` as ``--kv-dtype`` takes it, ``policy`` as ``--policy`` does.

    Both are canonical, so that equal methods have equal ``text``, whatever alias they were asked for by.
    """

    kv_dtype: str = _NATIVE
    policy: str = "none"

    @property
    def text(self) -> str:
        """The words that name it, which ``parse_method`` reads: ``none`` for the baseline."""
        words = [self.kv_dtype if self.kv_dtype != _NATIVE else "", self.policy if self.policy != "none" else ""]
        return "+".join(filter(None, words)) or BASELINE

    @property
    def is_baseline(self) -> bool:
        """Whether nothing is compressed."""
        return self.text == BASELINE

    @property
    def takes_batches(self) -> bool:
        """Whether what one sequence keeps is the same whoever is beside it in a batch: not so under a threshold."""
        policy = get_policy(self.policy)
        return selector_of(policy).least_score(policy) == -inf

    def new_cache(self, config: Any, native: str) -> CompressedCache:
        """An empty cache for a model with this config; what is not compressed is stored as ``native`` (``bf16``).

        Raises UnsupportedError where the model's layers cannot be stored so.
        """
        return CompressedCache.from_words(config, self.kv_dtype, self.policy, native)


def parse_method(text: str) -> Method:
    """The method of ``int8``, ``q8_0/q4_0``, ``h2o:keep=0.5``, ``int8+h2o:keep=0.5`` or ``none``.

    Raises UnknownNameError with near misses among formats and policies, and UsageError on options that make no sense.
    """
    method, given = Method(), set()
    for word in text.split("+"):
        kind = _kind(word, text)
        if kind in given:
            raise UsageError(
                f"method {text.strip()!r} names two {kind}", f"a format and a policy can be joined; {_EXAMPLE}"
            )
        given.add(kind)
        if kind == "policies":
            method = replace(method, policy=describe_policy(get_policy(word)))
        else:
            method = replace(method, kv_dtype=_canonical_format(word))
    return method


def parse_methods(words: str | Iterable[str]) -> tuple[Method, ...]:
    """The methods of a list with commas (or of several such lists), each once, in their order.

    Options have commas of their own: ``int8,window:256,sinks=4,h2o`` are three methods. Raises as ``parse_method``.
    """
    return tuple(named_methods(words))


def named_methods(words: str | Iterable[str]) -> dict[Method, str]:
    """The same, each with the words that first asked for it, which are shorter than its ``text``: ``int8``."""
    lists = [words] if isinstance(words, str) else words
    pieces = [piece for one in lists for piece in _split(one)]
    if not pieces:
        raise UsageError("no method is named", _EXAMPLE)
    found: dict[Method, str] = {}
    for piece in pieces:
        found.setdefault(parse_method(piece), piece)
    return found


def _split(words: str) -> list[str]:
    pieces: list[str] = []
    for piece in (piece.strip() for piece in words.split(",")):
        if pieces and _CONTINUES.match(piece):
            pieces[-1] += f",{piece}"
        elif piece:
            pieces.append(piece)
    return pieces


def _kind(word: str, text: str) -> str:
    """``formats`` or ``policies``, by the name. Raises UnknownNameError or UsageError."""
    known_policies = [name for module in modules(policies.__name__) for name in policies.names_of(module)]
    known_formats = [name for module in modules(formats.__name__) for name in formats.names_of(module)]
    names = [split_call(half, "method")[0] for half in word.split("/")] if ":" not in word else [_head(word)]
    if not all(names):
        raise UsageError(f"method {text.strip()!r} lacks a name", _EXAMPLE)
    if len(names) == 1 and names[0] in known_policies:
        return "policies"
    for name in names:
        if name not in known_formats and name != _NATIVE:
            raise UnknownNameError("compression method", name, [*known_formats, *known_policies])
    return "formats"


def _head(word: str) -> str:
    return split_call(word.partition(":")[0], "method")[0]


def _canonical_format(word: str) -> str:
    halves = word.split("/")
    if len(halves) > 2:
        raise UsageError(f"cache format {word.strip()!r} is neither one format nor a pair K/V", _EXAMPLE)
    names = [_NATIVE if half.strip().lower() == _NATIVE else get_format(half).name for half in halves]
    return names[0] if len(set(names)) == 1 else "/".join(names)
