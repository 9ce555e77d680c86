"""Wrappers whose nested language model is read, and whose towers' parameters are not counted.

Step3-VL and Nemotron Nano VL (RADIO): their towers are remote code whose sizes the config does not hold. The cache
is exact all the same.
"""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader
from kvplan.core.family import Family
from kvplan.core.model import Architecture
from kvplan.core.multimodal import text_model, tower_section

SECTIONS = ("vision_config", "sound_config", "audio_config", "vit_config")
"""Where their towers are described."""


def read(config: ConfigReader) -> Architecture:
    """The nested language model, with a note on what is not counted."""
    text = text_model(config, "text_config", "llm_config", model_type="nemotron_h")
    for name in SECTIONS:
        if config.has(name):
            tower_section(config, name)
    config.note("the vision tower and its projector are not counted")
    return text


FAMILY = Family(
    name="uncounted_towers",
    model_types=("step3_vl", "NemotronH_Nano_VL_V2", "NemotronH_Nano_Omni_Reasoning_V3", "Llama_Nemotron_Nano_VL"),
    read=read,
    neutral_keys=frozenset(
        """
        image_token_id image_token_index img_context_token_id img_context_token img_start_token img_end_token
        projector_hidden_size vit_hidden_size understand_projector_stride projector_bias force_image_size
        downsample_ratio template ps_version patch_size max_sequence_length video_pruning_rate vision_select_layer
        image_token_len patch_token_len im_start_token im_end_token im_patch_token norm_mean norm_std use_thumbnail
        """.split()
    ),
)
