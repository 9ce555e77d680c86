"""What mlx-lm's own caches hold after a prompt: its model classes, its caches, its ``generate_step``.

Run in an environment with ``mlx[cpu]`` and ``mlx-lm`` 0.32.2 (they need no kvplan)::

    python tests/parity/mlx_caches.py tests/assets/configs tests/vectors/mlx_0.32.json

MLX computes lazily: the graph of a whole model is built and nothing is evaluated, so models of any size cost neither
memory nor time, and the caches' ``nbytes`` follow from their shapes and dtypes. Weights are random in the config's
16-bit dtype, as ``mlx_lm.convert`` leaves them (``cast_predicate`` included). Each config runs in its own
process, which a limit of memory (``ulimit -v``) may guard.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import date
from importlib.metadata import version
from multiprocessing import TimeoutError, get_context
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_map_with_path
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import ArraysCache, make_prompt_cache
from mlx_lm.utils import _get_classes

CONTEXTS = (1, 300, 5001, 9000)
"""Prompts; 5001 is past ``--quantized-kv-start`` and no multiple of 256, 9000 ends in the middle of a chunk."""
STATE_CONTEXTS = (1, 300)
"""Recurrent layers build one graph node per token on the CPU, and their state does not grow."""
BITS = (None, 8, 4)
SECONDS = 240
WRAPPERS = {"minimax_m3": "minimax_m3_vl"}
"""Text models that mlx-lm has inside a multimodal one alone."""


def measure(path: Path) -> list[dict[str, object]]:
    """The rows of one config: bytes of every cache after each prompt, at each ``--kv-bits``, or why there are none."""
    mx.eval = mx.async_eval = lambda *arrays: None
    config = json.loads(path.read_text())
    model = build(config)
    contexts = STATE_CONTEXTS if has_states(model) else CONTEXTS
    return [
        {"config": path.stem, "context": context, "kv_bits": bits, **run(model, context, bits)}
        for context in contexts
        for bits in (BITS if context > 5000 else BITS[:1])
    ]


def build(config: dict[str, object]) -> object:
    """mlx-lm's model of a config, in its 16-bit dtype, with nothing evaluated."""
    if wrapper := WRAPPERS.get(str(config["model_type"])):
        config = {"model_type": wrapper, "text_config": config}
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    text = config.get("text_config") or config
    name = text.get("torch_dtype") or text.get("dtype") or config.get("torch_dtype") or config.get("dtype")
    dtype = mx.float16 if name == "float16" else mx.bfloat16
    cast = getattr(model, "cast_predicate", lambda key: True)
    model.update(tree_map_with_path(lambda key, leaf: leaf.astype(dtype) if cast(key) else leaf, model.parameters()))
    return model


def has_states(model: object) -> bool:
    """Whether a cache of the model is a recurrent state."""
    nested = [getattr(cache, "caches", (cache,)) for cache in make_prompt_cache(model)]
    return any(isinstance(cache, ArraysCache) for caches in nested for cache in caches)


def run(model: object, context: int, bits: int | None) -> dict[str, object]:
    """The caches after a prompt of ``context`` tokens, or the error that mlx-lm raises."""
    cache = make_prompt_cache(model)
    try:
        for _ in generate_step(mx.zeros((context,), mx.int32), model, max_tokens=0, prompt_cache=cache, kv_bits=bits):
            pass
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:160]}
    counts = Counter((type(entry).__name__, entry.nbytes) for entry in cache)
    return {
        "bytes": sum(entry.nbytes for entry in cache),
        "caches": [[name, nbytes, count] for (name, nbytes), count in counts.items()],
    }


def main(folder: str, written: str) -> None:
    """Measure every config of a folder and write the vectors."""
    rows = []
    for path in sorted(Path(folder).glob("*.json")):
        print(path.stem)
        with get_context("fork").Pool(1) as pool:
            try:
                rows += pool.apply_async(measure, (path,)).get(SECONDS)
            except TimeoutError:
                rows.append({"config": path.stem, "error": f"no answer in {SECONDS} seconds"})
            except Exception as error:
                rows.append({"config": path.stem, "error": f"{type(error).__name__}: {error}"[:160]})
    source = {"engine": f"mlx-lm {version('mlx-lm')}", "mlx": version("mlx"), "date": date.today().isoformat()}
    write(source, rows, Path(written))


def write(source: dict[str, str], rows: list[dict[str, object]], path: Path) -> None:
    """One row a line."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f'{{"source": {json.dumps(source)},\n"rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(*sys.argv[1:])
