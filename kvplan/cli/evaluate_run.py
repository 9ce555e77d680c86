"""Runs an evaluation for the command: words become settings, the model is loaded, records become a report."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from kvplan.core.evaluation import Evaluation, Record
    from kvplan.runtime.evaluate.harness import ModelHandle
    from kvplan.runtime.evaluate.methods import Method
    from kvplan.runtime.evaluate.ranks import Share
    from kvplan.runtime.evaluate.run import Step
    from kvplan.runtime.verify.ranks import Rank

DEMO_NAME = "kvplan-demo"
DEMO_SNAPKV = "snapkv:keep=0.3,window=16,kernel=13"
"""For a model whose tokens are bytes: votes of the question alone, and spread over the bytes of a word."""

DEMO_METHODS = f"int8,fp8,int4,kivi2,window:512,sinks=4,h2o:keep=0.5,{DEMO_SNAPKV}"
"""One of each kind: 8 bits, 4 bits, 2 bits, a recency window, and two ways to choose tokens."""

DEFAULT_METHODS = "int8,fp8,int4"
"""Those that engines offer."""

DEMO_CONTEXT, DEFAULT_CONTEXT = 2048, 4096
"""Tokens; a model's own maximum where that is less."""

SUFFIX_SHARE = 8
"""One part in so many of a text is scored, behind the rest."""

CHUNK_TOKENS, DECODE_TOKENS = 32, 8
NUM_TEXTS, NUM_QUESTIONS = 8, 40
"""Samples where nothing is said."""


TASKS = ("perplexity", "needle", "qa", "latency", "memory")


class Plan(NamedTuple):
    """What is run on a model: ``settings`` by task, ``tasks`` those that are asked for."""

    context_tokens: int
    tasks: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def asked(self) -> list[Any]:
        """The settings of the tasks that are asked for, each once."""
        return list({id(entry): entry for entry in (self.settings[task] for task in self.tasks)}.values())


def run_evaluation(words: Mapping[str, Any]) -> "Evaluation | None":
    """What all processes found, on the one that reports; None on the others. Raises KvplanError."""
    from kvplan.core.errors import KvplanError
    from kvplan.runtime.evaluate.ranks import joined
    from kvplan.runtime.verify.ranks import launched_rank

    rank = launched_rank()
    try:
        with joined(rank) as share:
            return _evaluate(words, rank, share)
    except KvplanError as error:
        if rank is not None and rank.index:  # rank 0 tells
            sys.exit(error.exit_code)
        raise


def _evaluate(words: Mapping[str, Any], rank: "Rank | None", share: "Share") -> "Evaluation | None":
    from kvplan.core.engine import check_name
    from kvplan.planning.evaluate import evaluate_records
    from kvplan.runtime.evaluate.harness import load_model
    from kvplan.specs.thresholds import read_thresholds

    methods = _methods(words)
    check_name("--question-aware", words["question_aware"], ("on", "off"))
    tasks = split_tasks(words["tasks"] or _default_tasks(words))
    rules = read_thresholds(Path(words["thresholds"]).expanduser()) if words["thresholds"] else None
    device = rank.device_word(words["device"]) if rank else words["device"]
    name = DEMO_NAME if words["demo"] else words["model"]
    handle = load_model(_reference(words), device=device, dtype=words["dtype"], name=name)
    plan = build_plan(words, tasks, handle.max_tokens)
    records = _records(words, handle, methods, plan, share)
    if not share.gathers:
        return None
    return evaluate_records(
        [record for record in records if record.task in plan.tasks],  # latency and memory are measured together
        model=handle.name,
        device=str(handle.device),
        versions=_versions(methods),
        settings=_shown(words, plan, handle),
        context_tokens=plan.context_tokens,
        rules=rules,
        notes=_notes(words, plan),
    )


def split_tasks(text: str) -> tuple[str, ...]:
    """The tasks of a list by commas, each once, in the order of ``TASKS``. Raises UsageError."""
    from kvplan.core.engine import check_name
    from kvplan.core.errors import UsageError

    asked = {check_name("--tasks", piece.strip(), TASKS) for piece in text.split(",") if piece.strip()}
    if not asked:
        raise UsageError("--tasks names nothing to measure", f"allowed: {', '.join(TASKS)}")
    return tuple(task for task in TASKS if task in asked)


