"""A request in words (``128k``, ``q8_0/q4_0``, ``h2o:keep=0.2``) becomes a SizeRequest."""

from __future__ import annotations

from dataclasses import field, replace

from kvplan.core.engine import Engine, EngineSettings, ModelFacts
from kvplan.core.errors import UsageError
from kvplan.core.format import KVFormat
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import CacheChoice, place_layers
from kvplan.core.model import Model
from kvplan.core.parallel import Parallel
from kvplan.core.request import SizeRequest
from kvplan.core.units import MAX_TOKENS, parse_tokens
from kvplan.formats import get_format, parse_kv_format
from kvplan.policies import get_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestWords:
    """What a user says about one request; the defaults are the command line's."""

    concurrency: int = 1
    kv_dtype: str = "auto"
    policy: str = "none"
    skip_layers: str | None = None
    encoder_tokens: str | None = None
    include_draft: bool = False
    parallel: Parallel = field(default_factory=Parallel)
    settings: EngineSettings = field(default_factory=EngineSettings)

    def for_geometry(self) -> RequestWords:
        """The same without the settings, which plain geometry does not have."""
        return replace(self, settings=EngineSettings())


def build_request(model: Model, context: str | int, words: RequestWords, engine: Engine) -> SizeRequest:
    """The SizeRequest for a model and an engine. Raises UsageError, UnknownNameError or UnsupportedError."""
    context_tokens = parse_tokens(str(context), "context")
    longest = words.settings.max_model_len
    if longest is not None and context_tokens > longest:
        raise UsageError(f"a context of {context_tokens} is longer than --max-model-len {longest}")
    if not 1 <= words.concurrency <= MAX_TOKENS:
        raise UsageError(f"--concurrency must be a positive number, not {words.concurrency}")
    if words.include_draft and not model.architecture.draft_layers:
        raise UsageError(f"{model.name} has no draft (MTP) layers", "leave --mtp out")
    encoder_tokens, notes = _encoder_tokens(model, context_tokens, words.encoder_tokens)
    return SizeRequest(
        context_tokens=context_tokens,
        choice=build_choice(model, words, engine),
        concurrency=words.concurrency,
        encoder_tokens=encoder_tokens,
        parallel=words.parallel,
        include_draft=words.include_draft,
        settings=words.settings,
        notes=notes,
    )


def build_choice(model: Model, words: RequestWords, engine: Engine) -> CacheChoice:
    """The format that the engine stores for the words, and the policy with the formats that its tiers name."""
    policy = get_policy(words.policy)
    native = parse_kv_format("auto", model.dtype)
    layers = model.architecture.layers + (model.architecture.draft_layers if words.include_draft else ())
    stages = (tuple(place_layers(layers, native)),)
    text = engine.cache_dtype(words.kv_dtype, model_facts(model), stages, words.settings)
    kv_format = parse_kv_format(text, model.dtype)
    if words.skip_layers:
        kv_format = _skip_layers(kv_format, words.skip_layers, model.architecture.num_layers)
    names: tuple[str, ...] = getattr(policy, "format_names", ())
    return CacheChoice(kv_format=kv_format, policy=policy, tier_formats={name: get_format(name) for name in names})


def model_facts(model: Model) -> ModelFacts:
    """What engines know of a model besides its layers."""
    architecture = model.architecture
    return ModelFacts(
        family=model.family,
        dtype=model.dtype,
        num_heads=architecture.num_heads,
        hidden_size=architecture.hidden_size,
        max_context_tokens=architecture.max_context_tokens,
        kv_scheme=model.kv_scheme,
        kv_scheme_method=model.kv_scheme_method,
        num_encoder_layers=architecture.num_encoder_layers,
        architecture_class=model.architecture_class,
    )


def has_encoder(model: Model) -> bool:
    """Whether a layer attends to an encoder's tokens."""
    return any(part.encoder for layer in model.architecture.layers for kind in layer for part in kind.parts())


def _encoder_tokens(model: Model, context_tokens: int, stated: str | None) -> tuple[int, tuple[str, ...]]:
    if not has_encoder(model):
        if stated is not None:
            raise UsageError(f"{model.name} has no cross-attention", "leave --encoder-tokens out")
        return 0, ()
    if stated is not None:
        return parse_tokens(stated, "--encoder-tokens"), ()
    if model.architecture.encoder_tokens is not None:
        return model.architecture.encoder_tokens, ()
    return context_tokens, (f"the encoder is counted as {context_tokens} tokens, like the context (--encoder-tokens)",)


def _skip_layers(kv_format: KVFormat, text: str, num_layers: int) -> KVFormat:
    """vLLM's ``--kv-cache-dtype-skip-layers``: layer indices (negative from the end) or ``sliding_window``."""
    native, windows = set(), False
    for item in filter(None, (piece.strip() for piece in text.split(","))):
        if item == "sliding_window":
            windows = True
            continue
        try:
            index = int(item)
        except ValueError:
            raise UsageError(
                f"--kv-dtype-skip-layers {item!r} is no layer index", "write 0,1,-1 or sliding_window"
            ) from None
        if not -num_layers <= index < num_layers:
            raise UsageError(f"--kv-dtype-skip-layers {index}: the model has {num_layers} layers")
        native.add(index % num_layers)
    return replace(kv_format, native_layers=frozenset(native), native_windows=windows)
