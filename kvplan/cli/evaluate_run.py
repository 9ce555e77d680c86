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
    from kvplan.specs.thresholds import ThresholdRules

DEMO_NAME = "kvplan-demo"
DEMO_SNAPKV = "snapkv:keep=0.3,window=16,kernel=13"
"""For a model whose tokens are bytes: votes of the question alone, and spread over the bytes of a word."""

DEMO_METHODS = f"int8,fp8,int4,kivi2,int2,window:512,sinks=4,h2o:keep=0.5,{DEMO_SNAPKV}"
"""One of each kind: 8 bits, 4 bits, 2 bits as KIVI has them and plain, a recency window, two ways to choose tokens."""

DEFAULT_METHODS = "int8,fp8,int4"
"""Those that engines offer."""

DEMO_CONTEXT, DEFAULT_CONTEXT = 2048, 4096
"""Tokens; a model's own maximum where that is less."""

LEAST_TOKENS = 256
"""Of a context: four needles with a question are some 200 bytes, which are tokens of the demo model."""

SUFFIX_SHARE = 8
"""One part in so many of a text is scored, behind the rest."""

CHUNK_TOKENS, DECODE_TOKENS = 32, 8
NUM_TEXTS = 8
"""Texts where nothing is said."""

TASKS = ("perplexity", "needle", "qa", "latency", "memory")
SAMPLED_TASKS = ("perplexity", "needle", "qa")
"""Those of which ``--samples`` are taken."""

LEAST_SAMPLES = 2


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
    except KeyboardInterrupt:
        if words["results"] and not (rank and rank.index):
            print(f"stopped: the same command goes on from {words['results']}", file=sys.stderr)
        raise


def _evaluate(words: Mapping[str, Any], rank: "Rank | None", share: "Share") -> "Evaluation | None":
    from kvplan.core.engine import check_name
    from kvplan.planning.evaluate import evaluate_records
    from kvplan.runtime.evaluate.harness import load_model

    methods = tuple(asked_methods(words))
    check_name("--question-aware", words["question_aware"], ("on", "off"))
    tasks = split_tasks(words["tasks"] or _default_tasks(words))
    rules = _rules(words["thresholds"]) if words["thresholds"] else None
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
        notes=(*_notes(words, plan), *_shortfalls(plan, records)),
    )


def _rules(file: str) -> "ThresholdRules":
    """The thresholds of a file. Raises KvplanError, also for a method in it that is none."""
    from kvplan.core.errors import KvplanError, SpecError
    from kvplan.planning.quality_gates import canonical_method
    from kvplan.specs.thresholds import read_thresholds

    rules, problems = read_thresholds(Path(file).expanduser()), []
    for name in rules.methods:
        try:
            canonical_method(name)
        except KvplanError as error:
            problems.append(f"methods.{name}: {error.message}{f'; {error.hint}' if error.hint else ''}")
    if problems:
        raise SpecError(file, problems, "a method is written as --methods takes it")
    return rules


def split_tasks(text: str) -> tuple[str, ...]:
    """The tasks of a list by commas, each once, in the order of ``TASKS``. Raises UsageError."""
    from kvplan.core.engine import check_name
    from kvplan.core.errors import UsageError

    asked = {check_name("--tasks", piece.strip(), TASKS) for piece in text.split(",") if piece.strip()}
    if not asked:
        raise UsageError("--tasks names nothing to measure", f"allowed: {', '.join(TASKS)}")
    return tuple(task for task in TASKS if task in asked)


