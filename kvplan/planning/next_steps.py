"""What to try next after a size: the same request with a smaller cache, each with its own bytes."""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.engine import Engine
from kvplan.core.errors import KvplanError
from kvplan.core.frozen import dataclass
from kvplan.core.request import SizeRequest, SizeResult
from kvplan.planning.request import RequestWords, build_choice
from kvplan.planning.size import size_model


@dataclass(frozen=True, slots=True)
class NextStep:
    """An option to add to the command, what it would bring, and the bytes that all sequences would take."""

    option: str
    words: str
    cache_bytes: int


SMALLER_CACHES = (
    ("in 8 bits", ("fp8", "q8_0", "8bit")),
    ("in 4 bits", ("int4", "int4_per_token_head", "nvfp4", "q4_0", "quanto4", "4bit")),
)
"""What to try, by the words of different engines: the first that the engine has."""


def next_steps(result: SizeResult, engine: Engine) -> tuple[NextStep, ...]:
    """Smaller caches for a request that compresses nothing yet; empty where nothing would shrink."""
    if result.uncompressed_bytes != result.geometry_bytes:
        return ()
    steps = []
    for words, names in SMALLER_CACHES:
        step = next(filter(None, (_step(result, engine, name, words) for name in names)), None)
        if step is not None and step.cache_bytes < _bytes(result):
            steps.append(step)
    return tuple(steps)


def _step(result: SizeResult, engine: Engine, name: str, words: str) -> NextStep | None:
    request = result.request
    asked = RequestWords(kv_dtype=name, include_draft=request.include_draft, settings=request.settings)
    try:
        choice = replace(build_choice(result.model, asked, engine), policy=request.choice.policy)
        smaller: SizeRequest = replace(request, choice=choice)
        return NextStep(f"--kv-dtype {name}", words, _bytes(size_model(result.model, smaller, engine)))
    except KvplanError:
        return None


def _bytes(result: SizeResult) -> int:
    """The figure that the report leads with: geometry without an engine, else what the engine allocates."""
    return result.geometry_bytes if result.engine == "none" else result.allocated_bytes
