"""Texts to read: a file of the user's, or prose of the demo's making where there is none."""

from __future__ import annotations

from pathlib import Path
from random import Random

from kvplan.core.errors import FileError
from kvplan.runtime.demo.data import passage
from kvplan.runtime.evaluate.harness import ModelHandle


def read_text(path: Path) -> str:
    """A text file. Raises FileError where it cannot be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}", "give a file of plain text") from None
    except UnicodeDecodeError:
        raise FileError(f"{path}: it is not UTF-8 text", "give a file of plain text") from None


def prose_ids(handle: ModelHandle, tokens: int, seed: int) -> list[int]:
    """``tokens`` token ids of prose, started as the tokenizer starts a text."""
    ids = handle.encode("", start=True)
    rng = Random(f"{seed} prose")
    while len(ids) < tokens:
        ids += handle.encode(passage(rng, _PASSAGE_BYTES))
    return ids[:tokens]


_PASSAGE_BYTES = 2048
"""As long as the texts that the demo model has learnt from."""
