"""kvplan: a planner and calculator for the memory of the KV cache of large language models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvplan.core.request import SizeResult

__version__ = "0.1.0"
__all__ = ["__version__", "size"]


def size(
    model: str,
    ctx: str | int,
    *,
    concurrency: int = 1,
    kv_dtype: str = "auto",
    policy: str = "none",
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    dcp: int = 1,
    weights: str | None = None,
    engine: str = "none",
    gpu: str | None = None,
    kv_memory: str | None = None,
    max_model_len: str | int | None = None,
    max_num_batched_tokens: str | int | None = None,
) -> SizeResult:
    """The KV cache of a model at a context, in words like those of ``kvplan size``: all bytes are ints.

    Raises a subclass of ``kvplan.core.errors.KvplanError`` for what the command line would refuse. To size many
    combinations fast, see ``kvplan.planning.sweep``.
    """
    from kvplan.core.parallel import Parallel
    from kvplan.engines import get_engine
    from kvplan.planning.request import RequestWords, build_request
    from kvplan.planning.settings import SettingWords, read_settings
    from kvplan.planning.size import choose_weight_format, size_model
    from kvplan.specs.reference import resolve_model

    found = resolve_model(model)
    parallel = Parallel(tp=tp, pp=pp, dp=dp, dcp=dcp)
    settings = SettingWords(
        gpu=gpu,
        kv_memory=kv_memory,
        max_model_len=None if max_model_len is None else str(max_model_len),
        max_num_batched_tokens=None if max_num_batched_tokens is None else str(max_num_batched_tokens),
    )
    words = RequestWords(
        concurrency=concurrency,
        kv_dtype=kv_dtype,
        policy=policy,
        parallel=parallel,
        settings=read_settings(settings),
    )
    chosen = get_engine(engine)
    return size_model(found, build_request(found, ctx, words, chosen), chosen, choose_weight_format(found, weights))
