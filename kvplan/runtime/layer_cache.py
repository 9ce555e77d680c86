"""The cache of one layer: its rows in their formats, the tokens that its policy keeps, and nothing else between steps.

A step has three acts: ``append`` takes the new rows and returns all rows that the new queries may look at (old ones
decoded, new ones as they came), the model attends, and ``settle`` stores the new rows and drops what the policy does
not keep. After it the layer holds exactly what the calculator prices, ``store_kind`` of the same layer.

Policies that choose tokens need to know which they hold, and some of them how much attention each has received: that
is bookkeeping (int32 positions and fp32 sums, one of each per token and head), which prices do not count, as no row
of the cache is in it. ``bookkeeping_tensors`` shows it. A layer that keeps everything, or drops by age alone, has none.
The weights of recent queries are not carried from step to step: a policy sees those of the step's own queries.

A budget can rise by more tokens than came (PyramidKV, where its pyramid sets in): what was dropped does not return, so
the layer then holds fewer tokens than priced until new ones have come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kvplan.core.errors import UnsupportedError
from kvplan.core.format import CacheFormat
from kvplan.core.geometry import CacheChoice, PlacedKind, store_kind
from kvplan.core.part import Part
from kvplan.core.policy import Place, RetentionPolicy, kept_tokens
from kvplan.core.units import MAX_TOKENS
from kvplan.policies.tiers import AgeTiers
from kvplan.runtime.age_tiers import AgeTierStore
from kvplan.runtime.choose import choose_tokens
from kvplan.runtime.codec import Rows, nbytes
from kvplan.runtime.masked_attention import Visibility, Watched
from kvplan.runtime.row_store import gather_tokens
from kvplan.runtime.selector import Observation
from kvplan.runtime.selectors import selector_of
from kvplan.runtime.store import PartStore
from kvplan.runtime.stores import build_store


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What lives between ``append`` and ``settle``: the new rows, all rows, and the positions of all rows."""

    fresh: tuple[Tensor, ...]
    full: tuple[Tensor, ...]
    positions: Tensor

    @property
    def num_fresh(self) -> int:
        return int(self.fresh[0].shape[2])

    @property
    def num_tokens(self) -> int:
        return int(self.full[0].shape[2])


def chooses_tokens(policy: RetentionPolicy) -> bool:
    """Whether a policy picks among a layer's tokens, so that those held have gaps between their positions.

    Not so where it keeps everything, however long the context (``none``, ``keep=1``), or drops by age alone (tiers).
    """
    if isinstance(policy, AgeTiers):
        return False
    return policy.growth(MAX_TOKENS, Place(0, 1)) < 1 or selector_of(policy).least_score(policy) > -math.inf


