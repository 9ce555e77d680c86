"""The floors of the house: a file imports lower floors only, and torch lives in one folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvplan

ROOT = Path(kvplan.__file__).parent

FLOORS: dict[str, set[str]] = {
    "core": set(),
    "accelerators": set(),
    "advice": set(),
    "families": {"core"},
    "formats": {"core"},
    "policies": {"core"},
    "engines": {"core"},
    "launchers": {"core"},
    "specs": {"core", "families"},
    "planning": {"core", "families", "formats", "policies", "engines", "launchers", "specs"},
    "reports": {"core", "planning"},
    "runtime": {"core", "families", "formats", "policies", "engines", "specs", "planning"},
    "cli": {
        *("core", "formats", "policies", "engines", "families", "launchers", "specs", "planning", "reports", "runtime")
    },
}
"""Folder -> folders it may import besides itself. Reports name planning's result types, nothing more."""

THIRD_PARTY: dict[str, set[str]] = {
    "specs": {"yaml", "pydantic", "huggingface_hub"},
    "reports": {"rich", "matplotlib"},
    "runtime": {"torch", "transformers", "triton", "lm_eval"},
    "cli": {"typer", "rich"},
}
ENGINE_SCRIPTS = "runtime/verify/engine_scripts"
"""Scripts that an engine's own interpreter runs: each imports its engine, and nothing of kvplan."""

ENGINE_SCRIPTS = ROOT / "runtime" / "verify" / "engine_scripts"
"""Run by the interpreters that have an engine: they know that engine, and no kvplan."""

OF_ENGINES = {"torch", "numpy", "vllm", "sglang", "llama_cpp", "gguf"}
STANDARD = {"__future__"} | set(__import__("sys").stdlib_module_names)
EXTENSIONS = ("families", "formats", "policies", "engines", "launchers")


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def sources() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "model_specs" not in path.parts)


def house() -> list[Path]:
    return [path for path in sources() if path.parent != ENGINE_SCRIPTS]


def folder_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else ""


@pytest.mark.parametrize("path", sorted(ENGINE_SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_a_script_for_an_engines_interpreter_knows_no_kvplan(path: Path) -> None:
    tops = {module.split(".")[0] for module in imported_modules(path)}
    assert tops <= STANDARD | OF_ENGINES


@pytest.mark.parametrize("path", house(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_lower_floors_only(path: Path) -> None:
    folder = folder_of(path)
    if folder == "":
        return_allowed = set(FLOORS)
    else:
        assert folder in FLOORS, f"{folder} is on no floor"
        return_allowed = FLOORS[folder] | {folder}
    for module in imported_modules(path):
        top, *rest = module.split(".")
        if top == "kvplan":
            assert not path.is_relative_to(ROOT / ENGINE_SCRIPTS), "an engine's interpreter may not have kvplan"
            target = rest[0] if rest else ""
            assert target == "" or target in return_allowed, f"{module} is above this floor"
            if folder in EXTENSIONS and target == folder:
                own = path.parent.name == rest[1] if len(rest) > 1 else True  # a large entry is a package of files
                assert path.name == "__init__.py" or own, f"siblings do not import each other: {module}"
        else:
            if path.is_relative_to(ROOT / ENGINE_SCRIPTS):
                continue
            assert top in STANDARD | THIRD_PARTY.get(folder, set()), f"{module} does not belong on this floor"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, "a file has at most 400 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"
            assert node.returns is not None, f"{node.name} has no return type"


def test_every_folder_is_on_a_floor() -> None:
    folders = {folder_of(path) for path in sources()} - {""}
    assert folders == set(FLOORS)
