"""A JSON object from a file, or one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kvplan.core.errors import FileError


def load_json_object(path: Path, what: str, max_bytes: int) -> dict[str, Any]:
    """The mapping in a JSON file that should be ``what``. Raises FileError when it is none, or above ``max_bytes``."""
    try:
        if path.stat().st_size > max_bytes:
            raise FileError(f"{path}: too large to be {what}")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise FileError(f"{path}: is not valid JSON") from None
    if not isinstance(values, dict):
        raise FileError(f"{path}: is not {what} (a JSON object is expected)")
    return values
