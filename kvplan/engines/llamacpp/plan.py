"""A model on llama.cpp: its layers on devices, and the bytes of each device for a context."""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.engine import EngineRequest, GroupAllocation, RankAllocation, Stage
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import PlacedKind, group_kinds
from kvplan.core.search import largest
from kvplan.engines.llamacpp.architectures import (
    CACHE_PER_ENCODER_LAYER,
    KEEPS_ROLLBACK_STATES,
    ROLLBACK_CLASSES,
    STATES_IN_EVERY_LAYER,
    WINDOWS_IGNORED,
)
from kvplan.engines.llamacpp.cells import (
    CELL_MULTIPLE,
    MAX_SEQUENCES,
    Rules,
    Slots,
    Tensor,
    index_value_width,
    layer_tensors,
    value_width,
)

DEFAULT_DRAFT_TOKENS = 3
"""``common_params_speculative_draft.n_max`` in ``common/common.h``."""

_MOST_CELLS = 2**32 - CELL_MULTIPLE  # n_ctx is a uint32


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """``count`` equal layers on one device; ``draft`` ones belong to the second context, of multi-token prediction.

    ``owned`` is False for layers that llama.cpp allocates and the model does not have.
    """

    item: PlacedKind
    count: int
    rules: Rules
    draft: bool = False
    owned: bool = True

    def tensors(self, slots: Slots) -> tuple[Tensor, ...]:
        """The tensors of one layer; the draft context stores 16 bits, whatever the main one does."""
        item = replace(self.item, kv_format=self.item.kv_format.all_native()) if self.draft else self.item
        return layer_tensors(item, self.rules, slots)

    def layer_bytes(self, slots: Slots) -> int:
        """Bytes of one layer, all sequences."""
        return sum(tensor.size_bytes for tensor in self.tensors(slots))


Device = tuple[Placed, ...]


def place_devices(request: EngineRequest, flash_attention: bool) -> tuple[Device, ...]:
    """The layers of each device, equal ones grouped."""
    layers = tuple(layer for stage in request.stages for layer in stage)
    num_trunk, num_owned = len(layers) - request.num_draft_layers, len(layers)
    layers += _encoder_layers(layers, request)
    rules = read_rules(request, flash_attention)
    devices, start = [], 0
    for stage in split_layers(layers, request.parallel.pp):
        trunk, draft = (max(0, min(len(stage), end - start)) for end in (num_trunk, num_owned))
        devices.append(
            (
                *_group(stage[:trunk], request, rules),
                *_group_drafts(stage[trunk:draft], request, rules),
                *_unowned(stage[:trunk], stage[draft:], layers, request, rules),
            )
        )
        start += len(stage)
    return tuple(devices)


