"""A Model becomes the text of a spec, laid out for people: kinds on one line each, layers as patterns with repeats."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kvplan.core.attention import LayerKind
from kvplan.core.errors import UnsupportedError
from kvplan.core.kinds import KINDS
from kvplan.core.model import PARAMETER_PARTS, Layer, Model, Parameters
from kvplan.core.widths import Widths

LINE_LENGTH = 110

_SHORT_NAMES = {
    "full_attention": "full",
    "sliding_window": "win",
    "chunked_local": "chunk",
    "latent": "mla",
    "index_keys": "index",
    "compressed_stream": "stream",
    "cross_attention": "cross",
    "mamba1": "mamba",
    "mamba2": "mamba",
    "gated_delta_net": "delta",
    "linear_attention": "linear",
    "short_conv": "conv",
    "state_buffer": "buffer",
}
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]*(/[A-Za-z0-9_.+-]+)*")
_KEYWORDS = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def write_spec(
    model: Model, *, date: str | None = None, url: str | None = None, expect: Mapping[str, int] | None = None
) -> str:
    """The spec of a model. ``build_model(load_yaml(write_spec(model)))`` is the model again.

    ``date``    the day on which the source was read; today unless given or known from the model's own provenance
    ``url``     the source, in place of the file that the model was read from
    ``expect``  figures (``bytes_per_token``, ``fixed_bytes``) for the tests to hold the spec against

    Raises UnsupportedError for a layer kind without an entry in ``kvplan.core.kinds``.
    """
    architecture = model.architecture
    kinds = _name_kinds([*architecture.layers, *architecture.draft_layers])
    names = {repr(kind): name for name, kind in kinds.items()}
    lines = [*_head(model), *_source(model, date, url)]
    sizes = ("max_context_tokens", "hidden_size", "num_heads", "encoder_tokens", "num_encoder_layers")
    lines += [f"{key}: {getattr(architecture, key)}" for key in sizes if getattr(architecture, key) is not None]
    if architecture.widths is not None:
        lines.append(write_widths(architecture.widths))
    lines += ["", "kinds:"]
    lines += [f"  {name}: {_flow_kind(kind)}" for name, kind in kinds.items()]
    lines += ["layers:", *_patterns(architecture.layers, names), f"num_layers: {len(architecture.layers)}"]
    if architecture.draft_layers:
        lines += ["draft_layers:", *_patterns(architecture.draft_layers, names)]
    if architecture.parameters is not None:
        lines += ["", "parameters:", *_parameters(architecture.parameters)]
    lines += _weights(model)
    if expect:
        lines += [_flow("expect: ", [f"{key}: {value}" for key, value in expect.items()], "{}")]
    if model.notes:
        lines += ["notes:", *(f"  - {_scalar(note)}" for note in model.notes)]
    return "\n".join(lines) + "\n"


def compress(entries: Sequence[str]) -> list[tuple[list[str], int]]:
    """The shortest way to write a list as patterns with repeats: (pattern, repeat) groups that spell it out again.

    Written length counts a pattern's entries and two for the group itself; ties go to fewer, then to longer groups.
    """
    count = len(entries)
    same = _runs(entries)
    best: list[tuple[int, int, int, int, int]] = [(0, 0, 0, 0, 0)] * (count + 1)
    for start in range(count - 1, -1, -1):
        options = []
        for period in range(1, count - start + 1):
            for repeat in {1, same[period][start] // period + 1}:
                length, parts, *_ = best[start + period * repeat]
                options.append((length + period + 2, parts + 1, -period * repeat, period, repeat))
        best[start] = min(options)
    groups: list[tuple[list[str], int]] = []
    start = 0
    while start < count:
        *_, period, repeat = best[start]
        groups.append((list(entries[start : start + period]), repeat))
        start += period * repeat
    return groups


def _runs(entries: Sequence[str]) -> list[list[int]]:
    """[period][start]: how many entries from ``start`` on equal the one ``period`` later."""
    count = len(entries)
    runs = [[0] * (count + 1) for _ in range(count + 1)]
    for period in range(1, count):
        for start in range(count - period - 1, -1, -1):
            if entries[start] == entries[start + period]:
                runs[period][start] = runs[period][start + 1] + 1
    return runs


def _head(model: Model) -> list[str]:
    lines = [f"name: {_scalar(model.name)}"]
    if model.aliases:
        lines.append(_flow("aliases: ", [_scalar(alias) for alias in model.aliases], "[]"))
    lines.append(f"family: {_scalar(model.family)}")
    if model.architecture_class is not None:
        lines.append(f"architecture_class: {_scalar(model.architecture_class)}")
    lines.append(f"dtype: {model.dtype}")
    schemes = ("kv_scheme", "kv_scheme_method")
    return lines + [f"{key}: {getattr(model, key)}" for key in schemes if getattr(model, key) is not None]


def _source(model: Model, date: str | None, url: str | None) -> list[str]:
    """Where the model was read; kept from its provenance where that is known."""
    origin = {key: value for key, value in model.provenance.items() if value}
    if url is not None:
        origin = {"url": url, **{key: value for key, value in origin.items() if key not in ("url", "file")}}
    elif not origin.keys() & {"url", "file"}:
        origin = {"url" if model.source.startswith("http") else "file": model.source, **origin}
    origin["date"] = date or origin.get("date") or datetime.date.today().isoformat()
    stated: dict[str, str] = {
        key: _scalar(origin[key]) for key in ("url", "file", "revision", "parameters") if key in origin
    }
    stated["date"] = _date(origin["date"])
    return [_flow("source: ", [f"{key}: {value}" for key, value in stated.items()], "{}")]


def _name_kinds(layers: Sequence[Layer]) -> dict[str, LayerKind]:
    """Every different kind under a short name. Kinds differ by their repr, which shows what equality passes over."""
    named: dict[str, LayerKind] = {}
    seen: set[str] = set()
    for kind in (kind for layer in layers for kind in layer):
        if KINDS.get(kind.kind) is not type(kind):
            raise UnsupportedError(f"the layer kind {type(kind).__name__} cannot be written into a spec")
        if repr(kind) not in seen:
            seen.add(repr(kind))
            base = _SHORT_NAMES.get(kind.kind, kind.kind)
            same = sum(_SHORT_NAMES.get(other.kind, other.kind) == base for other in named.values())
            named[f"{base}_{same + 1}" if same else base] = kind
    return named


def _flow_kind(kind: LayerKind) -> str:
    """``{kind: sliding_window, num_kv_heads: 4, …}``; fields that have their default are left out."""
    fields = [
        f"{entry.name}: {getattr(kind, entry.name)}"
        for entry in sorted(dataclasses.fields(kind), key=lambda entry: entry.default is not dataclasses.MISSING)
        if getattr(kind, entry.name) != entry.default
    ]
    return "{" + ", ".join([f"kind: {kind.kind}", *fields]) + "}"


def write_widths(widths: Widths) -> str:
    """``widths: {vocab_size: 128256, intermediate_size: 14336}``; fields that have their default are left out."""
    values: dict[str, Any] = {
        entry.name: getattr(widths, entry.name)
        for entry in dataclasses.fields(widths)
        if getattr(widths, entry.name) != entry.default
    }
    spelled = {name: str(list(value) if isinstance(value, tuple) else value).lower() for name, value in values.items()}
    return _flow("widths: ", [f"{name}: {value}" for name, value in spelled.items()], "{}")


def _patterns(layers: Sequence[Layer], names: Mapping[str, str]) -> list[str]:
    entries = ["+".join(names[repr(kind)] for kind in layer) for layer in layers]
    lines = []
    for pattern, repeat in compress(entries):
        flow = _flow("  - {pattern: ", pattern, "[]")
        lines.append(flow + (f", repeat: {repeat}}}" if repeat > 1 else "}"))
    return lines


def _parameters(parameters: Parameters) -> list[str]:
    counts: dict[str, Any] = {name: getattr(parameters, name) for name in PARAMETER_PARTS if getattr(parameters, name)}
    counts["total"] = parameters.total
    if parameters.active is not None:
        counts["active"] = parameters.active
    if parameters.mtp:
        counts["mtp"] = parameters.mtp
    return [f"  {key}: {value}" for key, value in {**counts, "certainty": parameters.certainty}.items()]


def _weights(model: Model) -> list[str]:
    stated = {
        "format": None if model.weights.weight_format is None else _scalar(model.weights.weight_format),
        "bytes": model.weights.exact_bytes,
        "parameters": model.weights.exact_parameters,
    }
    fields = [f"{key}: {value}" for key, value in stated.items() if value is not None]
    return [_flow("weights: ", fields, "{}")] if fields else []


def _flow(head: str, items: Sequence[str], brackets: str) -> str:
    """``head: [a, b, c]``, broken between items where a line grows too long."""
    text = head + brackets[0] + ", ".join(items) + brackets[1]
    if len(text) <= LINE_LENGTH:
        return text
    lines = [""]
    for item in items:
        if len(lines[-1]) + len(item) > LINE_LENGTH - 6:
            lines.append("")
        lines[-1] += f"{item}, "
    body = "\n".join(f"    {line.rstrip()}" for line in lines)
    return f"{head}{brackets[0]}\n{body.rstrip(',')}{brackets[1]}"


def _date(text: str) -> str:
    """A date as YAML, bare if it is one: YAML then reads a date, whose text is the same."""
    try:
        return text if _DATE.fullmatch(text) and datetime.date.fromisoformat(text) else _scalar(text)
    except ValueError:
        return _scalar(text)


def _scalar(text: str) -> str:
    """A string as YAML: bare where that is safe, else in double quotes."""
    if _PLAIN.fullmatch(text) and text.lower() not in _KEYWORDS:
        return text
    import yaml  # only strings with special characters need it

    return str(yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**9)).strip()
