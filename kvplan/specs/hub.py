"""A model on the Hugging Face Hub: its config, and exact weights from the headers of its safetensors files.

Needs the extra ``hub``; only the config and the headers are fetched. Without network, a copy in its cache serves.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kvplan.core.errors import FileError, UnknownNameError, near_hint
from kvplan.core.model import Model, WeightsOnDisk

TIMEOUT_SECONDS = 10


def read_hub(repo_id: str) -> Model:
    """The Model of a Hub repository.

    Raises UnknownNameError where the extra is not installed or the Hub has no such repository, and FileError, in one
    line, where the network or the access is missing.
    """
    from kvplan.specs.catalogue import catalogue_names
    from kvplan.specs.config_json import QUANTIZATION_FILE, load_checkpoint_config, read_config

    try:
        import huggingface_hub as hub
    except ImportError:
        error = UnknownNameError("model", repo_id, catalogue_names())
        error.hint = f"{error.hint}; to fetch it from the Hub, install the extra: pip install '.[hub]' in a checkout"
        raise error from None
    try:
        info = hub.HfApi().model_info(repo_id, timeout=TIMEOUT_SECONDS)
        revision = info.sha
        path = Path(hub.hf_hub_download(repo_id, "config.json", revision=revision, etag_timeout=TIMEOUT_SECONDS))
        if any(file.rfilename == QUANTIZATION_FILE for file in info.siblings or ()):  # lands beside the config
            hub.hf_hub_download(repo_id, QUANTIZATION_FILE, revision=revision, etag_timeout=TIMEOUT_SECONDS)
    except Exception as error:  # the client raises its own, its HTTP library's and the system's errors
        return _read_cached(hub, repo_id, error)
    url = f"https://huggingface.co/{repo_id}"
    provenance = {"url": url, "revision": revision} if revision else {"url": url}
    model = replace(read_config(load_checkpoint_config(path), url, repo_id), provenance=provenance)
    weights = _fetch_weights(hub, repo_id)
    if weights is None:
        note = "the weights are not counted: the Hub gave no safetensors headers"
        return replace(model, architecture=replace(model.architecture, notes=(*model.notes, note)))
    return replace(model, weights=replace(weights, weight_format=model.weights.weight_format))


def _read_cached(hub: Any, repo_id: str, error: Exception) -> Model:
    """The Model of the copy in the Hub's cache; without one, what went wrong in one line."""
    from kvplan.specs.catalogue import catalogue_names
    from kvplan.specs.reference import read_folder

    reason = type(error).__name__
    if reason in ("RepositoryNotFoundError", "HFValidationError"):
        raise UnknownNameError("model", repo_id, catalogue_names()) from None
    cached = hub.try_to_load_from_cache(repo_id, "config.json")
    if isinstance(cached, str):
        return read_folder(Path(cached).parent)
    raise FileError(
        f"{repo_id}: is no packaged spec, and its config.json could not be fetched from the Hub ({reason})",
        f"{near_hint(repo_id, catalogue_names())}; or give a path to its config.json; or check network and access",
    ) from None


def _fetch_weights(hub: Any, repo_id: str) -> WeightsOnDisk | None:
    """Exact weights, or None where the repository has no safetensors files or the client cannot read them."""
    from kvplan.specs.safetensors_header import StoredTensor, weights_of

    try:
        metadata = hub.HfApi().get_safetensors_metadata(repo_id)
        return weights_of(
            StoredTensor(tensor.dtype, tensor.parameter_count, tensor.data_offsets[1] - tensor.data_offsets[0])
            for file in metadata.files_metadata.values()
            for tensor in file.tensors.values()
        )
    except Exception:  # as above; the note says that the weights are not counted
        return None
