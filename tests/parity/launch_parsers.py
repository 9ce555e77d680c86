"""Reads command lines and Python programs with an engine's own argument parser, and says which fields they fill.

Run with the engine's interpreter; kvplan is not needed there:

    python tests/parity/launch_parsers.py vllm < questions.json > answers.json

A question is ``{"argv": [...], "python": "..." or null}``; an answer the fields that differ from the defaults,
``{"argv": {...}, "python": {...} or null}``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import types
from collections.abc import Callable
from typing import Any

Reader = tuple[Callable[[list[str]], dict[str, Any]], Callable[[str], dict[str, Any]]]


def plain(value: Any) -> Any:
    """A value as JSON has it; an enumeration's member by its name."""
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value.name if hasattr(value, "name") and hasattr(type(value), "__members__") else value


def differing(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Fields that are set to something else than the default."""
    return {name: plain(value) for name, value in given.items() if name in defaults and value != defaults[name]}


def called(program: str, module: str, name: str) -> dict[str, Any]:
    """The keywords with which a program calls ``module.name``, which is replaced for it; the program really runs."""
    calls: list[dict[str, Any]] = []
    stand_in = types.ModuleType(module)
    setattr(stand_in, name, lambda **keywords: calls.append(keywords))
    before = sys.modules.get(module)
    sys.modules[module] = stand_in
    try:
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})
    finally:
        if before is not None:
            sys.modules[module] = before
    (keywords,) = calls
    return keywords


def vllm() -> Reader:
    """``vllm serve``: its own sub-parser, then ``AsyncEngineArgs.from_cli_args``; ``LLM`` hands to ``EngineArgs``."""
    from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    names = [field.name for field in dataclasses.fields(EngineArgs)]

    def fields(arguments: Any) -> dict[str, Any]:
        return {name: getattr(arguments, name) for name in names}

    def parsed(words: list[str]) -> dict[str, Any]:
        found = parser.parse_args(words)
        found.model = found.model_tag  # entrypoints/cli/serve.py, ServeSubcommand.cmd
        return fields(AsyncEngineArgs.from_cli_args(found))

    def from_argv(argv: list[str]) -> dict[str, Any]:
        assert argv[:2] == ["vllm", "serve"], argv
        return differing(parsed(argv[2:]), parsed([""]))

    def from_python(program: str) -> dict[str, Any]:
        return differing(fields(EngineArgs(**called(program, "vllm", "LLM"))), fields(EngineArgs(model="")))

    return from_argv, from_python


def sglang() -> Reader:
    """``launch_server``: ``ServerArgs.add_cli_args``; ``Engine`` hands its keywords to ``ServerArgs``.

    ``ServerArgs`` itself is not made: it would look the model up. Its names and defaults are the parser's.
    """
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    names = set(ServerArgs.__struct_fields__)
    defaults = {name: value for name, value in vars(parser.parse_args(["--model-path", ""])).items() if name in names}

    def from_argv(argv: list[str]) -> dict[str, Any]:
        assert argv[:3] == ["python", "-m", "sglang.launch_server"], argv
        return differing(vars(parser.parse_args(argv[3:])), defaults)

    def from_python(program: str) -> dict[str, Any]:
        keywords = called(program, "sglang", "Engine")
        assert keywords.keys() <= names, keywords.keys() - names
        return differing(keywords, defaults)

    return from_argv, from_python


def main() -> None:
    """Answer the questions on stdin; whatever the engine prints meanwhile goes to stderr."""
    out, sys.stdout = sys.stdout, sys.stderr
    from_argv, from_python = {"vllm": vllm, "sglang": sglang}[sys.argv[1]]()
    answers = [
        {
            "argv": from_argv(question["argv"]),
            "python": None if question["python"] is None else from_python(question["python"]),
        }
        for question in json.load(sys.stdin)
    ]
    json.dump(answers, out)


if __name__ == "__main__":
    main()
