"""llama.cpp's own words for what it allocates, and how kvplan came to the same numbers."""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.core.engine import EngineRequest
from kvplan.core.frozen import dataclass
from kvplan.core.units import MIB, format_bytes
from kvplan.engines.llamacpp.architectures import STATES_IN_EVERY_LAYER, WINDOWS_IGNORED
from kvplan.engines.llamacpp.cells import CELL_MULTIPLE, COMPRESSOR, FULL, RECURRENT, WINDOW, Slots, Tensor, value_width
from kvplan.engines.llamacpp.plan import Device, Placed

_TYPE_NAMES = {"fp16": "f16", "fp32": "f32", "native": "f16"}
"""ggml's names of kvplan's formats, where they differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """One of llama.cpp's caches, over all devices: ``layers`` of equal cells; bytes of each side."""

    name: str
    cells: int
    streams: int
    layers: int
    side_bytes: dict[str, int]
    side_types: dict[str, str]

    @property
    def size_bytes(self) -> int:
        """All sides."""
        return sum(self.side_bytes.values())


def read_caches(devices: Iterable[Device], slots: Slots) -> tuple[Cache, ...]:
    """The caches in the order of their first layer; the draft layers' come last, as a context of their own."""
    placed = sorted((placed for device in devices for placed in device), key=lambda placed: placed.draft)
    found: dict[str, list[tuple[Placed, list[Tensor]]]] = {}
    for entry in placed:
        tensors = entry.tensors(slots)
        for cache in dict.fromkeys(tensor.cache for tensor in tensors):
            name = f"draft {cache}" if entry.draft else cache
            found.setdefault(name, []).append((entry, [tensor for tensor in tensors if tensor.cache == cache]))
    return tuple(_read_cache(name, entries) for name, entries in found.items())


def _read_cache(name: str, entries: list[tuple[Placed, list[Tensor]]]) -> Cache:
    sizes: dict[str, int] = {}
    types: dict[str, str] = {}
    for placed, tensors in entries:
        for tensor in tensors:
            sizes[tensor.side] = sizes.get(tensor.side, 0) + placed.count * tensor.size_bytes
            types[tensor.side] = _TYPE_NAMES.get(tensor.format_name, tensor.format_name)
    first = entries[0][1][0]
    layers = sum(placed.count for placed, _ in entries)
    return Cache(name=name, cells=first.cells, streams=first.streams, layers=layers, side_bytes=sizes, side_types=types)


def log_lines(caches: Iterable[Cache], slots: Slots, request: EngineRequest) -> tuple[str, ...]:
    """The lines that llama.cpp writes when it has made its caches."""
    return tuple(_log_line(cache, slots, request) for cache in caches)


def _log_line(cache: Cache, slots: Slots, request: EngineRequest) -> str:
    """``src/llama-kv-cache.cpp``, ``src/llama-memory-recurrent.cpp`` and ``src/llama-kv-cache-dsv4.cpp``."""
    size = f"size = {cache.size_bytes / MIB:7.2f} MiB"
    layers = [layer for stage in request.stages for layer in stage]
    num_layers = len(layers) - request.num_draft_layers
    drafted = cache.cells // slots.sequences - 1
    if cache.name.startswith(COMPRESSOR):
        state = f"state = {cache.name[len(COMPRESSOR) + 1 :]}, streams = {slots.sequences}, rs_seq = {drafted}"
        return f"llama_dsv4_comp_state: {state}, layers = {cache.layers}, {size}"
    if cache.name == RECURRENT:
        cells = f"{slots.sequences:6} cells, {num_layers:3} layers, {slots.sequences:2} seqs {drafted:2} rs_seq"
        none = f"P (f32): {0:7.2f} MiB"  # per-layer embeddings, in architectures that kvplan does not read
        return f"llama_memory_recurrent: {size} ({cells}), {_sides(cache, 'RS')}, {none}"
    empty = sum(all(item.kind.kind == "none" for item in layer) for layer in layers)
    if any(item.kind.states() for layer in layers for item in layer) or cache.name != FULL:
        empty = 0  # hybrid architectures filter such layers out; the others give them tensors of no bytes
    cells = f"{cache.cells:6} cells, {cache.layers + empty:3} layers, {slots.sequences:2}/{cache.streams} seqs"
    return f"llama_kv_cache: {size} ({cells}), {_sides(cache, 'KV')}"


def _sides(cache: Cache, sides: str) -> str:
    any_type = next(iter(cache.side_types.values()))
    return ", ".join(
        f"{side} ({cache.side_types.get(side, any_type)}): {cache.side_bytes.get(side, 0) / MIB:7.2f} MiB"
        for side in sides
    )


def explain(devices: Iterable[Device], slots: Slots, request: EngineRequest) -> tuple[str, ...]:
    """The context's cells and one line for each kind of layer, with the values put in."""
    lines = [_explain_cells(slots)]
    if request.facts.family not in STATES_IN_EVERY_LAYER and _has_windows(devices, slots):
        lines.append(_explain_windows(devices, slots))
    for placed in (placed for device in devices for placed in device):
        lines += [_explain_tensor(placed, tensor) for tensor in placed.tensors(slots)]
    flags = f"-c {slots.context_tokens} -np {slots.sequences}" + (" --kv-unified" if slots.unified else "")
    return (*dict.fromkeys(lines), f"started as llama-server {flags}{' --swa-full' if slots.swa_full else ''}")


