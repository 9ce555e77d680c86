"""Ollama: what its server reads from the environment, for all models alike.

Read at fb307609 (2026-08-21, ``envconfig/config.go``). The context is that of one request: Ollama multiplies it by
``OLLAMA_NUM_PARALLEL`` itself. A cache type takes effect with flash attention alone.
"""

from __future__ import annotations

import shlex

from kvplan.core.errors import UnsupportedError
from kvplan.core.launch import Launch, LaunchPlan
from kvplan.core.launch_text import cache_word, refuse_missing

TARGET = "ollama"
ENGINES = ("ollama",)

_WORDS = {"fp16": "f16"}
_TYPES = ("f16", "q8_0", "q4_0")
_KNOWN = ("max_model_len", "max_num_seqs", "prefix_caching", "pp")


def launch(plan: LaunchPlan) -> Launch:
    """``ollama serve`` with its environment.

    Raises UnsupportedError where the plan asks for what Ollama has no variable for.
    """
    refuse_missing("Ollama", plan, _KNOWN)
    if plan.prefix_caching is False:
        raise UnsupportedError("Ollama always reuses the prompt before (prefix_caching)", "leave it out of the plan")
    pieces = {_WORDS.get(piece, piece) for piece in (cache_word(plan) or "f16").split("/")}
    if len(pieces) > 1 or not pieces <= set(_TYPES):
        raise UnsupportedError(f"Ollama has no cache type {plan.cache_word!r}", f"it has {', '.join(_TYPES)}")
    (word,) = pieces
    environment = {} if word == "f16" else {"OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_KV_CACHE_TYPE": word}
    if plan.max_model_len is not None:
        environment["OLLAMA_CONTEXT_LENGTH"] = str(plan.max_model_len)
    if plan.max_num_seqs is not None:
        environment["OLLAMA_NUM_PARALLEL"] = str(plan.max_num_seqs)
    return Launch(
        target=TARGET,
        argv=("ollama", "serve"),
        environment=environment,
        notes=(
            "the variables are the server's: set them for its service where it runs as one",
            f"then: {shlex.join(('ollama', 'run', plan.model))}",
        ),
    )
