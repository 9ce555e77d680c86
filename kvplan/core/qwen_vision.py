"""The vision towers of Qwen's models, which the vision-language and the omni families share.

Shapes and defaults: transformers 5.23, ``models/{qwen2_vl,qwen2_5_vl,qwen3_vl}``.
"""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader
from kvplan.core.multimodal import side, stated_size
from kvplan.core.towers import EncoderShape, convolution, layer_norm, two_linears


def qwen2_vision(section: ConfigReader) -> int:
    """Qwen2-VL: plain layers with LayerNorms; ``hidden_size`` of its section is the language model's width."""
    hidden = stated_size(section, "embed_dim", default=1280)
    merged = hidden * section.integer("spatial_merge_size", default=2) ** 2
    encoder = EncoderShape(
        hidden_size=hidden,
        num_layers=stated_size(section, "depth", default=32),
        intermediate_size=int(hidden * section.number("mlp_ratio", default=4)),
    )
    merger = layer_norm(hidden) + two_linears(merged, merged, stated_size(section, "hidden_size", default=3584))
    return _patches(section, hidden, patch_size=14, bias=False) + encoder.parameters() + merger


def qwen2_5_vision(section: ConfigReader) -> int:
    """Qwen2.5-VL: gated layers with RMS norms and biases."""
    hidden = stated_size(section, "hidden_size", default=3584)
    merged = hidden * section.integer("spatial_merge_size", default=2) ** 2
    encoder = EncoderShape(
        hidden_size=hidden,
        num_layers=stated_size(section, "depth", default=32),
        intermediate_size=stated_size(section, "intermediate_size", default=3420),
        gated=True,
        norm_bias=False,
    )
    merger = hidden + two_linears(merged, merged, stated_size(section, "out_hidden_size", default=3584))
    return _patches(section, hidden, patch_size=14, bias=False) + encoder.parameters() + merger


def qwen3_vision(section: ConfigReader) -> int:
    """Qwen3-VL and later: learned positions, and one more merger per layer listed in ``deepstack_visual_indexes``."""
    hidden = stated_size(section, "hidden_size", default=1152)
    merged = hidden * section.integer("spatial_merge_size", default=2) ** 2
    out_hidden = stated_size(section, "out_hidden_size", default=3584)
    encoder = EncoderShape(
        hidden_size=hidden,
        num_layers=stated_size(section, "depth", default=27),
        intermediate_size=stated_size(section, "intermediate_size", default=4304),
    )
    mergers = layer_norm(hidden) + two_linears(merged, merged, out_hidden)
    deepstack = section.integers("deepstack_visual_indexes") or []
    mergers += len(deepstack) * (layer_norm(merged) + two_linears(merged, merged, out_hidden))
    positions = stated_size(section, "num_position_embeddings", default=2304) * hidden
    return _patches(section, hidden, patch_size=16, bias=True) + positions + encoder.parameters() + mergers


def _patches(section: ConfigReader, hidden: int, patch_size: int, bias: bool) -> int:
    """The embedding of patches of ``temporal_patch_size`` frames."""
    kernel = section.integer("temporal_patch_size", default=2) * side(section, "patch_size", patch_size) ** 2
    return convolution(section.integer("in_channels", "in_chans", default=3), hidden, kernel, bias)
