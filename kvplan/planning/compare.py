"""One model under every engine: what each would allocate, and what each refuses."""

from __future__ import annotations

from kvplan.core.errors import DoesNotFitError, KvplanError, UnsupportedError
from kvplan.core.frozen import dataclass
from kvplan.core.model import Model
from kvplan.core.request import SizeResult
from kvplan.core.weights import WeightFormat
from kvplan.engines import engine_names, get_engine
from kvplan.planning.request import RequestWords, build_request
from kvplan.planning.size import size_model


@dataclass(frozen=True, slots=True)
class Refusal:
    """An engine that cannot do what is asked of a model, and its words."""

    model: str
    engine: str
    version: str | None
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class EngineComparison:
    """The engines that can, the smallest allocation first, and those that cannot."""

    results: tuple[SizeResult, ...]
    refusals: tuple[Refusal, ...]


def compare_engines(
    model: Model, context: str | int, words: RequestWords, weight_format: WeightFormat | None = None
) -> EngineComparison:
    """Every engine's answer to one request; plain geometry is the first, since nothing can be smaller.

    Raises what ``build_request`` raises for words that make no sense for any engine, and the engines' own error where
    none of them can do what is asked.
    """
    results: list[SizeResult] = []
    refusals: list[Refusal] = []
    problems: list[KvplanError] = []
    for engine in map(get_engine, engine_names()):
        asked = words.for_geometry() if engine.name == "none" else words
        try:
            results.append(size_model(model, build_request(model, context, asked, engine), engine, weight_format))
        except (UnsupportedError, DoesNotFitError) as problem:
            problems.append(problem)
            refusals.append(Refusal(model.name, engine.name, engine.version, problem.message, problem.hint))
    if not any(result.engine != "none" for result in results):
        raise problems[0]
    results.sort(key=lambda result: (result.engine != "none", result.allocated_bytes, result.engine))
    return EngineComparison(tuple(results), tuple(refusals))
