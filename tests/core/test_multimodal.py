"""How a wrapper reads the language model inside it."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.core.config_reader import ConfigReader
from kvplan.core.errors import MissingKeyError, SpecError
from kvplan.core.model import Architecture, Parameters
from kvplan.core.multimodal import side, text_model, tower_section, with_towers


class Wrapped:
    """A reader whose language models are taken down instead of being resolved."""

    def __init__(self, **values: Any) -> None:
        self.seen: dict[str, Any] = {}
        self.model_type: str | None = None
        self.reader = ConfigReader(values, "config.json", resolve=self.resolve)

    def resolve(self, nested: ConfigReader, model_type: str | None) -> Architecture:
        self.seen = dict(nested.values)
        self.model_type = model_type
        nested.settle()
        return Architecture(
            layers=(), hidden_size=8, num_heads=1, max_context_tokens=None, parameters=Parameters(mlp=5)
        )


def test_keys_beside_the_wrappers_own_are_the_language_models() -> None:
    wrapped = Wrapped(
        model_type="qwen2_vl", hidden_size=64, image_token_id=7, vision_config={}, architectures=["Wrapper"]
    )
    wrapped.reader.ignore("image_token_id", "vision_config")
    wrapped.reader.text_model_here("qwen2", {"rope_theta": 1.0})
    assert wrapped.seen == {"model_type": "qwen2", "hidden_size": 64, "rope_theta": 1.0}
    assert wrapped.reader.unread() == {"architectures": ["Wrapper"]}


def test_a_nested_config_is_completed_with_its_classs_sizes_and_says_so() -> None:
    # llava-hf/llava-1.5-7b-hf states none of LlamaConfig's default sizes
    wrapped = Wrapped(text_config={"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096})
    text_model(wrapped.reader, "text_config", model_type="llama")
    assert wrapped.seen["num_hidden_layers"] == 32
    assert wrapped.seen["hidden_size"] == 4096
    assert wrapped.seen["vocab_size"] == 32064
    assert "num_hidden_layers 32" in wrapped.reader.notes[0]


def test_a_nested_type_may_read_as_another_but_is_completed_as_itself() -> None:
    # Qwen2-VL-72B saved by transformers leaves out Qwen2VLTextConfig's defaults, which are not Qwen2Config's
    wrapped = Wrapped(text_config={"model_type": "qwen2_vl_text"})
    text_model(wrapped.reader, "text_config", model_type="qwen2_vl_text", reads_as="qwen2")
    assert wrapped.model_type == "qwen2"
    assert (wrapped.seen["num_hidden_layers"], wrapped.seen["num_key_value_heads"]) == (80, 8)


def test_a_complete_nested_config_needs_no_note() -> None:
    wrapped = Wrapped(text_config={"model_type": "gemma", "hidden_size": 2048})
    text_model(wrapped.reader, "text_config", model_type="llama")
    assert wrapped.reader.notes == []


@pytest.mark.parametrize(("outer", "inner", "tied"), [(True, None, True), (True, False, False), (False, None, False)])
def test_the_nested_config_decides_on_its_output_head_before_the_wrapper(
    outer: bool, inner: bool | None, tied: bool
) -> None:
    nested = {"model_type": "gemma"} if inner is None else {"model_type": "gemma", "tie_word_embeddings": inner}
    wrapped = Wrapped(text_config=nested, tie_word_embeddings=outer)
    text_model(wrapped.reader, "text_config", model_type="llama")
    assert wrapped.seen["tie_word_embeddings"] is tied


def test_a_repeated_key_is_understood_only_where_it_agrees() -> None:
    wrapped = Wrapped(
        language_config={"hidden_size": 8, "num_attention_heads": 2}, hidden_size=8, num_attention_heads=4
    )
    text_model(wrapped.reader, "language_config", model_type="deepseek_v2")
    assert wrapped.reader.unread() == {"num_attention_heads": 4}
    assert wrapped.model_type == "deepseek_v2"


def test_a_wrapper_without_language_model_is_refused() -> None:
    with pytest.raises(MissingKeyError, match="text_config"):
        text_model(Wrapped(vision_config={}).reader, "text_config", "llm_config", model_type="llama")


def test_towers_add_to_the_total_and_nothing_else() -> None:
    text = Architecture(layers=(), hidden_size=8, num_heads=1, max_context_tokens=None, parameters=Parameters(mlp=5))
    whole = with_towers(text, 7).parameters
    assert whole is not None
    assert (whole.total, whole.towers, whole.mlp) == (12, 7, 5)


def test_an_absent_tower_is_noted() -> None:
    reader = Wrapped(text_config={}).reader
    assert tower_section(reader, "vision_config") is None
    assert reader.notes == ["vision_config is absent: the parameters of that tower are not counted"]


def test_a_tower_leaves_no_key_unread() -> None:
    reader = Wrapped(vision_config={"window_size": 112, "rope_parameters": {"rope_theta": 1e4}}).reader
    assert tower_section(reader, "vision_config") is not None
    assert reader.unread() == {}


def test_an_assumption_about_a_section_is_known_to_the_whole_file() -> None:
    reader = ConfigReader({"vision_config": {}}, "config.json")
    vision = reader.section("vision_config")
    assert vision is not None
    vision.note("assumed")
    assert reader.notes == ["assumed"]


def test_a_side_is_one_number_or_two_equal_ones() -> None:
    assert side(ConfigReader({"image_size": 448}, "c"), "image_size", 224) == 448
    assert side(ConfigReader({"image_size": [448, 448]}, "c"), "image_size", 224) == 448
    with pytest.raises(SpecError, match="equal sides"):
        side(ConfigReader({"image_size": [448, 224]}, "c"), "image_size", 224)
