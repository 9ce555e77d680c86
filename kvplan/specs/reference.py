"""``--model REF`` becomes a Model: a path, a name in the catalogue, or a Hub id, tried in this order.

Each reader is imported when its turn comes, so that a packaged spec costs neither pydantic nor the families.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from kvplan.core.errors import FileError, UnknownNameError
from kvplan.core.model import Model

_FILE_ENDINGS = (".yaml", ".yml", ".json", ".gguf", ".safetensors")
_HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_HUB_SNAPSHOT = r"models--(.+?)--(.+)"
_CONFIG_MARKS = frozenset(
    ("model_type", "architectures", "hidden_size", "num_hidden_layers", "n_layer", "n_embd", "d_model", "num_layers")
)
"""A JSON object without any of these is some other file."""


def resolve_model(ref: str) -> Model:
    """The Model that ``ref`` names.

    Raises FileError for a path that leads to nothing readable, SpecError for a file with mistakes, and
    UnknownNameError, with the near names, for a name that nobody knows.
    """
    from kvplan.specs.catalogue import find_spec, load_found

    path = _as_path(ref)
    if path is not None and path.is_file():
        return read_file(path)
    found = find_spec(ref) if ref.strip() else None
    if path is not None and path.is_dir() and (found is None or _holds_model(path)):
        return read_folder(path)
    if found is not None:
        return load_found(found)
    if ref.lower().endswith(_FILE_ENDINGS) or ref.startswith((".", "/", "~")):
        raise FileError(f"{ref}: there is no such file or folder")
    if re.fullmatch(_HUB_ID, ref, re.ASCII):
        from kvplan.specs.hub import read_hub

        return read_hub(ref)
    raise unknown_model(ref)


def unknown_model(ref: str) -> UnknownNameError:
    """The error for a name that is neither a path nor in the catalogue."""
    from kvplan.specs.catalogue import catalogue_names

    return UnknownNameError("model", ref, catalogue_names())


def read_file(path: Path) -> Model:
    """The Model in a spec, a config or a GGUF file."""
    ending = path.suffix.lower()
    if ending in (".yaml", ".yml"):
        from kvplan.specs.spec_yaml import read_spec

        return read_spec(path)
    if ending == ".json":
        return _read_config(path)
    if ending == ".gguf":
        from kvplan.specs.gguf import read_gguf

        return read_gguf(path)
    raise FileError(f"{path}: is not a file that describes a model", "read are .yaml, .json, .gguf, or a folder")


def read_folder(folder: Path) -> Model:
    """The Model in a folder with a ``config.json`` (weights from its safetensors headers) or with one GGUF model."""
    from kvplan.specs.safetensors_header import has_safetensors, read_safetensors_folder

    if (folder / "config.json").is_file():
        model = _read_config(folder / "config.json")
        if not has_safetensors(folder):
            return model
        exact = read_safetensors_folder(folder)
        weighed = replace(model, weights=replace(exact, weight_format=model.weights.weight_format))
        return _note_mismatch(weighed)
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise FileError(f"{folder}: holds no config.json and no .gguf file")
    from kvplan.specs.gguf import read_gguf, shard_set

    models = {shard_set(file) for file in files}
    if len(models) > 1:
        raise FileError(
            f"{folder}: holds {len(models)} GGUF models", f"name one: {', '.join(f.name for f in files[:5])}"
        )
    return read_gguf(files[0])


def _note_mismatch(model: Model) -> Model:
    """The model, with a note where its files hold far more or fewer parameters than its config counts.

    A few percent are usual: files may hold draft layers, or a tied output head a second time.
    """
    counted, stored = model.architecture.parameters, model.weights.exact_parameters
    if counted is None or stored is None or abs(stored - counted.total) * 10 <= counted.total:
        return model
    note = f"the files hold {stored:,} parameters where the config counts {counted.total:,}"
    return replace(model, architecture=replace(model.architecture, notes=(*model.notes, note)))


def _read_config(path: Path) -> Model:
    from kvplan.specs.config_json import load_checkpoint_config, read_config

    values = load_checkpoint_config(path)
    if not _CONFIG_MARKS & values.keys():
        raise FileError(f"{path}: is not a model config (it has no model_type and no layer count)")
    return read_config(values, str(path), _model_name(path))


def _model_name(path: Path) -> str:
    """The Hub id for a file in the Hub's cache, the folder's name for a ``config.json``, else the file's name."""
    resolved = path.absolute()
    for parent in resolved.parents:
        snapshot = re.fullmatch(_HUB_SNAPSHOT, parent.name)
        if snapshot is not None:
            return f"{snapshot[1]}/{snapshot[2]}"
    if path.name == "config.json":
        return resolved.parent.name or path.stem
    return path.stem.replace("__", "/", 1)


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or any(folder.glob("*.gguf"))


def _as_path(ref: str) -> Path | None:
    """The path that ``ref`` could be; None for text that no path can be."""
    if not ref.strip() or "\0" in ref or len(ref) > 4096:
        return None
    try:
        path = Path(ref).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # names too long, homes that do not exist
        return None
