"""How many draft (multi-token-prediction) layers a checkpoint has, where its config may leave them out."""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader


def read_draft_count(config: ConfigReader, *keys: str, unstated: int, source: str) -> int:
    """The number that a key states; without any, the ``unstated`` layers that engines load, with a note.

    ``source`` is the engine's model class that knows them. A config that states 0 has none.
    """
    if not any(name in config.values for name in keys) and unstated:
        config.note(
            f"the checkpoint has draft layers that its config does not state; --mtp counts {unstated} ({source})"
        )
        return unstated
    return config.integer(*keys, default=0, minimum=0)
