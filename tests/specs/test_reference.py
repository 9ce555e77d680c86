"""What may stand after ``--model``, in the order in which it is tried."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from gguf_file import gguf_bytes, model_keys

from kvplan.core.errors import FileError, KvplanError, UnknownNameError
from kvplan.specs import catalogue
from kvplan.specs.reference import resolve_model

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 8, "num_hidden_layers": 2, "num_key_value_heads": 4, "vocab_size": 100,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "torch_dtype": "float16", "tie_word_embeddings": False,
}  # fmt: skip
GGUF = gguf_bytes(model_keys("llama", block_count=3, embedding_length=64, attention__head_count=8))
SPEC = "name: short\nnum_layers: 4\nhidden_size: 64\nnum_heads: 8\nnum_kv_heads: 2\n"


@pytest.fixture(autouse=True)
def _own_catalogue(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("specs")
    (folder / "toy-1b.yaml").write_text(SPEC.replace("short", "org/Toy-1B"), encoding="utf-8")
    monkeypatch.delenv(catalogue.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(catalogue, "spec_folders", lambda: [folder])


def write_config(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    return folder


def num_layers(ref: object) -> int:
    return resolve_model(str(ref)).architecture.num_layers


def test_every_kind_of_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(GGUF)
    (tmp_path / "b.yml").write_text(SPEC, encoding="utf-8")
    folder = write_config(tmp_path / "some-model")
    refs = (tmp_path / "a.gguf", tmp_path / "b.yml", folder / "config.json", folder, "toy-1b", "ORG/toy-1b")
    assert [num_layers(ref) for ref in refs] == [3, 4, 2, 2, 4, 4]


def test_a_model_is_named_after_its_folder_or_its_hub_id(tmp_path: Path) -> None:
    assert resolve_model(str(write_config(tmp_path / "some-model"))).name == "some-model"
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    assert resolve_model(str(write_config(snapshot))).name == "org/name"


def test_a_folder_gives_exact_weights(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "some-model")
    header = json.dumps({"w": {"dtype": "BF16", "shape": [4, 4], "data_offsets": [0, 32]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 32)
    weights = resolve_model(str(folder)).weights
    assert (weights.exact_bytes, weights.exact_parameters) == (32, 16)


def test_a_folder_with_one_gguf_model_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(GGUF)
    assert num_layers(tmp_path) == 3
    (tmp_path / "b.gguf").write_bytes(GGUF)
    with pytest.raises(FileError, match="2 GGUF models"):
        resolve_model(str(tmp_path))


def test_a_folder_without_a_model_does_not_hide_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy-1b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert num_layers("toy-1b") == 4


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("package.json", '{"name": "x", "version": "1"}', "not a model config"),
        ("list.json", "[1]", "not a model config"),
        ("broken.json", "{", "not valid JSON"),
        ("weights.bin", "x", "not a file that describes a model"),
    ],
)
def test_other_files_are_refused(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(FileError, match=said):
        resolve_model(str(tmp_path / name))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no config\.json"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("ref", ["./nothing", "nothing.yaml", "a/b/nothing.gguf", "/nothing", "~/nothing-at-all"])
def test_a_path_that_leads_nowhere_is_called_a_path(ref: str) -> None:
    with pytest.raises(FileError, match="no such file"):
        resolve_model(ref)


@pytest.mark.parametrize("ref", ["toi-1b", "", " ", "a\0b", "x" * 10_000, "~nobody-at-all/x y", "a/b/c"])
def test_a_name_that_nobody_knows_is_refused(ref: str) -> None:
    with pytest.raises(KvplanError):
        resolve_model(ref)


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve_model("toi-1b")
    assert "toy-1b" in str(caught.value.hint)


# -- the Hub ----------------------------------------------------------------------------------------------------


def fake_hub(monkeypatch: pytest.MonkeyPatch, info: Any, config: Path | None = None, metadata: Any = None) -> None:
    """A client whose ``info`` answers or raises; ``config`` is what it downloads, or holds in its cache."""
    module: Any = ModuleType("huggingface_hub")
    module.HfApi = lambda: SimpleNamespace(model_info=info, get_safetensors_metadata=metadata)
    module.hf_hub_download = lambda *_, **__: str(config)
    module.try_to_load_from_cache = lambda *_: None if config is None else str(config)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def found(*_: object, **__: object) -> SimpleNamespace:
    return SimpleNamespace(sha="abc", siblings=None)


def offline(*_: object, **__: object) -> SimpleNamespace:
    raise ConnectionError("a page\nof details")


def test_a_hub_id_is_fetched_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(tmp_path / "cache") / "config.json"
    tensor = SimpleNamespace(dtype="BF16", parameter_count=16, data_offsets=(0, 32))
    metadata = SimpleNamespace(files_metadata={"f": SimpleNamespace(tensors={"w": tensor, "v": tensor})})
    fake_hub(monkeypatch, found, config, lambda _: metadata)
    model = resolve_model("org/new")
    assert (model.name, model.source) == ("org/new", "https://huggingface.co/org/new")
    assert model.provenance["revision"] == "abc"
    assert (model.weights.exact_bytes, model.weights.exact_parameters) == (64, 32)


def test_a_repository_without_safetensors_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, found, write_config(tmp_path / "cache") / "config.json", lambda _: 1 / 0)
    assert "weights are not counted" in resolve_model("org/new").notes[-1]


def test_without_network_a_cached_copy_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, offline, write_config(tmp_path / "cache") / "config.json")
    assert num_layers("org/new") == 2


def test_network_trouble_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, offline)
    with pytest.raises(FileError, match=r"org/new.*ConnectionError") as caught:
        resolve_model("org/new")
    assert "\n" not in caught.value.message


def test_a_repository_that_does_not_exist_is_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class RepositoryNotFoundError(Exception):
        pass

    def absent(*_: object, **__: object) -> SimpleNamespace:
        raise RepositoryNotFoundError

    fake_hub(monkeypatch, absent)
    with pytest.raises(UnknownNameError, match="org/toi-1b"):
        resolve_model("org/toi-1b")


def test_without_the_extra_the_hint_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UnknownNameError) as caught:
        resolve_model("org/new")
    assert "'.[hub]'" in str(caught.value.hint)


def test_files_that_hold_another_model_than_the_config_are_noted(tmp_path: Path) -> None:
    config = Path(__file__).parent.parent / "assets" / "configs" / "HuggingFaceTB__SmolLM2-135M.json"
    (tmp_path / "config.json").write_bytes(config.read_bytes())
    header = b'{"a":{"dtype":"BF16","shape":[10,10],"data_offsets":[0,200]}}'
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(200))
    model = resolve_model(str(tmp_path))
    assert "the files hold 100 parameters where the config counts 134,515,008" in model.notes
