"""What to start, and how an engine is told so: the contract of a launcher."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import field

from kvplan.core.frozen import dataclass
from kvplan.core.parallel import Parallel


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """One start of an engine; None leaves an option to the engine.

    ``model``               what the engine loads: a Hub id, a folder or a file
    ``cache_word``          the engine's own word for the cache dtype (``fp8``, ``q8_0/q4_0``); ``auto`` for none
    ``native_layers``       indices of layers left in the model's dtype; ``native_windows`` for sliding-window layers
    ``host_cache_bytes``    host memory for caches that wait, all ranks together; 0 for none
    ``device``              the accelerator's name, for people; ``vendor`` who makes it (``nvidia``, ``amd``)
    """

    model: str
    engine: str
    engine_version: str | None = None
    cache_word: str = "auto"
    native_layers: tuple[int, ...] = ()
    native_windows: bool = False
    policy: str = "none"
    parallel: Parallel = field(default_factory=Parallel)
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    memory_utilization: float | None = None
    block_tokens: int | None = None
    attention_backend: str | None = None
    prefix_caching: bool | None = None
    expert_parallel: bool = False
    eager: bool = False
    text_only: bool = False
    host_cache_bytes: int = 0
    device: str = ""
    vendor: str = "nvidia"
    num_devices: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start it: a command with its environment and files, and the same in Python where the engine has that.

    ``argv`` is empty where the engine is started from Python alone. ``files`` are written beside it, by name.
    """

    target: str
    argv: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    files: Mapping[str, str] = field(default_factory=dict, hash=False)
    python: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command as one line for a POSIX shell, its environment before it; empty where there is none."""
        return " ".join(self._pieces())

    @property
    def wrapped_command(self) -> str:
        """The same over as many lines as it takes, broken before flags and ended by backslashes, for people.

        Lines have at most ``LINE_COLUMNS`` columns, unless one flag with its values is longer.
        """
        lines: list[str] = []
        for piece in self._pieces():
            last = f"{lines[-1]} {piece}" if lines else piece
            if lines and len(last) + len(_BREAK) <= LINE_COLUMNS:
                lines[-1] = last
            else:
                lines.append(f"{_INDENT}{piece}" if lines else piece)
        return f"{_BREAK}\n".join(lines)

    def _pieces(self) -> Iterator[str]:
        """What a line is not broken within: an assignment, the program with its operands, a flag with its values."""
        if self.argv:
            yield from (f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        piece: list[str] = []
        for word in self.argv:
            if piece and word.startswith("-"):
                yield shlex.join(piece)
                piece = []
            piece.append(word)
        if piece:
            yield shlex.join(piece)


LINE_COLUMNS = 80
_BREAK, _INDENT = " \\", "  "