def split_samples(text: str | None) -> dict[str, int]:
    """Samples by task: of ``64`` the same for all, of ``perplexity=64,needle=150`` each its own. Raises UsageError."""
    from kvplan.core.engine import check_name
    from kvplan.core.errors import UsageError

    found: dict[str, int] = {}
    for piece in () if text is None else text.split(","):
        name, equals, number = piece.strip().rpartition("=")
        named = (check_name("--samples", name.strip(), SAMPLED_TASKS),) if equals else SAMPLED_TASKS
        if not number.strip().isdecimal():
            raise UsageError(f"--samples {text!r} is no number", "write --samples 64, or perplexity=64,needle=150")
        if int(number) < LEAST_SAMPLES:
            raise UsageError(f"--samples must be at least {LEAST_SAMPLES}, not {int(number)}")
        found |= dict.fromkeys(named, int(number))
    return found


def build_plan(words: Mapping[str, Any], tasks: tuple[str, ...], max_tokens: int | None) -> Plan:
    """The settings of every task, asked for or not. Raises UsageError for a context beyond the model's."""
    from kvplan.runtime.evaluate.cost import CostSettings
    from kvplan.runtime.evaluate.needle import NeedleSettings
    from kvplan.runtime.evaluate.perplexity import PerplexitySettings
    from kvplan.runtime.evaluate.qa import QaSettings

    context = _context(words, max_tokens)
    sizes = _demo_sizes(context) if words["demo"] else _sizes(context)
    text, questions = _path(words["text"]), _path(words["questions"])
    seed, aware, samples = words["seed"], words["question_aware"] == "on", split_samples(words["samples"])
    suffix = max(1, context // SUFFIX_SHARE)
    cells = len(sizes.lengths) * len(sizes.num_keys) * len(NeedleSettings().depths)
    cost = CostSettings(
        context_tokens=context - DECODE_TOKENS, decode_tokens=DECODE_TOKENS, repeats=sizes.turns, seed=seed
    )
    settings = {
        "perplexity": PerplexitySettings(
            text=text,
            prefix_tokens=sizes.text_tokens - suffix,
            suffix_tokens=suffix,
            chunk_tokens=CHUNK_TOKENS,
            num_samples=samples.get("perplexity", NUM_TEXTS),
            seed=seed,
        ),
        "needle": NeedleSettings(
            lengths_tokens=sizes.lengths,
            num_keys=sizes.num_keys,
            per_cell=-(-samples.get("needle", sizes.num_needles) // cells),
            text=text,
            question_aware=aware,
            seed=seed,
        ),
        "qa": QaSettings(
            questions=questions,
            num_samples=samples.get("qa"),
            question_aware=aware,
            seed=seed,
        ),
        "latency": cost,
        "memory": cost,
    }
    return Plan(context, tasks, settings)


class _Sizes(NamedTuple):
    """How long texts and prompts are, how many needles are looked for, and how many turns are timed."""

    text_tokens: int
    lengths: tuple[int, ...]
    num_keys: tuple[int, ...]
    num_needles: int
    turns: int


def _sizes(context: int) -> _Sizes:
    """Texts and the longest prompts fill the context; needles stand alone and among others."""
    return _Sizes(context, _lengths(context), (1, 4), 60, 9)


def _demo_sizes(context: int) -> _Sizes:
    """Shorter texts and fewer needles and turns, all needles among others: two minutes on two cores do for all."""
    return _Sizes(max(LEAST_TOKENS, context // 2), _lengths(context), (4,), 15, 6)


def _lengths(context: int) -> tuple[int, ...]:
    """Of prompts: a quarter of the context, a half and all of it, as far as needles have room."""
    return tuple(dict.fromkeys(max(LEAST_TOKENS, context // part) for part in (4, 2, 1)))


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
    if context < LEAST_TOKENS:
        raise UsageError(f"--ctx {context:,} holds no needles with a question: {LEAST_TOKENS} tokens are the least")
    return context


def _default_tasks(words: Mapping[str, Any]) -> str:
    from kvplan.cli.evaluate import DEFAULT_TASKS

    return f"{DEFAULT_TASKS},qa" if words["questions"] else DEFAULT_TASKS


def asked_methods(words: Mapping[str, Any]) -> "dict[Method, str]":
    """What is compared with the baseline, each with the user's words: ``--methods``, and every ``--press``.

    Raises KvplanError.
    """
    from kvplan.core.errors import UsageError
    from kvplan.runtime.evaluate.methods import named_methods

    pressed: dict[Any, str] = {}
    if words["press"]:
        from kvplan.runtime.evaluate.press import PREFIX, parse_press

        pressed = {parse_press(text): f"{PREFIX}{text.removeprefix(PREFIX)}" for text in words["press"]}
    usual = DEMO_METHODS if words["demo"] else DEFAULT_METHODS
    named = words["methods"] or ("" if pressed else usual)
    found = {**(named_methods(named) if named else {}), **pressed}
    compared = {method: word for method, word in found.items() if not method.is_baseline}
    if not compared:
        raise UsageError("--methods names nothing to compare with the uncompressed cache", f"write --methods {usual}")
    return compared


def _reference(words: Mapping[str, Any]) -> str:
    """What transformers loads: a folder or a Hub id; the names that kvplan knows stand for their ids.

    Raises FileError for a path that leads nowhere.
    """
    from kvplan.core.errors import FileError, KvplanError
    from kvplan.planning.launch_plan import loaded_name
    from kvplan.runtime.demo.load import demo_folder
    from kvplan.specs.reference import resolve_model

    if words["demo"]:
        return str(demo_folder())
    asked = str(words["model"])
    folder = Path(asked).expanduser()
    if folder.exists():
        return str(folder)
    if asked.startswith((".", "/", "~")):
        raise FileError(f"{asked}: there is no such folder", "give a folder of a transformers model, or its Hub id")
    if "/" in asked:
        return asked
    try:
        return loaded_name(resolve_model(asked))
    except KvplanError:  # transformers knows best what it cannot load
        return asked


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
            settings={"dtype": _dtype(handle), "native": handle.native, **fixed_settings(every)},
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
        """Move the bar to where the run is."""
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
    found: dict[str, Any] = {"ctx": plan.context_tokens, "dtype": _dtype(handle)}
    found |= {"native": handle.native, "tasks": ",".join(plan.tasks), "seed": words["seed"]}
    texts = plan.settings["perplexity"]
    if "perplexity" in plan.tasks:
        found["texts"] = f"{texts.prefix_tokens}+{texts.suffix_tokens} tokens"
    return {**found, **({"question_aware": words["question_aware"]} if {"needle", "qa"} & set(plan.tasks) else {})}


def _dtype(handle: "ModelHandle") -> str:
    """What the model computes in, as torch names it."""
    return str(handle.dtype).removeprefix("torch.")


def _shortfalls(plan: Plan, records: "list[Record]") -> "Iterator[str]":
    """Where a file of the user's holds fewer samples than were asked for, so that asking for more changes nothing."""
    texts, questions = plan.settings["perplexity"], plan.settings["qa"]
    length = texts.prefix_tokens + texts.suffix_tokens
    files = {"perplexity": (texts.text, f"texts of {length:,} tokens"), "qa": (questions.questions, "questions")}
    for task, (path, words) in files.items():
        asked = plan.settings[task].num_samples
        taken = len({record.sample for record in records if record.task == task})
        if path is not None and asked is not None and 0 < taken < asked:
            yield f"{path} holds {taken} {words}, fewer than the {asked} of {task} that were asked for"


def _notes(words: Mapping[str, Any], plan: Plan) -> tuple[str, ...]:
    from kvplan.runtime.evaluate.cost import LATENCY_NOTE

    notes = [LATENCY_NOTE] if "latency" in plan.tasks else []
    if {"needle", "qa"} & set(plan.tasks):
        aware = words["question_aware"] == "on"
        when = "after it was read with its question" if aware else "before the question was read"
        other = "off" if aware else "on"
        notes.append(f"the context was compressed {when}; --question-aware {other} shows the other way")
    return tuple(notes)