def build_plan(words: Mapping[str, Any], tasks: tuple[str, ...], max_tokens: int | None) -> Plan:
    """The settings of every task, asked for or not. Raises UsageError for a context beyond the model's."""
    from kvplan.runtime.evaluate.cost import CostSettings
    from kvplan.runtime.evaluate.needle import NeedleSettings
    from kvplan.runtime.evaluate.perplexity import PerplexitySettings
    from kvplan.runtime.evaluate.qa import QaSettings

    context = _context(words, max_tokens)
    sizes = _demo_sizes(context) if words["demo"] else _sizes(context)
    text, questions = _path(words["text"]), _path(words["questions"])
    seed, aware, samples = words["seed"], words["question_aware"] == "on", words["samples"]
    suffix = max(1, context // SUFFIX_SHARE)
    cells = len(sizes.lengths) * len(sizes.num_keys) * len(NeedleSettings().depths)
    cost = CostSettings(context_tokens=context - DECODE_TOKENS, decode_tokens=DECODE_TOKENS, seed=seed)
    settings = {
        "perplexity": PerplexitySettings(
            text=text,
            prefix_tokens=sizes.text_tokens - suffix,
            suffix_tokens=suffix,
            chunk_tokens=CHUNK_TOKENS,
            num_samples=samples or NUM_TEXTS,
            seed=seed,
        ),
        "needle": NeedleSettings(
            lengths_tokens=sizes.lengths,
            num_keys=sizes.num_keys,
            per_cell=-(-(samples or sizes.num_needles) // cells),
            text=text,
            question_aware=aware,
            seed=seed,
        ),
        "qa": QaSettings(questions=questions, num_samples=samples or NUM_QUESTIONS, question_aware=aware, seed=seed),
        "latency": cost,
        "memory": cost,
    }
    return Plan(context, tasks, settings)


class _Sizes(NamedTuple):
    """How long texts and prompts are, and how many needles are looked for."""

    text_tokens: int
    lengths: tuple[int, ...]
    num_keys: tuple[int, ...]
    num_needles: int


def _sizes(context: int) -> _Sizes:
    """Texts and the longest prompts fill the context; needles stand alone and among others."""
    return _Sizes(context, (context // 4, context // 2, context), (1, 4), 60)


def _demo_sizes(context: int) -> _Sizes:
    """Shorter texts and fewer needles, all of them among others: all is done in two minutes on two cores."""
    return _Sizes(context // 2, (context // 4, context // 2, context), (4,), 15)


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None


def _context(words: Mapping[str, Any], max_tokens: int | None) -> int:
    """Tokens of the longest prompt."""
    from kvplan.core.errors import UsageError
    from kvplan.core.units import parse_tokens

    usual = DEMO_CONTEXT if words["demo"] else DEFAULT_CONTEXT
    context = parse_tokens(words["ctx"], "--ctx") if words["ctx"] else min(usual, max_tokens or usual)
    if max_tokens is not None and context > max_tokens:
        raise UsageError(f"--ctx {context:,} is beyond what the model reads: {max_tokens:,} tokens")
    return context


def _default_tasks(words: Mapping[str, Any]) -> str:
    from kvplan.cli.evaluate import DEFAULT_TASKS

    return f"{DEFAULT_TASKS},qa" if words["questions"] else DEFAULT_TASKS


def _methods(words: Mapping[str, Any]) -> "tuple[Method, ...]":
    """What is compared with the baseline: ``--methods``, and each ``--press``. Raises KvplanError."""
    from kvplan.core.errors import UsageError
    from kvplan.runtime.evaluate.methods import parse_methods

    pressed: list[Any] = []
    if words["press"]:
        from kvplan.runtime.evaluate.press import parse_press

        pressed = [parse_press(text) for text in words["press"]]
    usual = DEMO_METHODS if words["demo"] else DEFAULT_METHODS
    named = words["methods"] or ("" if pressed else usual)
    found = (*(parse_methods(named) if named else ()), *pressed)
    compared = tuple(method for method in dict.fromkeys(found) if not method.is_baseline)
    if not compared:
        raise UsageError("--methods names nothing to compare with the uncompressed cache", f"write --methods {usual}")
    return compared


def _reference(words: Mapping[str, Any]) -> str:
    from kvplan.runtime.demo.load import demo_folder

    return str(demo_folder()) if words["demo"] else str(words["model"])


def _records(
    words: Mapping[str, Any], handle: "ModelHandle", methods: "tuple[Method, ...]", plan: Plan, share: "Share"
) -> "list[Record]":
    from kvplan.runtime.evaluate.results_file import Header, ResultsFile
    from kvplan.runtime.evaluate.run import fixed_settings, run
    from kvplan.runtime.evaluate.run import plan as plan_pieces

    results = None
    if words["results"]:
        every = list({id(entry): entry for entry in plan.settings.values()}.values())
        header = Header(
            model=handle.name,
            device=str(handle.device),
            settings=fixed_settings(every),
            versions=_versions(methods),
            seed=words["seed"],
        )
        results = ResultsFile(Path(words["results"]).expanduser(), header, share.index)
    with progress_bar(shown=share.gathers) as progress:
        return run(handle, methods, plan_pieces(handle, plan.asked), results=results, share=share, progress=progress)


@contextmanager
def progress_bar(shown: bool) -> "Iterator[Callable[[Step], None]]":
    """A bar on stderr, where that is a terminal: how many records are there, and what was measured last."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))
    task = bar.add_task("checking the harness", total=None)

    def told(step: "Step") -> None:
        bar.update(task, completed=step.done, total=step.total, description=f"{step.task}: {step.method}")

    with bar:
        yield told


def _versions(methods: "tuple[Method, ...]") -> dict[str, str]:
    from importlib.metadata import version

    import kvplan

    names = ["torch", "transformers"]
    names += ["kvpress"] if any(method.text.startswith("press:") for method in methods) else []
    return {"kvplan": kvplan.__version__, **{name: version(name) for name in names}}


def _shown(words: Mapping[str, Any], plan: Plan, handle: "ModelHandle") -> dict[str, Any]:
    """The settings that a reader needs to judge the figures."""
    found: dict[str, Any] = {"ctx": plan.context_tokens, "dtype": str(handle.dtype).removeprefix("torch.")}
    found |= {"native": handle.native, "tasks": ",".join(plan.tasks), "seed": words["seed"]}
    texts = plan.settings["perplexity"]
    if "perplexity" in plan.tasks:
        found["texts"] = f"{texts.prefix_tokens}+{texts.suffix_tokens} tokens"
    return {**found, **({"question_aware": words["question_aware"]} if {"needle", "qa"} & set(plan.tasks) else {})}


def _notes(words: Mapping[str, Any], plan: Plan) -> tuple[str, ...]:
    from kvplan.runtime.evaluate.cost import LATENCY_NOTE

    notes = [LATENCY_NOTE] if "latency" in plan.tasks else []
    if {"needle", "qa"} & set(plan.tasks):
        aware = words["question_aware"] == "on"
        when = "after it was read with its question" if aware else "before the question was read"
        other = "off" if aware else "on"
        notes.append(f"the context was compressed {when}; --question-aware {other} shows the other way")
    return tuple(notes)
