"""Run transformers' own model code on the meta device and keep what each layer of its cache holds.

    python tests/parity/transformers_models.py --configs DIR --out tests/vectors/transformers_5.23.json

No weights, no arithmetic: tensors have shapes and dtypes only, so a model of any size runs in a second. Bytes are those
of the distinct tensors that a cache layer holds, for one sequence in bf16.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache, StaticCache
from transformers.cache_utils import STATIC_LAYER_TYPE_MAPPING

from kvplan.runtime.meta_parameters import build_on_meta

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers")
INDEX_LISTS = ("attn_layer_indices", "cross_attention_layers", "full_attn_idxs", "kda_layers", "full_attn_layers")
STATED_DTYPES = ("torch_dtype", "dtype", "quantization_config", "compression_config")
STATIC_TOKENS = 8192
LETTERS = "abcdefghij"
NO_CACHE = ("cumulative", "sliding_window", "device")
"""Attributes of a cache layer that hold no rows."""


@dataclass
class Measured:
    """Bytes of each layer after a prompt, after one more token, and in a static cache; ``cross`` of the encoder's."""

    prompt: list[int] = field(default_factory=list)
    prompt_storage: int = 0
    decoded: list[int] = field(default_factory=list)
    decoded_storage: int = 0
    static: list[int] | None = None
    cross: list[int] = field(default_factory=list)
    modules: int = 0


def as_bf16(values: Mapping[str, Any], top: bool = True) -> dict[str, Any]:
    """The config with every dtype and every quantization removed, and bf16 put at the top."""
    kept = {name: as_bf16(value, top=False) if isinstance(value, dict) else value for name, value in values.items()}
    kept = {name: value for name, value in kept.items() if name not in STATED_DTYPES}
    return {**kept, "dtype": "bfloat16"} if top else kept


def cut_layers(values: Mapping[str, Any], most: int) -> dict[str, Any]:
    """The config with its first ``most`` layers: counts lowered, and lists of an entry per layer shortened."""
    values = {name: cut_layers(value, most) if isinstance(value, dict) else value for name, value in values.items()}
    for name in LAYER_COUNTS:
        layers = values.get(name)
        if not isinstance(layers, int) or layers <= most:
            continue
        values[name] = most
        for key, entry in values.items():
            if (isinstance(entry, list) or key == "hybrid_override_pattern") and len(entry) == layers:
                values[key] = entry[:most]
            elif key in INDEX_LISTS and entry:
                values[key] = [index for index in entry if index < most + (key == "kda_layers")]
    return values


def decoder_of(model: Any) -> Any:
    """The module that runs the decoder's layers: the language model of a wrapper, the decoder of an encoder-decoder."""
    inner = model.get_decoder()
    return inner if inner is not None else model.base_model


def measure(values: Mapping[str, Any], prompt_tokens: int, encoder_tokens: int = 0, static_tokens: int = 0) -> Measured:
    """What every layer holds after ``prompt_tokens``, after one more, and in ``StaticCache(static_tokens)``."""
    model = build_on_meta(as_bf16(values)).eval()
    measured = Measured()
    with torch.no_grad():
        cache = _run(model, prompt_tokens, encoder_tokens, _new_cache(model, 0, encoder_tokens))
        measured.prompt, measured.cross = _self_and_cross(cache)
        measured.prompt_storage = storage_bytes(cache)
        measured.modules = _module_bytes(model)
        cache = _run(model, 1, encoder_tokens, cache)
        measured.decoded, _ = _self_and_cross(cache)
        measured.decoded_storage = storage_bytes(cache)
        static = _new_cache(model, static_tokens, encoder_tokens) if static_tokens else None
        if static is not None:
            measured.static, _ = _self_and_cross(_run(model, 64, encoder_tokens, static))
    return measured


def _new_cache(model: Any, static_tokens: int, encoder_tokens: int) -> Any:
    """The cache as ``generate`` makes it; None where it makes none, or has no static layers (DeepSeek-V4)."""
    config = model.config.get_text_config(decoder=True)
    unknown = set(getattr(config, "layer_types", None) or ()) - {*STATIC_LAYER_TYPE_MAPPING, "moe", "mlp"}
    if not model._supports_default_dynamic_cache() or (static_tokens and unknown):
        return None

    def one(tokens: int) -> Any:
        return StaticCache(config=config, max_cache_len=tokens) if static_tokens else DynamicCache(config=config)

    if model.config.is_encoder_decoder:
        return EncoderDecoderCache(one(static_tokens), one(encoder_tokens))
    return one(static_tokens)


