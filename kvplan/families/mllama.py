"""Llama 3.2 Vision: a Llama decoder in which every fifth layer attends to the image and to nothing else.

Those layers cache keys and values of the vision tower's tokens, once per image. Key names and shapes: transformers
5.23 ``models/mllama``. An image takes up to ``max_num_tiles`` tiles; the encoder length is that of one full image.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.attention import CrossAttention, FullAttention
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, gated_mlp, linear, plain_mlp
from kvplan.core.encoder_decoder import layer_norm
from kvplan.core.family import Family
from kvplan.core.model import Architecture, Layer, Parameters
from kvplan.core.widths import Widths

_IMAGE_TOKENS = 8
"""Rows that the embedding has beyond the vocabulary, for image tokens (``MllamaTextModel``)."""

_CLASS_ASPECT_RATIOS = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
"""The arrangements of tiles that ``MllamaVisionConfig`` takes where a file states none."""


def _read(config: ConfigReader) -> Architecture:
    if config.text("model_type", default="") == "mllama_text_model":
        return _read_text(config)
    text = config.text_model("text_config", model_type="mllama_text_model")
    config.ignore("image_token_index")
    vision = config.section("vision_config")
    if vision is None:
        config.missing("vision_config")
    tile_tokens = _tile_tokens(vision)
    num_tiles = vision.integer("max_num_tiles")
    towers = _vision_parameters(vision, tile_tokens, num_tiles) + linear(
        vision.integer("vision_output_dim"), text.hidden_size, bias=True
    )
    vision.settle()
    config.note(f"cross-attention holds one image of {num_tiles} tiles: {num_tiles * tile_tokens} tokens")
    counts = text.parameters or Parameters()
    return replace(text, encoder_tokens=num_tiles * tile_tokens, parameters=replace(counts, towers=towers))


def _read_text(config: ConfigReader) -> Architecture:
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    num_layers = config.integer("num_hidden_layers")
    if hidden % heads:
        config.wrong("hidden_size", f"{hidden} is no multiple of the {heads} attention heads")
    shape = AttentionShape(
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=config.integer("num_key_value_heads"),
        head_dim=hidden // heads,
    )
    crossing = _cross_layers(config, num_layers)
    self_layer: Layer = (FullAttention(num_kv_heads=shape.num_kv_heads, head_dim=shape.head_dim),)
    cross_layer: Layer = (CrossAttention(num_kv_heads=shape.num_kv_heads, head_dim=shape.head_dim),)
    return Architecture(
        layers=tuple(cross_layer if layer in crossing else self_layer for layer in range(num_layers)),
        hidden_size=hidden,
        num_heads=heads,
        max_context_tokens=config.optional_integer("max_position_embeddings"),
        parameters=_text_parameters(config, shape, num_layers, len(crossing)),
        widths=Widths(
            vocab_size=config.integer("vocab_size"),
            intermediate_size=config.integer("intermediate_size"),
            tied_embeddings=config.flag("tie_word_embeddings", default=False),
        ),
    )


def _cross_layers(config: ConfigReader, num_layers: int) -> frozenset[int]:
    layers = config.integers("cross_attention_layers")
    if layers is None:
        config.missing("cross_attention_layers")
    beyond = [layer for layer in layers if layer >= num_layers]
    if beyond:
        config.wrong("cross_attention_layers", f"names layer {beyond[0]} of {num_layers} layers")
    return frozenset(layers)


def _text_parameters(config: ConfigReader, shape: AttentionShape, num_layers: int, num_cross: int) -> Parameters:
    """Counts of the decoder; a crossing layer adds norms of query and key, and two gates."""
    hidden = shape.hidden_size
    vocab = config.integer("vocab_size")
    return Parameters(
        embedding=(vocab + _IMAGE_TOKENS) * hidden,
        output_head=0 if config.flag("tie_word_embeddings", default=False) else vocab * hidden,
        attention=num_layers * shape.parameters(),
        mlp=num_layers * gated_mlp(hidden, config.integer("intermediate_size")),
        norms=(2 * num_layers + 1) * hidden + num_cross * (2 * shape.head_dim + 2),
    )


def _tile_tokens(vision: ConfigReader) -> int:
    """Tokens of one tile: its patches and the class token."""
    return (vision.integer("image_size") // vision.integer("patch_size")) ** 2 + 1


def _vision_parameters(vision: ConfigReader, tile_tokens: int, num_tiles: int) -> int:
    """The tower: patches, positions and tiles by aspect ratio, local and gated global layers, two norms."""
    width = vision.integer("hidden_size")
    attention = AttentionShape(
        hidden_size=width,
        num_heads=vision.integer("attention_heads"),
        num_kv_heads=vision.integer("attention_heads"),
        head_dim=width // vision.integer("attention_heads"),
    )
    layer = (
        attention.parameters()
        + plain_mlp(width, vision.integer("intermediate_size"), bias=True)
        + 2 * layer_norm(width)
    )
    num_global = vision.integer("num_global_layers")
    layers = (vision.integer("num_hidden_layers") + num_global) * layer + 2 * num_global
    patches = vision.integer("num_channels", default=3) * vision.integer("patch_size") ** 2 * width + width
    ratios = vision.value("supported_aspect_ratios", default=_CLASS_ASPECT_RATIOS)
    if not isinstance(ratios, list):
        vision.wrong("supported_aspect_ratios", f"must be a list of pairs, not {ratios!r}")
    by_ratio = (len(ratios) + 1) * num_tiles * width
    positions = 1 + tile_tokens * width + by_ratio * tile_tokens
    tiles = 2 * (1 + by_ratio)
    return layers + patches + positions + tiles + 2 * layer_norm(width)


FAMILY = Family(
    name="mllama",
    model_types=("mllama", "mllama_text_model"),
    architectures=("MllamaForConditionalGeneration",),
    read=_read,
    neutral_keys=frozenset({"_attn_implementation"}),
)
