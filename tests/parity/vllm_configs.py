"""Put a config.json where vLLM can read it without the code of the checkpoint's own repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: architectures that vLLM knows by another name than the checkpoint's file uses.
RENAMED = {"MiniMaxM3ForCausalLM": "MiniMaxM3SparseForCausalLM"}

#: fields that a configuration class in the checkpoint's own repository would add; none decides a cache size.
ADDED_FIELDS = {
    "minimax_m3": {"swiglu_beta": 1.0, "swiglu_alpha": 1.702, "swiglu_limit": 7.0},
    "ernie4_5_moe_vl": {"use_temporal_conv": True},
}


class Fields(dict[str, Any]):
    """A nested part of a configuration whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


def _register_plain_class(config: dict[str, Any]) -> None:
    """Stand in for a configuration class that lives in the checkpoint's own repository: keep every field as it is."""
    from transformers import AutoConfig, PretrainedConfig

    # As class attributes, the fields are there while the base class checks its rope parameters.
    fields = {name: value for name, value in config.items() if not isinstance(value, dict)}
    fields |= ADDED_FIELDS.get(config["model_type"], {})

    def init(self: Any, **kwargs: Any) -> None:
        PretrainedConfig.__init__(self, **kwargs)
        for name in {"vision_config", "text_config"} & kwargs.keys():
            setattr(self, name, PretrainedConfig(**kwargs[name]))
        for name in {"block_configs"} & kwargs.keys():
            setattr(self, name, json.loads(json.dumps(kwargs[name]), object_hook=Fields))

    AutoConfig.register(config["model_type"], type("PlainConfig", (PretrainedConfig,), {**fields, "__init__": init}))


def write_config(source: Path, folder: str) -> None:
    """Copy a config.json for vLLM to read, free of pointers to code that is not there."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from vllm.transformers_utils.config import _CONFIG_REGISTRY

    config = json.loads(source.read_text())
    config.pop("auto_map", None)
    config["architectures"] = [RENAMED.get(name, name) for name in config.get("architectures") or ()]
    model_type = config.get("model_type")
    if model_type and model_type not in CONFIG_MAPPING and model_type not in _CONFIG_REGISTRY:
        _register_plain_class(config)
    Path(folder, "config.json").write_text(json.dumps(config))
