"""Where the demo model is."""

from __future__ import annotations

from pathlib import Path

from kvplan.core.errors import FileError


def demo_folder() -> Path:
    """The folder that ``from_pretrained`` loads. Raises FileError where an installation lacks the weights."""
    folder = Path(__file__).parent / "model"
    if not (folder / "model.safetensors").is_file():
        raise FileError(f"the demo model is not in {folder}", "reinstall kvplan: its wheel holds the weights")
    return folder
