"""A model as the calculator sees it: an ordered list of layers, the numbers around it, and its parameter counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields

from kvplan.core.attention import LayerKind
from kvplan.core.frozen import dataclass
from kvplan.core.widths import Widths

Layer = tuple[LayerKind, ...]
"""What one layer stores: usually one kind; several where a layer keeps several caches (latent and index keys)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Parameter counts by part; ``total`` is their sum. A tied output head counts once, under ``embedding``.

    ``attention``  projections of attention, latent attention, indexers and cross-attention
    ``state``      recurrent mixers: Mamba, delta nets, linear attention, RWKV time mixing, short convolutions
    ``mlp``        dense feed-forward blocks and always-active shared experts
    ``experts``    routed experts, all of them
    ``norms``      norms and small vectors; ``routers`` expert routers
    ``towers``     vision and audio towers with their projectors, and encoders
    ``other``      what fits nowhere above
    ``active``     parameters that one token uses (experts: only the chosen ones); None for dense models
    ``mtp``        draft (multi-token prediction) layers, outside ``total`` because engines load them on request
    ``certainty``  ``exact`` (built by the model's own code), ``rule`` (counted from the config), ``published``
    """

    embedding: int = 0
    output_head: int = 0
    attention: int = 0
    state: int = 0
    mlp: int = 0
    experts: int = 0
    routers: int = 0
    norms: int = 0
    towers: int = 0
    other: int = 0
    active: int | None = None
    mtp: int = 0
    certainty: str = "rule"

    @property
    def total(self) -> int:
        """All parameters except the draft layers."""
        return sum(getattr(self, name) for name in PARAMETER_PARTS)


PARAMETER_PARTS = tuple(entry.name for entry in fields(Parameters) if entry.name not in ("active", "mtp", "certainty"))
"""The fields of Parameters that add up to its total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What a family reads out of a config: the layers and the numbers that sizing needs.

    ``num_heads``           query heads (tensor parallelism must divide them); None without attention
    ``hidden_size``         width of the residual stream, for the textbook formula
    ``max_context_tokens``  the longest context the model is made for; None where the config does not say
    ``draft_layers``        multi-token-prediction layers, counted on request only
    ``encoder_tokens``      encoder length of cross-attention when the model fixes it (Whisper: 1500)
    ``num_encoder_layers``  depth of the encoder, where an engine's cache depends on it (T5 in llama.cpp)
    ``widths``              what activations and the split of the weights depend on; None where it is not known
    ``notes``               assumptions a reader must know, such as a class default taken for a missing key
    """

    layers: tuple[Layer, ...]
    hidden_size: int
    num_heads: int | None
    max_context_tokens: int | None
    draft_layers: tuple[Layer, ...] = ()
    encoder_tokens: int | None = None
    num_encoder_layers: int | None = None
    parameters: Parameters | None = None
    widths: Widths | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_layers(self) -> int:
        """Decoder layers, those that store nothing included."""
        return len(self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsOnDisk:
    """What is known of the weights: a quantization scheme read from the config, or exact bytes from file headers."""

    weight_format: str | None = None
    exact_bytes: int | None = None
    exact_parameters: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A named model: its architecture, its 16-bit compute dtype (``bf16`` or ``fp16``), and where it was read.

    ``architecture_class`` is the model class that the checkpoint's config names (``LlamaForCausalLM``), by which
    engines choose their own; None where it is not known, as in GGUF files.
    ``kv_scheme`` is the cache format that the checkpoint's quantization asks for (``fp8_e4m3``, ``nvfp4``): engines
    follow it when the cache dtype is ``auto``, if they know the ``kv_scheme_method`` that states it (``modelopt``,
    ``compressed-tensors``).
    """

    name: str
    source: str
    family: str
    dtype: str
    architecture: Architecture
    architecture_class: str | None = None
    weights: WeightsOnDisk = field(default_factory=WeightsOnDisk)
    kv_scheme: str | None = None
    kv_scheme_method: str | None = None
    aliases: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any figure about this model must know."""
        return self.architecture.notes
