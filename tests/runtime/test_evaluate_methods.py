"""Methods as words: formats, policies, both, lists of them, and what is said to a wrong word."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from kvplan.core.errors import UnknownNameError, UsageError
from kvplan.runtime.evaluate.methods import Method, parse_method, parse_methods


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("none", "none"),
        ("auto", "none"),
        ("int8", "int8_per_token_head"),
        ("INT8", "int8_per_token_head"),
        ("int8+none", "int8_per_token_head"),
        ("q8_0/q4_0", "q8_0/q4_0"),
        ("q8_0/q8_0", "q8_0"),
        ("auto/int4", "auto/int4_per_token_head"),
        ("int2", "int_group:bits=2"),
        ("quanto:2", "quanto:bits=2"),
        ("h2o", "h2o:keep=0.2"),
        ("h2o:0.5", "h2o:keep=0.5"),
        ("h2o:keep=1/3", "h2o:keep=1/3"),
        ("streaming:1k", "window:window=1024,sinks=4"),
        ("tiers:1k=bf16,rest=int4", "tiers:1024=bf16,rest=int4"),
        ("int8+snapkv:keep=0.5", "int8_per_token_head+snapkv:keep=0.5,window=64"),
        ("snapkv:keep=0.5+int8", "int8_per_token_head+snapkv:keep=0.5,window=64"),
    ],
)
def test_words_become_canonical_and_are_read_back(words: str, text: str) -> None:
    assert parse_method(words).text == text
    assert parse_method(text) == parse_method(words)


def test_a_list_keeps_the_commas_of_options_and_names_no_method_twice() -> None:
    words = (
        "none, int8,window:256,sinks=4,tiers:1k=bf16,4k=int8,rest=int4,window:64,4,quanto:bits=2,group=32+h2o:0.5,int8"
    )
    assert [method.text for method in parse_methods(words)] == [
        "none",
        "int8_per_token_head",
        "window:window=256,sinks=4",
        "tiers:1024=bf16,4096=int8,rest=int4",
        "window:window=64,sinks=4",
        "quanto:bits=2,group=32+h2o:keep=0.5",
    ]
    assert parse_methods(["int8,h2o", "int4"]) == parse_methods("int8,h2o,int4")


@pytest.mark.parametrize(
    ("words", "hint"),
    [("int9", "int8"), ("snapkw:keep=0.5", "snapkv"), ("q8_0/q4", "q4_0"), ("int8+windov", "window")],
)
def test_an_unknown_word_is_told_what_is_near(words: str, hint: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        parse_method(words)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    "words", ["", "+", "int8+", "int8+int4", "h2o+window", "h2o:kep=1", "window:0", "bf16/int8/int4"]
)
def test_words_that_make_no_method_are_refused(words: str) -> None:
    with pytest.raises(UsageError):
        parse_method(words)


@pytest.mark.parametrize("words", ["", " , ", ()])
def test_an_empty_list_is_refused(words: str) -> None:
    with pytest.raises(UsageError):
        parse_methods(words)


def test_only_a_threshold_depends_on_who_is_beside_it() -> None:
    assert not parse_method("threshold:keep=0.5,threshold=0.01").takes_batches
    assert all(
        parse_method(words).takes_batches for words in ("none", "int4", "h2o", "snapkv", "tiers:8=bf16,rest=int4")
    )
    assert Method().is_baseline
    assert not parse_method("int8").is_baseline