def _run(model: Any, tokens: int, encoder_tokens: int, cache: Any) -> Any:
    """One forward pass; the cache that it filled."""
    name = "cache_params" if "mamba" in type(model).__name__.lower() else "past_key_values"
    arguments: dict[str, Any] = {"input_ids": torch.zeros(1, tokens, dtype=torch.long, device="meta")}
    if model.config.is_encoder_decoder:
        width = getattr(model.config, "d_model", None) or model.config.hidden_size
        arguments["encoder_hidden_states"] = torch.zeros(1, encoder_tokens, width, dtype=torch.bfloat16, device="meta")
    if model.config.model_type == "rwkv":
        return decoder_of(model)(**arguments, state=cache, use_cache=True).state
    decoder = decoder_of(model)
    output = decoder(**arguments, use_cache=True, **{name: cache})
    return cache if cache is not None else getattr(output, name)


def _self_and_cross(cache: Any) -> tuple[list[int], list[int]]:
    if isinstance(cache, EncoderDecoderCache):
        return _layers(cache.self_attention_cache), _layers(cache.cross_attention_cache)
    return _layers(cache), []


def _layers(cache: Any) -> list[int]:
    if isinstance(cache, list):  # RWKV: one tensor per state, its last dimension is the layer
        return [_distinct_bytes(cache)]
    linear = getattr(cache, "linear_cache", [])  # MiniMax: beside the layers, which have a gap there
    holders = [(layer, linear[index : index + 1]) for index, layer in enumerate(cache.layers)]
    holders += [(None, linear[index : index + 1]) for index in range(len(cache.layers), len(linear))]
    return [_distinct_bytes([*tensors(layer), *tensors(beside)]) for layer, beside in holders]


def _distinct_bytes(found: Iterable[torch.Tensor]) -> int:
    return sum(nbytes(tensor) for tensor in {id(tensor): tensor for tensor in found}.values())


def tensors(holder: Any) -> Iterator[torch.Tensor]:
    """Every tensor with rows or state in a cache layer, in its dictionaries and lists too."""
    if isinstance(holder, torch.Tensor):
        if holder.dim():
            yield holder
    elif isinstance(holder, Mapping):
        for value in holder.values():
            yield from tensors(value)
    elif isinstance(holder, (list, tuple)):
        for value in holder:
            yield from tensors(value)
    elif hasattr(holder, "__dict__"):
        for name, value in vars(holder).items():
            if isinstance(value, (torch.Tensor, Mapping, list, tuple)) and not any(word in name for word in NO_CACHE):
                yield from tensors(value)


def nbytes(tensor: torch.Tensor) -> int:
    """Elements times their size: what a view shows."""
    return tensor.numel() * tensor.element_size()


def storage_bytes(cache: Any) -> int:
    """Bytes of the distinct storages behind all views."""
    caches = [cache]
    if isinstance(cache, EncoderDecoderCache):
        caches = [cache.self_attention_cache, cache.cross_attention_cache]
    holders = [holder for each in caches for holder in (each if isinstance(each, list) else each.layers)]
    storages = (tensor.untyped_storage() for holder in holders for tensor in tensors(holder))
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def _module_bytes(model: Any) -> int:
    """State that lies on modules: RecurrentGemma's recurrent blocks."""
    names = ("recurrent_states", "conv1d_state")
    found = (getattr(module, name, None) for module in model.modules() for name in names)
    return sum(nbytes(tensor) for tensor in found if isinstance(tensor, torch.Tensor))


def row_of(name: str, values: Mapping[str, Any], lengths: tuple[int, ...], encoder_tokens: int) -> dict[str, Any]:
    """What a config's layers hold at each of ``lengths``, one token after the second, and in ``StaticCache(8192)``."""
    runs = [measure(values, length, encoder_tokens, STATIC_TOKENS if length == lengths[0] else 0) for length in lengths]
    columns = [*(run.prompt for run in runs), runs[1].decoded, runs[0].static or [None] * len(runs[0].prompt)]
    kinds: list[dict[str, Any]] = []
    letters = ""
    for *prompt, decoded, static in zip(*columns, strict=True):
        kind = {"prompt": prompt, "decoded": decoded, "static": static}
        kinds += [] if kind in kinds else [kind]
        letters += LETTERS[kinds.index(kind)]
    return {
        "config": name,
        "tokens": list(lengths),
        "storage": [run.prompt_storage for run in runs],
        "decoded_tokens": lengths[1] + 1,
        "decoded_storage": runs[1].decoded_storage,
        "kinds": kinds,
        "layers": letters,
        **({"encoder_tokens": encoder_tokens, "cross": runs[0].cross} if runs[0].cross else {}),
    }


def main() -> None:
    """Measure every config of a folder that transformers can build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", type=Path, required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 3000, 12000])
    parser.add_argument("--encoder-tokens", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for path in sorted(arguments.configs.glob("*.json")):
        try:
            row = row_of(path.stem, json.loads(path.read_text()), tuple(arguments.lengths), arguments.encoder_tokens)
        except Exception as problem:  # the models' code raises anything at all on a device without data
            print(f"{path.stem}: {type(problem).__name__}: {problem}")
            continue
        rows.append(json.dumps(row, separators=(",", ":")))
    arguments.out.write_text('{"rows": [\n' + ",\n".join(rows) + "\n]}\n")


if __name__ == "__main__":
    main()
