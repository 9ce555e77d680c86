"""Mamba, Falcon-Mamba and Mamba-2: recurrent layers only, so the cache does not grow with the context."""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import Block, decoder
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import NO_FEED_FORWARD, exact_quotient, integer_or_default, read_dt_rank
from kvplan.core.mixer_counting import mamba1_mixer, mamba2_mixer
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba1, Mamba2


def read(config: ConfigReader) -> Architecture:
    """One state-space mixer per layer, and nothing else."""
    names = {config.text("model_type", default=""), *(config.texts("architectures") or [])}
    is_mamba2 = not names.isdisjoint(("mamba2", "Mamba2ForCausalLM"))
    return _read_mamba2(config) if is_mamba2 else _read_mamba1(config)


def _read_mamba1(config: ConfigReader) -> Architecture:
    hidden_size = config.integer("hidden_size", "d_model")
    expand = config.integer("expand", default=2)  # Falcon-Mamba writes 16 beside the width that its weights have
    kind = Mamba1(
        intermediate_size=config.integer("intermediate_size", "d_inner", default=expand * hidden_size),
        state_size=integer_or_default(config, 16, "MambaConfig", "state_size"),
        conv_kernel=integer_or_default(config, 4, "MambaConfig", "conv_kernel"),
    )
    mixer = mamba1_mixer(
        kind,
        hidden_size,
        read_dt_rank(config, hidden_size, "time_step_rank"),
        projection_bias=config.flag("use_bias", default=False),
        convolution_bias=config.flag("use_conv_bias", default=True),
    )
    return _pure(config, kind, hidden_size, mixer, tied=True)


def _read_mamba2(config: ConfigReader) -> Architecture:
    hidden_size = config.integer("hidden_size", "d_model")
    inner = config.integer("intermediate_size", default=config.integer("expand", default=2) * hidden_size)
    head_dim = integer_or_default(config, 64, "Mamba2Config", "head_dim")
    num_heads = exact_quotient(config, inner, head_dim, "head_dim")
    if config.integer("num_heads", default=num_heads) != num_heads:
        config.wrong("num_heads", f"times head_dim ({head_dim}) must be {inner}, the expanded width")
    kind = Mamba2(
        num_heads=num_heads,
        head_dim=head_dim,
        state_size=integer_or_default(config, 128, "Mamba2Config", "state_size"),
        num_groups=integer_or_default(config, 8, "Mamba2Config", "n_groups"),
        conv_kernel=integer_or_default(config, 4, "Mamba2Config", "conv_kernel"),
    )
    bias = config.flag("use_bias", default=False)
    mixer = mamba2_mixer(
        kind,
        hidden_size,
        input_bias=bias,
        output_bias=bias,
        convolution_bias=config.flag("use_conv_bias", default=True),
    )
    return _pure(config, kind, hidden_size, mixer, tied=False)


def _pure(config: ConfigReader, kind: Mamba1 | Mamba2, hidden_size: int, mixer: int, *, tied: bool) -> Architecture:
    block = Block(layer=(kind,), attention=0, state=mixer, norms=hidden_size, feed_forward=NO_FEED_FORWARD)
    num_layers = config.integer("num_hidden_layers", "n_layer")
    architecture = decoder(config, [block] * num_layers, hidden_size=hidden_size, num_heads=None, tied=tied)
    return replace(architecture, max_context_tokens=None)  # nothing in a recurrent model bounds the length


FAMILY = Family(
    name="mamba",
    model_types=("mamba", "falcon_mamba", "mamba2"),
    architectures=("MambaForCausalLM", "FalconMambaForCausalLM", "Mamba2ForCausalLM"),
    read=read,
    neutral_keys=frozenset({"chunk_size", "time_step_rank", "use_mambapy", "use_falcon_mambapy"}),
)