class LayerCache:
    """Keys and values (or latent and rotary key, or whatever parts its kind has) of one layer.

    ``item`` is the layer's kind, place and formats as the calculator has them, ``choice`` the request's. ``padding``
    and ``special`` [batch, positions seen] mark padding, which is dropped first and never attended to, and special
    tokens, which some policies prefer. Raises UnsupportedError where the layer cannot be stored so.
    """

    def __init__(self, item: PlacedKind, choice: CacheChoice) -> None:
        self.item, self.choice = item, choice
        self.parts = item.kind.parts()
        self.seen_tokens = 0
        self.padding: Tensor | None = None
        self.special: Tensor | None = None
        self.chooses = chooses_tokens(choice.policy)
        self._selector = selector_of(choice.policy) if self.chooses else None
        self._check()
        self._stores = [self._empty_store(part) for part in self.parts]
        self._positions: Tensor | None = None
        self._received: Tensor | None = None
        self._step: _Step | None = None
        self._batch_size = 0

    @property
    def num_tokens(self) -> int:
        """Tokens held."""
        return self._stores[0].num_tokens

    @property
    def batch_size(self) -> int:
        """Sequences held; 0 before the first rows."""
        return self._batch_size

    @property
    def needs_attention(self) -> bool:
        """Whether ``settle`` must be told what the queries looked at."""
        return self._selector is not None and self._selector.needs_attention

    @property
    def recent_queries(self) -> int:
        """How many of the newest queries' weights the policy asks for."""
        return self._selector.recent_queries if self._selector is not None else 0

    @property
    def in_step(self) -> bool:
        """Whether rows were appended and are not settled yet."""
        return self._step is not None

    def append(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """Take new rows of each part, [batch, heads, tokens, width], and return all rows in their dtype."""
        if self._step is not None:
            raise RuntimeError("the last step of this layer was not settled")
        old = [store.read(new.dtype) if self.num_tokens else None for store, new in zip(self._stores, rows)]
        full = tuple(new if held is None else torch.cat([held, new], dim=2) for held, new in zip(old, rows))
        self.seen_tokens += rows[0].shape[2]
        self._batch_size = rows[0].shape[0]
        self._step = _Step(fresh=rows, full=full, positions=self._step_positions(rows[0]))
        return full

    def visibility(self) -> Visibility:
        """Which of the rows that ``append`` returned each of the new queries may look at."""
        step = self._require_step()
        first_query = self.seen_tokens - step.num_fresh
        return Visibility(positions=step.positions, first_query=first_query, window=self._window, padding=self.padding)

    def settle(self, watched: Watched | None = None) -> None:
        """Store the new rows and drop what is not kept; ``watched`` is required by policies that need attention."""
        step = self._require_step()
        if self.needs_attention:
            if watched is None:
                raise RuntimeError(f"the policy {self.choice.policy.name} must be shown the attention of every step")
            self._received = None if self.recent_queries else self._add_received(watched.received)
        index = None if isinstance(self.choice.policy, AgeTiers) else self._kept_index(step, watched)
        self._store_rows(step, index)
        if self.chooses:
            self._positions = step.positions.to(torch.int32)
            if index is not None:
                self._positions = self._positions.gather(2, index)
                self._received = None if self._received is None else self._received.gather(2, index)
        self._step = None

    def read(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """All rows of each part, decoded."""
        return tuple(store.read(dtype) for store in self._stores)

    def positions(self) -> Tensor:
        """Original positions of the tokens held, [batch, heads, tokens]; [1, 1, tokens] where none was chosen."""
        if self._positions is not None:
            return self._positions
        return self._by_age(self.num_tokens)[None, None]

    def crop(self, tokens: int) -> None:
        """Forget the newest ``tokens``. Raises UnsupportedError where dropped tokens would have to come back."""
        limit = self.parts[0].limit_tokens
        windowed = limit is not None and self.seen_tokens > limit
        if self.chooses or windowed or isinstance(self.choice.policy, AgeTiers):
            raise UnsupportedError(
                "this cache cannot go back: it has dropped tokens or moved them to other tiers",
                "leave out assisted decoding, or use the policy none",
            )
        for store in self._stores:
            index = torch.arange(store.num_tokens - tokens)
            store.keep(index.expand(self._batch_size, self.parts[0].num_heads, -1))
        self.seen_tokens -= tokens

    def select_sequences(self, index: Tensor) -> None:
        """Take the sequences at ``index`` [new batch]: beams are reordered, repeated or dropped."""
        if not self.num_tokens:
            return
        self._batch_size = len(index)
        for store in self._stores:
            store.select_sequences(index)
        for name in ("_positions", "_received", "padding", "special"):
            held = getattr(self, name)
            if held is not None:
                setattr(self, name, held[index.to(held.device)])

    def tensors(self) -> Rows:
        """Every tensor that the price counts, as ``key.codes`` and the like."""
        return {
            f"{part.name}.{name}": held
            for part, store in zip(self.parts, self._stores)
            if store.num_tokens
            for name, held in store.tensors().items()
        }

    def bookkeeping_tensors(self) -> Rows:
        """Positions and sums of attention that a policy needs; no price counts them."""
        held = {"positions": self._positions, "received": self._received}
        return {name: tensor for name, tensor in held.items() if tensor is not None}

    def host_tensors(self) -> Rows:
        """Original rows that wait in host memory until their last tier; no price counts them."""
        return {
            f"{part.name}.{name}": held
            for part, store in zip(self.parts, self._stores)
            if isinstance(store, AgeTierStore)
            for name, held in store.host_tensors().items()
        }

    @property
    def stored_bytes(self) -> int:
        """Bytes of ``tensors``."""
        return nbytes(self.tensors())

    def predicted_bytes(self, sequences: int) -> int:
        """What the calculator says of this layer, all sequences, at the tokens seen so far."""
        return sequences * store_kind(self.item, self.choice, self._context_tokens, 0).total_bytes

    @property
    def _context_tokens(self) -> int:
        """Tokens seen without those that the model prepends."""
        return max(0, self.seen_tokens - self.parts[0].prefix_tokens)

    @property
    def _pinned(self) -> int:
        """First tokens that a window never drops: what the model prepends, and its sinks."""
        return self.parts[0].prefix_tokens + int(getattr(self.item.kind, "num_sink_tokens", 0))

    @property
    def _window(self) -> int | None:
        """Tokens that a query sees, itself included."""
        limit = self.parts[0].limit_tokens
        return None if limit is None else limit - int(getattr(self.item.kind, "num_sink_tokens", 0))

    def _check(self) -> None:
        if not self.parts or any(part.encoder or part.tokens_per_row > 1 for part in self.parts):
            raise UnsupportedError(f"a {self.item.kind.kind} layer does not store a row of each token it sees")
        if self._pinned and self._window is not None and isinstance(self.choice.policy, AgeTiers):
            raise UnsupportedError(
                "age tiers cannot hold the first tokens of a windowed layer", "choose another policy"
            )

    def _empty_store(self, part: Part) -> PartStore:
        if isinstance(self.choice.policy, AgeTiers):
            return AgeTierStore(self.choice.policy, part, lambda name: self._format(name, part))
        return build_store(self._format(None, part), part.name, part.width)

    def _format(self, name: str | None, part: Part) -> CacheFormat:
        return self.choice.tier_formats[name] if name else self.item.kv_format.of(part)

    def _require_step(self) -> _Step:
        if self._step is None:
            raise RuntimeError("append rows before attending or settling")
        return self._step

    def _step_positions(self, rows: Tensor) -> Tensor:
        """Positions of the tokens held and the new ones, [batch, heads, tokens], int32 on the device of the rows."""
        batch, heads, fresh, _ = rows.shape
        if self._positions is None:
            return self._by_age(self.num_tokens + fresh).to(rows.device).expand(batch, heads, -1)
        new = torch.arange(self.seen_tokens - fresh, self.seen_tokens, device=rows.device, dtype=torch.int32)
        return torch.cat([self._positions, new.expand(batch, heads, fresh)], dim=2)

    def _by_age(self, tokens: int) -> Tensor:
        """Positions of ``tokens`` tokens, nothing but the oldest having been dropped, and the pinned never."""
        pinned = min(self._pinned, tokens)
        newest = torch.arange(self.seen_tokens - (tokens - pinned), self.seen_tokens, dtype=torch.int32)
        return torch.cat([torch.arange(pinned, dtype=torch.int32), newest])

    def _add_received(self, received: Tensor) -> Tensor:
        if self._received is None:
            return received
        return torch.nn.functional.pad(self._received, (0, received.shape[2] - self._received.shape[2])) + received

    def _kept_index(self, step: _Step, watched: Watched | None) -> Tensor | None:
        """Which of the step's tokens stay, [batch, heads, kept] ascending; None for all of them."""
        resident = self.parts[0].resident_tokens(self._context_tokens)
        kept = kept_tokens(self.choice.policy, resident, self.item.place) if self.chooses else resident
        total = step.num_tokens
        if self._selector is not None and (kept < total or self._selector.least_score(self.choice.policy) > -math.inf):
            return choose_tokens(self._selector, self.choice.policy, self._observation(step, watched), min(kept, total))
        if kept >= total:
            return None
        pinned = min(self._pinned, kept)
        index = torch.cat([torch.arange(pinned), torch.arange(total - (kept - pinned), total)])
        return index.to(step.positions.device).expand(*step.positions.shape[:2], kept)

    def _observation(self, step: _Step, watched: Watched | None) -> Observation:
        positions = step.positions.to(torch.int64)
        excluded = self._outside_window(positions)
        order, special = positions, self._special_so_far()
        if self.padding is not None:
            heads = positions.shape[1]
            excluded = excluded | self.padding[:, None].expand(-1, heads, -1).gather(2, positions)
            order = (~self.padding).cumsum(1)[:, None].expand(-1, heads, -1).gather(2, positions) - 1
            special = None if special is None else _without_padding(special, self.padding)
        return Observation(
            keys=step.full[0],
            values=step.full[-1],
            positions=order,
            received=self._received,
            seen_by=(self.seen_tokens - positions).clamp(max=self._window or self.seen_tokens),
            recent=None if watched is None or not self.recent_queries else watched.recent,
            special=special,
            protected=order < self._pinned if self._pinned else None,
            excluded=excluded,
        )

    def _special_so_far(self) -> Tensor | None:
        """Marks of all positions seen; those that came after the marks were made are not special."""
        if self.special is None:
            return None
        unmarked = max(0, self.seen_tokens - self.special.shape[1])
        return torch.nn.functional.pad(self.special, (0, unmarked)).to(self._require_step().positions.device)

    def _outside_window(self, positions: Tensor) -> Tensor:
        """Tokens that no later query sees."""
        if self._window is None:
            return torch.zeros_like(positions, dtype=torch.bool)
        return (positions < self.seen_tokens - self._window) & (positions >= self._pinned)

    def _store_rows(self, step: _Step, index: Tensor | None) -> None:
        """The first rows are stored after the choice, so that nothing is encoded that does not stay."""
        first = not self.num_tokens
        for store, rows in zip(self._stores, step.fresh):
            if index is None:
                store.append(rows)
            elif first:
                store.append(gather_tokens(rows, index))
            else:
                store.append(rows)
                store.keep(index)


def _without_padding(special: Tensor, padding: Tensor) -> Tensor:
    """Marks by column [batch, columns] as marks by place in the sequence, padding left out."""
    place = ((~padding).cumsum(1) - 1).clamp(min=0)
    marks = (special & ~padding).to(torch.int64)
    return torch.zeros_like(marks).scatter_add(1, place, marks) > 0
