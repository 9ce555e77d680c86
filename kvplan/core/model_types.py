"""Which of a family's model types a config is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvplan.core.config_reader import ConfigReader


def read_model_type(config: ConfigReader, model_types: Sequence[str], classes: Mapping[str, str]) -> str:
    """The stated ``model_type`` if it is one of ``model_types``, else that of the class named in ``architectures``.

    ``classes`` maps class names to model types. A config that a family reads on neither ground (it was claimed by
    its keys) is of the family's first model type.
    """
    stated = config.text("model_type", default="")
    if stated in model_types:
        return stated
    named = config.texts("architectures") or []
    return next((classes[name] for name in named if name in classes), model_types[0])