def _explain_cells(slots: Slots) -> str:
    share = "" if slots.unified else f" / {slots.sequences}"
    return (
        f"cells = up({slots.context_tokens:,}{share}, {CELL_MULTIPLE}) = {slots.cells:,} in each of {slots.streams} "
        f"{_plural(slots.streams, 'stream')} (src/llama-context.cpp)"
    )


def _has_windows(devices: Iterable[Device], slots: Slots) -> bool:
    return any(tensor.cache == WINDOW for device in devices for placed in device for tensor in placed.tensors(slots))


def _explain_windows(devices: Iterable[Device], slots: Slots) -> str:
    if slots.swa_full:
        return f"window cells = cells = {slots.cells:,}, for swa_full"
    placed, tensor = next(
        (placed, tensor)
        for device in devices
        for placed in device
        for tensor in placed.tensors(slots)
        if tensor.cache == WINDOW
    )
    window, shared = placed.item.kind.window_tokens, slots.sequences // tensor.streams
    return (
        f"window cells = up(min({slots.cells:,}, {window:,} x {shared} + {slots.ubatch_tokens:,} of a micro-batch), "
        f"{CELL_MULTIPLE}) = {tensor.cells:,} (src/llama-kv-cache-iswa.cpp)"
    )


def _explain_tensor(placed: Placed, tensor: Tensor) -> str:
    rows = tensor.cells * tensor.streams
    what = f"{'draft ' if placed.draft else ''}{placed.item.kind.kind} {tensor.side}"
    if tensor.cell_tokens == 0:
        count = f"{tensor.cells} {_plural(tensor.cells, 'state')}"
    else:
        count = f"{tensor.cells:,} cells x {tensor.streams} {_plural(tensor.streams, 'stream')}"
    return (
        f"{what} ({tensor.cache} cache): {placed.count} {_plural(placed.count, 'layer')} x {count} x "
        f"{tensor.size_bytes // rows:,} B ({_TYPE_NAMES.get(tensor.format_name, tensor.format_name)}) = "
        f"{format_bytes(placed.count * tensor.size_bytes)}"
    )


def reasons(devices: Iterable[Device], slots: Slots, request: EngineRequest) -> tuple[str, ...]:
    """Why llama.cpp allocates otherwise than geometry says."""
    devices = tuple(devices)
    found = [f"every slot's cells are allocated at the start, in multiples of {CELL_MULTIPLE}"]
    kinds = [placed.item.kind for device in devices for placed in device]
    rules = [placed.rules for device in devices for placed in device]
    if any(rule.windows_ignored for rule in rules) and any(kind.window_tokens for kind in kinds):
        name = WINDOWS_IGNORED[request.facts.family]
        found.append(f"llama.cpp's architecture ({name}) knows no sliding window: windowed layers keep every token")
    elif _has_windows(devices, slots):
        room = "as many cells as full ones (swa_full)" if slots.swa_full else "their window and a micro-batch"
        found.append(f"windowed layers have cells for {room}")
    if any(rule.padded_value_width is not None for rule in rules) and _values_differ(devices):
        found.append("without flash attention the values of every layer are as wide as the widest layer's")
    if any(rule.index_value_width is not None for rule in rules):
        found.append("the index of keys is a plain cache in llama.cpp, with values that nothing reads")
    if slots.unified and any(rule.own_streams for rule in rules):
        found.append("DeepSeek-V4 keeps a stream of the whole context for each sequence, even when unified")
    if any(kind.states() for kind in kinds):
        found.append("states are f32 in llama.cpp, convolutions too")
    if (states := max((rule.states for rule in rules), default=1)) > 1:
        found.append(f"{states} states a sequence: one to go back to for each drafted token")
    if any(part.encoder for kind in kinds for part in kind.parts()):
        found.append("llama.cpp caches no cross-attention: it reads the encoder's output anew at each step")
    if any(not placed.owned for device in devices for placed in device):
        found.append("llama.cpp allocates more cache layers than the model has (T5: one for each encoder layer)")
    return tuple(found)


def _values_differ(devices: Iterable[Device]) -> bool:
    widths = {value_width(placed.item) for device in devices for placed in device}
    return len(widths - {0}) > 1


def notes(name: str, request: EngineRequest) -> tuple[str, ...]:
    """What a reader must know before trusting the numbers."""
    found = []
    if request.facts.kv_scheme is not None:
        found.append("llama.cpp does not follow the checkpoint's own cache format: auto is f16")
    if request.parallel.pp > 1:
        found.append("llama.cpp splits layers by the devices' free memory: equal devices are assumed")
    if request.num_draft_layers:
        found.append("draft layers have a context of their own in f16 (--cache-type-k-draft)")
    if request.facts.family == "mamba_ssm" and any(
        item.kind.kind == "full_attention" for stage in request.stages for layer in stage for item in layer
    ):
        found.append("llama.cpp's mamba2 has no attention layers: a file with them does not load")
    if name == "ollama":
        found.append(
            "Ollama starts with 4,096 tokens, 32,768 from 23 GiB of GPU memory and 262,144 from 47 GiB, unless "
            "OLLAMA_CONTEXT_LENGTH says otherwise; rules are those of llama.cpp 0.5.0 (Ollama fb307609 pins b10488)"
        )
    return tuple(found)


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"
