"""What lm-evaluation-harness finds with its own ``hf`` model and with ``kvplan``, on kvplan's demo model.

Runs in an environment with kvplan, ``torch==2.13.0 transformers==5.23.0 lm_eval==0.4.13``. Prints JSON: for ``hf`` and
for each method the log-likelihoods of right and wrong answers to needles, what is generated, and the rolling
log-likelihood of a text; then the accuracy of a task of the harness's own kind, run by its evaluator.

    python tests/parity/lm_eval_answers.py --model kvplan/runtime/demo/model
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import lm_eval
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from kvplan.runtime.demo.data import haystack, passage, question
from kvplan.runtime.evaluate.lm_eval_adapter import KvplanLM

METHODS = ("none", "int8", "kivi2", "window:128;sinks=4")
LENGTHS = (420, 460, 500)
TASK = """
task: kvplan_people
dataset_path: json
dataset_kwargs: {{data_files: {path}}}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{target}}}}"
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def asked() -> dict[str, list[Instance]]:
    """Needles near the start, each with the right answer and a wrong one; a text."""
    rng = Random(3)
    questions = [haystack(rng, length, 0.1, 2) for length in LENGTHS]
    wrong = [next(choice for choice in one.choices if choice != one.answer) for one in questions]
    pairs = [(one.prompt, text) for one, other in zip(questions, wrong) for text in (one.answer, other)]
    stop = {"until": ["\n"], "max_gen_toks": 6}
    return {
        "loglikelihood": [Instance("loglikelihood", {}, pair, 0) for pair in pairs],
        "generate_until": [Instance("generate_until", {}, (one.prompt, stop), 0) for one in questions],
        "loglikelihood_rolling": [Instance("loglikelihood_rolling", {}, (passage(rng, 300),), 0)],
    }


def answers(model: HFLM) -> dict[str, Any]:
    """Of every kind of request."""
    return {kind: getattr(model, kind)(instances) for kind, instances in asked().items()}


def accuracy(model: HFLM) -> float:
    """On questions with choices about people, by the harness's own evaluator."""
    rng = Random(5)
    made = [question(rng, 400) for _ in range(8)]
    rows = [{"prompt": one.prompt, "choices": one.choices, "target": one.choices.index(one.answer)} for one in made]
    with tempfile.TemporaryDirectory() as folder:
        data, task = Path(folder) / "people.jsonl", Path(folder) / "people.yaml"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        task.write_text(TASK.format(path=data), encoding="utf-8")
        manager = TaskManager(include_path=folder, include_defaults=False)
        found = lm_eval.simple_evaluate(model=model, tasks=["kvplan_people"], task_manager=manager)
    assert found is not None
    return float(found["results"]["kvplan_people"]["acc,none"])


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    options = {"pretrained": parser.parse_args().model, "device": "cpu", "dtype": "float32", "batch_size": 2}
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        hf = HFLM(**options)
        found = {"hf": answers(hf)}
        tasks = {"hf": accuracy(hf)}
        for method in METHODS:
            model = KvplanLM(**options, method=method, native="fp32")
            found[method] = answers(model)
            if method in ("none", "int8"):
                tasks[method] = accuracy(model)
    print(json.dumps({"lm_eval": lm_eval.__version__, "answers": found, "accuracy": tasks}))


if __name__ == "__main__":
    main()
