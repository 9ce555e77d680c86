"""MiniCPM-V: a SigLIP without head, a resampler to a fixed number of queries, and the language model at the top level.

Shapes: openbmb/MiniCPM-V-2_6's modeling_minicpmv.py and resampler.py.
"""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import tower_section, with_towers
from kvplan.core.towers import cross_attention, layer_norm
from kvplan.core.vision_towers import idefics_vision_parameters

TEXT_BY_VERSION = {"2.5": "llama", "2.6": "qwen2", "4.0": "llama", "4": "llama", "4.5": "qwen3"}
"""Which language model a published version has; the config names none."""


def read(config: ConfigReader) -> Architecture:
    """The language model with the parameters of tower and resampler."""
    version = str(config.value("version", default=""))
    if version not in TEXT_BY_VERSION:
        config.wrong("version", f"{version!r} is not a known MiniCPM-V (known: {', '.join(TEXT_BY_VERSION)})")
    config.ignore("batch_vision_input", "drop_vision_last_layer", "slice_config", "slice_mode", "image_size")
    section = tower_section(config, "vision_config")
    queries = config.integer("query_num", default=64)
    text = config.text_model_here(TEXT_BY_VERSION[version])
    if section is None:
        return text
    vision_hidden = section.integer("hidden_size", default=1152)
    return with_towers(text, idefics_vision_parameters(section) + _resampler(queries, vision_hidden, text.hidden_size))


def _resampler(queries: int, vision_hidden: int, hidden: int) -> int:
    """Learned queries that attend to the projected patches; three norms and an output matrix."""
    embeddings = queries * hidden + linear(vision_hidden, hidden) + hidden * hidden
    return embeddings + cross_attention(hidden) + 3 * layer_norm(hidden)


FAMILY = Family(
    name="minicpmv",
    model_types=("minicpmv",),
    architectures=("MiniCPMV",),
    read=read,
    neutral_keys=frozenset("version_info im_start_token use_image_id vision_batch_size".split()),
)
