"""Trains the demo model: ``python -m kvplan.runtime.demo.train --out DIR --minutes 8``, on one GPU, without a download.

Everything follows the clock, so that a run of any length on any machine ends with the learning rate at zero and the
model on disk. Documents are short at first: the heads that find "the bytes after an earlier copy of these" form from a
few hundred tokens in seconds, and from thousands hardly at all. Answers weigh more than prose.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from kvplan.core.frozen import dataclass
from kvplan.runtime.demo import checkpoint, recall
from kvplan.runtime.demo.data import document

_LEARNT = 0.95
"""Share of right answer bytes at which documents grow, even before their time."""
_GOOD_RECALL = 0.97
"""Mean recall at the longest length from which on the lower loss on text makes the better model."""
_EVALUATION_SEED = 1_000_003


@dataclass(frozen=True)
class Stage:
    """Documents of ``length`` bytes until ``until``, a share of the time."""

    length: int
    until: float


class Batches(Dataset):  # type: ignore[misc]
    """Batch ``i`` of a stage: rows of bytes and the weight of each in the loss. The same whoever makes it."""

    def __init__(self, seed: int, length: int, rows: int, answer_weight: int) -> None:
        self._seed, self._length, self._rows, self._answer_weight = seed, length, rows, answer_weight

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = Random(self._seed * 2**64 + self._length * 2**32 + index)
        text = bytearray()
        weights = torch.ones(self._rows, self._length, dtype=torch.uint8)
        for row in range(self._rows):
            made = document(rng, self._length)
            text += made.text
            for start, end in made.answers:
                weights[row, start:end] = self._answer_weight
        return torch.frombuffer(text, dtype=torch.uint8).view(self._rows, self._length), weights


class Clock:
    """Shares of the time that a run may take, from now on."""

    def __init__(self, seconds: float) -> None:
        self._start, self._seconds = time.monotonic(), seconds

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._start

    @property
    def share(self) -> float:
        """Share of the time that is gone; 1 at the end."""
        return self.elapsed / self._seconds


class Trainer:
    """Model, optimiser and what was seen of the answers lately."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, options.device
        self.model = checkpoint.build(options.hidden, options.layers, options.seed).to(self.device)
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)
        self.steps, self.tokens = 0, 0
        if self.device == "cuda" and not options.eager:
            compile_layers(self.model)

    def step(self, text: Tensor, weights: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """One update. Returns the loss of all bytes and the share of answer bytes that were right, both on device."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        targets = text.to(self.device, torch.long, non_blocking=True)
        weight = weights.to(self.device, non_blocking=True).float()
        tokens = functional.pad(targets[:, :-1], (1, 0), value=checkpoint.BOS)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            logits = self.model(input_ids=tokens, use_cache=False).logits
        losses = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        loss = (losses * weight.flatten()).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps, self.tokens = self.steps + 1, self.tokens + targets.numel()
        with torch.no_grad():
            answer = weight > 1
            right = (logits.argmax(-1) == targets) & answer
            return losses.detach().mean(), right.sum() / answer.sum()


def compile_layers(model: Any) -> None:
    """Compile one layer for all, which takes seconds per document length; what cannot be compiled runs as it is."""
    dynamo = torch._dynamo.config
    dynamo.suppress_errors = True
    dynamo.recompile_limit = max(dynamo.recompile_limit, 64)
    for layer in model.model.layers:
        layer.compile(dynamic=False)


def learning_rate(share: float, step: int, peak: float) -> float:
    """Level for half of the time, then a half cosine to zero; the first 100 steps rise to it, however long they take.

    ``share`` is the time gone, ``step`` the updates done. Compiling takes time but no steps.
    """
    fallen = min(1.0, max(0.0, (share - 0.5) / 0.5))
    return peak * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * fallen))


def stages(lengths: Sequence[int]) -> list[Stage]:
    """The last length takes at least 55 % of the time, the others share the rest."""
    shares = [0.45 * (at + 1) / max(1, len(lengths) - 1) for at in range(len(lengths) - 1)]
    return [Stage(length, until) for length, until in zip(lengths, [*shares, 1.0])]


def streams(options: argparse.Namespace, plan: Sequence[Stage]) -> list[Iterator[tuple[Tensor, Tensor]]]:
    """The batches of each stage, made by processes of their own that start before the GPU is touched."""
    made: list[Iterator[tuple[Tensor, Tensor]]] = []
    for stage in plan:
        rows = max(1, options.tokens_per_step // stage.length)
        batches = Batches(options.seed, stage.length, rows, options.answer_weight)
        loader = DataLoader(batches, batch_size=None, num_workers=options.workers, prefetch_factor=2)
        made.append(iter(loader))
    return made


class Record:
    """What was measured so far, the best of it on disk."""

    def __init__(self, options: argparse.Namespace, trainer: Trainer, clock: Clock) -> None:
        self.options, self.trainer, self.clock = options, trainer, clock
        lengths = [length for length in (256, 512, 1024, 2048) if length <= max(options.lengths)]
        self.probes = recall.probes(_EVALUATION_SEED, lengths or [max(options.lengths)], options.per_depth)
        self.best = (-1.0, 0.0)
        self.kept: dict[str, int] = {}
        self.history: list[dict[str, Any]] = []

    def evaluate(self) -> None:
        """Measure recall and loss, print them, and save the model unless an earlier one was better."""
        model, device = self.trainer.model.eval(), self.trainer.device
        enabled = device == "cuda"
        with torch.compiler.set_stance("force_eager"), torch.autocast(device, torch.bfloat16, enabled=enabled):
            shares = recall.measure(model, self.probes, device)
            loss = recall.text_loss(model, device, _EVALUATION_SEED, max(self.options.lengths))
        model.train()
        entry = {"seconds": round(self.clock.elapsed), "steps": self.trainer.steps, "tokens": self.trainer.tokens}
        self.history.append(
            {**entry, "text_loss": round(loss, 4), "recall": {k: round(v, 4) for k, v in shares.items()}}
        )
        print(json.dumps(self.history[-1]), flush=True)
        longest = max(probe.length for probe in self.probes)
        at_longest = [share for name, share in shares.items() if name.endswith(f"@{longest}")]
        score = (min(sum(at_longest) / len(at_longest), _GOOD_RECALL), -loss)
        if score >= self.best:
            self.best, self.kept = score, entry
            checkpoint.save(model, self.options.out, self.card())

    def confirm(self) -> dict[str, Any]:
        """Measure the model as it lies on disk, and add that to its card."""
        folder, device = self.options.out, self.trainer.device
        stored = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        shares = recall.measure(stored, self.probes, device)
        loss = recall.text_loss(stored, device, _EVALUATION_SEED, max(self.options.lengths))
        card = {**self.card(), "stored_in_bf16": {"text_loss": loss, "recall": shares}}
        checkpoint.write(folder / "training.json", card)
        print(json.dumps(card["stored_in_bf16"]), flush=True)
        return card

    def card(self) -> dict[str, Any]:
        """How the model on disk came about."""
        cuda = self.options.device == "cuda"
        given = ["DIR" if Path(argument) == self.options.out else argument for argument in sys.argv[1:]]
        return {
            "command": " ".join(("python -m kvplan.runtime.demo.train", *given)),
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "parameters": sum(p.numel() for p in self.trainer.model.parameters()),
            "context": max(self.options.lengths),
            "data": "generated by kvplan.runtime.demo.data, no corpus",
            "seed": self.options.seed,
            "kept": self.kept,
            "history": self.history,
        }


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train until the time is up; returns the card of the model on disk."""
    clock = Clock(options.minutes * 60 - options.reserve)
    plan = stages(options.lengths)
    sources = streams(options, plan)
    torch.set_float32_matmul_precision("high")
    trainer = Trainer(options)
    record = Record(options, trainer, clock)
    at, evaluated, seen = 0, clock.elapsed, []
    while clock.share < 1.0:
        text, weights = next(sources[at])
        seen.append(trainer.step(text, weights, learning_rate(clock.share, trainer.steps, options.rate)))
        if len(seen) < options.log_every:
            continue
        loss, right = (float(torch.stack(values).mean()) for values in zip(*seen))
        seen = []
        print(_line(clock, trainer, plan[at], loss, right), flush=True)
        if at + 1 < len(plan) and (clock.share >= plan[at].until or right >= _LEARNT):
            at += 1
        if clock.elapsed - evaluated > options.evaluate_every:
            record.evaluate()
            evaluated = clock.elapsed
    record.evaluate()
    return record.confirm()


def _line(clock: Clock, trainer: Trainer, stage: Stage, loss: float, right: float) -> str:
    speed = trainer.tokens / clock.elapsed
    return (
        f"{clock.elapsed:6.0f} s  step {trainer.steps:6d}  {trainer.tokens / 1e6:8.1f} M tokens  {speed / 1e6:5.2f} M/s"
        f"  length {stage.length:4d}  loss {loss:.4f}  answer bytes right {right:.4f}"
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; the defaults are what the shipped model was trained with."""
    parser = argparse.ArgumentParser(prog="python -m kvplan.runtime.demo.train", description="train the demo model")
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for the model")
    add("--minutes", type=float, default=8.0, help="wall time, without the imports")
    add("--reserve", type=float, default=25.0, help="seconds of it kept for the last measurement")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu"))
    add("--eager", action="store_true", help="do not compile the layers")
    add("--seed", type=int, default=1)
    add("--hidden", type=int, default=256)
    add("--layers", type=int, default=5)
    add("--lengths", type=int, nargs="+", default=[128, 512, 2304], help="bytes of a document, stage by stage")
    add("--tokens-per-step", type=int, default=32 * 2304)
    add("--rate", type=float, default=2e-3, help="highest learning rate")
    add("--answer-weight", type=int, default=8, help="weight of an answer's byte in the loss")
    add("--workers", type=int, default=12, help="processes that make text, per stage")
    add("--per-depth", type=int, default=40, help="questions for each depth, length and kind")
    add("--log-every", type=int, default=50, help="steps")
    add("--evaluate-every", type=float, default=60.0, help="seconds")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(parse())