def split_layers(layers: Stage, devices: int) -> tuple[Stage, ...]:
    """Layer ``i`` of ``n`` lies on device ``i * devices // (n + 1)``: equal shares, the output head counts as a layer.

    ``get_layer_buft_list`` in ``src/llama-model.cpp``, for devices with as much free memory each.
    """
    share = len(layers) + 1
    return tuple(
        tuple(layer for index, layer in enumerate(layers) if index * devices // share == device)
        for device in range(devices)
    )


def read_rules(request: EngineRequest, flash_attention: bool) -> Rules:
    """What the model as a whole decides for its layers."""
    items = [item for stage in request.stages for layer in stage for item in layer]
    widest = max((value_width(item) for item in items), default=0)
    return Rules(
        windows_ignored=request.facts.family in WINDOWS_IGNORED,
        padded_value_width=None if flash_attention else widest,
        index_value_width=index_value_width(request.stages),
        own_streams=any(part.tokens_per_row > 1 for item in items for part in item.kind.parts()),
        states=1 + rollback_tokens(request),
    )


def rollback_tokens(request: EngineRequest) -> int:
    """``n_rs_seq``: drafted tokens whose states are kept, so that a rejected one can be taken back."""
    facts = request.facts
    if facts.family not in KEEPS_ROLLBACK_STATES and facts.architecture_class not in ROLLBACK_CLASSES:
        return 0
    default = DEFAULT_DRAFT_TOKENS if request.num_draft_layers else 0
    return request.settings.num_speculative_tokens or default


def _group(stage: Stage, request: EngineRequest, rules: Rules) -> Device:
    attends = request.facts.family not in STATES_IN_EVERY_LAYER
    groups = group_kinds(stage, request.choice.policy)
    return tuple(
        Placed(item=item, count=count, rules=rules)
        for item, count in groups.items()
        if attends or (item.kind.states() and _is_mixer(item))
    )


def _is_mixer(item: PlacedKind) -> bool:
    return any(state.name == "state" for state in item.kind.states())


def _group_drafts(stage: Stage, request: EngineRequest, rules: Rules) -> Device:
    """Draft layers: a context of their own, in 16 bits unless ``--cache-type-k-draft`` says otherwise.

    They attend to every latent, so DeepSeek's draft layers have no index cache there (``llama_model::create_memory``).
    """
    rules = replace(rules, own_streams=False, states=1)
    latent = any(item.kind.kind == "latent" for layer in stage for item in layer)
    return tuple(
        Placed(item=item, count=count, rules=rules, draft=True)
        for item, count in group_kinds(stage, request.choice.policy).items()
        if not (latent and item.kind.kind != "latent")
    )


def _encoder_layers(layers: Stage, request: EngineRequest) -> Stage:
    """Layers that the cache has because the encoder is deeper than the decoder."""
    if request.facts.family not in CACHE_PER_ENCODER_LAYER:
        return ()
    return layers[:1] * max(0, (request.facts.num_encoder_layers or 0) - len(layers))


def _unowned(stage: Stage, encoder: Stage, layers: Stage, request: EngineRequest, rules: Rules) -> Device:
    """What llama.cpp allocates beyond the model's own: states of layers without any, layers of the encoder."""
    found = [(item, 1) for layer in encoder for item in layer]
    if request.facts.family in STATES_IN_EVERY_LAYER:
        mixers = [item for layer in layers for item in layer if _is_mixer(item)]
        found += [(item, sum(not any(map(_is_mixer, layer)) for layer in stage)) for item in mixers[:1]]
    return tuple(Placed(item=item, count=count, rules=rules, owned=False) for item, count in found if count)


def allocate_rank(device: Device, slots: Slots) -> RankAllocation:
    """What one device allocates."""
    groups = tuple(_allocate_group(placed, slots) for placed in device if placed.owned)
    total = device_bytes(device, slots)
    return RankAllocation(groups=groups, allocated_bytes=total, sequence_bytes=total // slots.sequences)


def device_bytes(device: Device, slots: Slots) -> int:
    """Bytes of one device: all its layers, all sequences."""
    return sum(placed.count * placed.layer_bytes(slots) for placed in device)


def _allocate_group(placed: Placed, slots: Slots) -> GroupAllocation:
    tensors = placed.tensors(slots)
    tokens = max((tensor.cells * tensor.streams * tensor.cell_tokens for tensor in tensors), default=0)
    return GroupAllocation(
        item=placed.item,
        count=placed.count,
        allocated_tokens=tokens // slots.sequences,
        allocated_bytes=placed.layer_bytes(slots),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a memory holds: ``cells`` of each sequence (None where nothing grows), and sequences of the full length."""

    cells: int | None
    sequences: int


def read_capacity(devices: tuple[Device, ...], slots: Slots, sequence_tokens: int, memory_bytes: int) -> Capacity:
    """The longest context of ``slots.sequences``, and the most sequences of ``sequence_tokens``, in such a memory."""

    def fits(sequences: int, tokens: int) -> bool:
        """Whether every device holds its share."""
        changed = replace_slots(slots, sequences, tokens)
        return all(device_bytes(device, changed) <= memory_bytes for device in devices)

    most = _MOST_CELLS // slots.sequences // CELL_MULTIPLE
    blocks = largest(lambda count: fits(slots.sequences, count * CELL_MULTIPLE), most)
    sequences = largest(lambda count: fits(count, sequence_tokens), MAX_SEQUENCES)
    return Capacity(cells=None if blocks == most else blocks * CELL_MULTIPLE, sequences=sequences)


def replace_slots(slots: Slots, sequences: int, tokens: int) -> Slots:
    """The same context for other sequences, of ``tokens`` each."""
    return Slots(
        sequences=sequences,
        context_tokens=sequences * tokens,
        unified=slots.unified,
        swa_full=slots.swa_full,
        ubatch=slots.ubatch,
    )
