"""The demo model's architecture, its byte tokenizer and its files: a folder that ``from_pretrained`` loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

BOS = 256
"""Starts every text."""
EOS = 257
_VOCABULARY = 264  # 256 bytes, two special tokens, padded to a multiple of 8 for the matrix units


def build(hidden: int, layers: int, seed: int, max_positions: int = 4096) -> Any:
    """A Qwen3 model with random weights: 8 query heads and 2 key and value heads of width 64, rotary positions.

    Qwen3's norms of queries and keys keep a high learning rate stable. The rotary base of 100,000 turns a third of the
    dimensions by less than a radian in 2048 tokens, so that content can be matched at every distance.
    """
    torch.manual_seed(seed)
    config = transformers.Qwen3Config(
        vocab_size=_VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 7 // 4,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=EOS,
    )
    return transformers.Qwen3ForCausalLM(config)


def save(model: Any, folder: Path, card: dict[str, Any]) -> None:
    """Write the weights in bf16, the config, the tokenizer and ``card`` (as training.json) to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = transformers.Qwen3ForCausalLM(model.config)
    stored.load_state_dict(model.state_dict())
    stored.to(torch.bfloat16).save_pretrained(folder)
    write(folder / "tokenizer.json", _tokenizer())
    write(folder / "tokenizer_config.json", _TOKENIZER_CONFIG)
    write(folder / "training.json", card)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as JSON of ASCII characters."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


_TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<eos>",
    "clean_up_tokenization_spaces": False,
    "model_max_length": 4096,
}


def _tokenizer() -> dict[str, Any]:
    """A tokenizers file without merges: token ``i`` is byte ``i``, and every text starts with <bos>."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    specials = [_special("<bos>", BOS), _special("<eos>", EOS)]
    start = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": specials,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [BOS], "tokens": ["<bos>"]}},
        },
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": _byte_symbols(), "merges": []},
    }


def _special(content: str, token: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token, "content": content, **flags}


def _byte_symbols() -> dict[str, int]:
    """GPT-2's printable symbol of each byte: itself where it prints, else the next free one from U+0100."""
    symbols: dict[str, int] = {}
    for byte in range(256):
        hidden = sum(other not in _PRINTS for other in range(byte))
        symbols[chr(byte if byte in _PRINTS else 256 + hidden)] = byte
    return symbols


_PRINTS = frozenset((*range(33, 127), *range(161, 173), *range(174, 256)))
