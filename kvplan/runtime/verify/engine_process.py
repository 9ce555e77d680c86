"""Asks a real engine something in a process of its own, which may be another interpreter's.

The script that runs there knows no kvplan: it reads a JSON question from a file and writes a JSON answer to another.
The process leads a group of its own, and the whole group is killed afterwards, whatever it has started.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvplan.core.errors import UnsupportedError, UsageError

SCRIPTS = Path(__file__).parent / "engine_scripts"
_LAST_WORDS = 12
"""Lines of the engine's own talk that an error may quote from."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked: ``script`` is the name of a file in ``engine_scripts``, ``body`` what it reads.

    ``python`` is the interpreter; ``environment`` is added to this process's, or taken out where it says None. No
    answer takes over ``seconds``. ``config`` is written to a folder that the body then names as ``model``.
    """

    script: str
    body: Mapping[str, Any]
    python: str
    seconds: float
    environment: Mapping[str, str | None] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the script wrote, and everything that the engine said (stdout and stderr)."""

    body: Mapping[str, Any]
    log: str


def engine_python(variable: str, stated: str | None) -> str:
    """The interpreter of an engine: the one stated, else the one that the environment names, else this one.

    Raises UsageError for one that is not there.
    """
    named = stated or os.environ.get(variable)
    if not named:
        return sys.executable
    found = shutil.which(os.path.expanduser(named))
    if found is None:
        where = "--engine-python" if stated else variable
        raise UsageError(f"{where} {named}: no such program", "give the path of the engine's python")
    return found


def ask(question: Question) -> Answer:
    """The script's answer. Raises UnsupportedError, with the engine's last words, where it gives none in time."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered, said = (Path(folder, name) for name in ("question.json", "answer.json", "log.txt"))
        asked.write_text(json.dumps(_body(question, Path(folder))), encoding="utf-8")
        command = [question.python, str(SCRIPTS / question.script), str(asked), str(answered)]
        status = _run(command, question, said)
        log = said.read_text(encoding="utf-8", errors="replace")
        name = question.script.removeprefix("start_").removesuffix(".py")
        if status is None:
            raise UnsupportedError(f"{name} gave no answer in {question.seconds:.0f} s", _hint(log))
        try:
            body = json.loads(answered.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UnsupportedError(f"{name} ended without an answer (exit status {status})", _hint(log)) from None
    return Answer(body=body, log=log)


def _body(question: Question, folder: Path) -> Mapping[str, Any]:
    if question.config is None:
        return question.body
    (folder / "config.json").write_text(json.dumps(question.config), encoding="utf-8")
    return {**question.body, "model": str(folder)}


def _run(command: list[str], question: Question, log: Path) -> int | None:
    """Run to the end and return the exit status (of a signal: less than 0), or None at the end of the time."""
    changed = {**os.environ, **question.environment}
    environment = {name: value for name, value in changed.items() if value is not None}
    with log.open("w", encoding="utf-8") as said:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise UsageError(f"{question.python}: cannot be run ({error.strerror})") from None
        try:
            return process.wait(question.seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _kill_group(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it has started: engines leave workers behind."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _hint(log: str) -> str | None:
    """The last line of the engine's talk that names an error, or its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()][-_LAST_WORDS:]
    errors = [line for line in lines if "Error" in line or "error" in line]
    words = (errors or lines or [""])[-1]
    return f"its last words: {words[:300]}" if words else None
