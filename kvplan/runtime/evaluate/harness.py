"""A model and how it is read from: prefill, let the cache compress, then read through what the cache still holds.

A forward pass over an empty cache attends to the rows as they came, whatever the cache makes of them, so nothing that
it predicts says anything about a compression. Figures therefore come from tokens that are fed *after* the prefill. One
token is taken from the prefill itself: the first of an answer whose whole prompt was compressed, as engines take it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import Cache

from kvplan.core.errors import FileError, KvplanError, UnknownNameError
from kvplan.runtime.attention import attending
from kvplan.runtime.evaluate.methods import Method
from kvplan.runtime.transformers_cache import CompressedCache
from kvplan.runtime.verify.device import choose_device

NATIVE_FORMATS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_DTYPES = {
    **{name: dtype for dtype, name in NATIVE_FORMATS.items()},
    **{str(dtype).removeprefix("torch."): dtype for dtype in NATIVE_FORMATS},
}
DTYPE_WORDS = ("auto", *_DTYPES)
"""What ``dtype`` takes."""


@dataclass(frozen=True, kw_only=True)
class ModelHandle:
    """A causal language model in evaluation mode, with its tokenizer.

    ``native`` is the format in which an uncompressed cache stores its rows. It is the dtype of the checkpoint, which
    engines serve in, even where the arithmetic is done in float32, as on a CPU.
    """

    name: str
    model: Any
    tokenizer: Any
    device: torch.device
    native: str

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        found: torch.dtype = self.model.dtype
        return found

    @property
    def vocab_size(self) -> int:
        """Tokens that the model tells apart, which is how wide its logits are."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def max_tokens(self) -> int | None:
        """The longest context that the config states; None where it states none."""
        found = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return int(found) if found else None

    @property
    def reads_bytes(self) -> bool:
        """Whether a token is a byte, as in the demo model."""
        return self.encode("The code, \n42") == list(b"The code, \n42")

    def encode(self, text: str, *, start: bool = False) -> list[int]:
        """Token ids; with what the tokenizer puts before a text (never behind it) where it is the ``start``."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=start, verbose=False)["input_ids"]
        ends = self.tokenizer.eos_token_id
        return ids[:-1] if start and len(ids) > 1 and ids[-1] == ends else ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, up to the end that the model wrote."""
        ends = self.end_tokens
        length = next((at for at, token in enumerate(ids) if token in ends), len(ids))
        text: str = self.tokenizer.decode(list(ids[:length]), skip_special_tokens=True)
        return text

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens after which a text is over."""
        told = getattr(self.model.generation_config, "eos_token_id", None)
        found = [self.tokenizer.eos_token_id, *(told if isinstance(told, list) else [told])]
        return frozenset(token for token in found if token is not None)

    def new_cache(self, method: Method) -> Cache:
        """An empty cache of the method for this model. Raises UnsupportedError where the model cannot have it."""
        return method.new_cache(self.model.config, self.native)

    def rows(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """[batch, tokens] on the model's device; the rows are equally long."""
        return torch.tensor(list(map(list, ids)), dtype=torch.long, device=self.device)

    def prefill(self, ids: Tensor, cache: Cache) -> Tensor:
        """Feed ``ids`` [batch, tokens] in one pass, after which the cache holds what its method keeps of them.

        Returns the likeliest next token, [batch, 1], which does not depend on the method: no figure may rest on it.
        """
        return self._logits(ids, cache, only_last=True).argmax(dim=-1)

    def score_suffix(self, cache: Cache, ids: Tensor, chunk: int) -> Iterator[Tensor]:
        """Log-probabilities (nats, fp32) of the next token behind each of ``ids`` [batch, tokens], chunk by chunk.

        Each is [batch, up to ``chunk``, vocabulary]. Tokens of a chunk see each other as they are and all before them
        through the cache, which then compresses them: chunks of 1 are decoding exactly, larger ones are nearly so.
        """
        for start in range(0, ids.shape[1], chunk):
            yield self._logits(ids[:, start : start + chunk], cache, only_last=False).float().log_softmax(dim=-1)

    def generate_after(self, cache: Cache, ids: Tensor, max_new_tokens: int) -> list[list[int]]:
        """Feed ``ids`` [batch, tokens] through the cache, then decode greedily: up to ``max_new_tokens`` for each row.

        Returns the new tokens. Ends early once every row has ended; ``decode`` cuts a row where it did.
        """
        made: list[Tensor] = []
        over = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)
        ends = torch.tensor(sorted(self.end_tokens), dtype=torch.long, device=ids.device)
        while len(made) < max_new_tokens and not over.all():
            ids = self._logits(ids, cache, only_last=True)[:, -1:].argmax(dim=-1)
            over |= torch.isin(ids[:, 0], ends)
            made.append(ids)
        rows: list[list[int]] = torch.cat(made, dim=1).tolist() if made else [[] for _ in range(ids.shape[0])]
        return rows

    def _logits(self, ids: Tensor, cache: Cache, *, only_last: bool) -> Tensor:
        """[batch, tokens or 1, vocabulary] of a forward pass that reads the cache and appends to it."""
        with torch.inference_mode(), reading(self.model, cache):
            logits: Tensor = self.model(
                input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=int(only_last)
            ).logits
        return logits[:, -1:] if only_last else logits


def reading(model: Any, cache: Any) -> AbstractContextManager[Any]:
    """The context in which ``model`` runs with ``cache``: policies must see attention; other caches may bring their own
    (a method ``attending(model)``), or need none."""
    if isinstance(cache, CompressedCache):
        return attending(model, cache)
    own = getattr(cache, "attending", None)
    return own(model) if own is not None else nullcontext()


def load_model(
    reference: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    attention: str | None = None,
    native: str | None = None,
    name: str | None = None,
) -> ModelHandle:
    """The model of a folder or a Hub id.

    ``dtype`` is one of ``DTYPE_WORDS``; ``auto`` is the checkpoint's own, and fp32 on a CPU. ``attention`` is
    transformers' ``attn_implementation``. Raises FileError where there is no such model, UnknownNameError or
    UnsupportedError for a dtype or device that is none.
    """
    if dtype not in DTYPE_WORDS:
        raise UnknownNameError("dtype", dtype, DTYPE_WORDS)
    chosen = choose_device(device)
    with _quietly(), _as_file_error(reference):
        stored = getattr(transformers.AutoConfig.from_pretrained(reference), "dtype", None) or torch.float32
        computes_in = _DTYPES.get(dtype) or (torch.float32 if chosen.type == "cpu" else stored)
        options = {"attn_implementation": attention} if attention else {}
        model = transformers.AutoModelForCausalLM.from_pretrained(reference, dtype=computes_in, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(reference)
    own_format = native or NATIVE_FORMATS.get(stored, NATIVE_FORMATS[computes_in])
    return ModelHandle(
        name=name or reference, model=model.eval().to(chosen), tokenizer=tokenizer, device=chosen, native=own_format
    )


@contextmanager
def _as_file_error(reference: str) -> Iterator[None]:
    """What transformers raises on a folder or an id that it cannot load, as one line."""
    try:
        yield
    except KvplanError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FileError(
            f"{reference}: not loaded as a causal language model: {reason}",
            "give a folder with config.json, weights and tokenizer, or the id of a model on the Hub",
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without progress bars, and without what the Hub's client says of each try where there is no network."""
    bars, hub = transformers.utils.logging, logging.getLogger("huggingface_hub")
    shown, level = bars.is_progress_bar_enabled(), hub.level
    bars.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.setLevel(level)
        if shown:
            bars.enable_progress_bar()
