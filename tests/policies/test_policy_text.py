"""What ``--policy`` takes, and how it refuses."""

from __future__ import annotations

import pytest

from kvplan.core.errors import UnknownNameError, UsageError
from kvplan.core.policy import describe_policy
from kvplan.policies import get_policy


@pytest.mark.parametrize(
    ("text", "described"),
    [
        ("none", "none"),
        ("window:4k", "window:window=4096,sinks=0"),
        ("streaming-llm", "window:window=4096,sinks=4"),
        ("streaming:1k,sinks=8", "window:window=1024,sinks=8"),
        ("H2O:20%", "h2o:keep=0.2"),
        ("h2o:1/3", "h2o:keep=1/3"),
        ("snapkv:window=32", "snapkv:keep=0.5,window=32"),
        ("pyramid:0.25", "pyramidkv:keep=0.25,window=64,beta=20"),
        ("knorm", "keynorm:keep=0.5"),
        ("tiers:1k=BF16, rest=drop", "tiers:1024=bf16,rest=drop"),
        ("h2o:sinks=4,recent=25%", "h2o:keep=0.2,sinks=4,recent=0.25"),
        ("snapkv:0.5,32,kernel=7", "snapkv:keep=0.5,window=32,kernel=7"),
        ("importance:attention=1,recency=0,special=0", "importance:keep=0.5,attention=1,recency=0,special=0"),
        ("importance:attention=0.4", "importance:keep=0.5"),
        ("threshold:0.9,threshold=0.001,newest=64", "threshold:keep=0.9,newest=64,threshold=0.001"),
    ],
)
def test_a_policy_is_described_with_every_option_written_out(text: str, described: str) -> None:
    assert describe_policy(get_policy(text)) == described


@pytest.mark.parametrize(("text", "near"), [("windw:4k", "window"), ("h20", "h2o"), ("snapvk", "snapkv")])
def test_an_unknown_policy_is_answered_with_near_ones(text: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_policy(text)
    assert near in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "has no name"),
        (":4096", "has no name"),
        ("none:3", "at most 0 values"),
        ("h2o:keep=0", "lies outside"),
        ("h2o:keep=1.5", "lies outside"),
        ("h2o:keep=some", "is not a ratio"),
        ("h2o:heavy=0.1", "no option 'heavy'"),
        ("h2o:0.2,keep=0.3", "keep twice"),
        ("h2o:0.2,4", "at most 1 values"),
        ("h2o:recent=1.5", "lies outside"),
        ("tova:sinks=-1", "is not a token count"),
        ("snapkv:kernel=4", "odd number"),
        ("threshold:threshold=2", "lies outside"),
        ("importance:attention=0,recency=0,special=0", "needs a weight"),
        ("window:0", "at least 1"),
        ("window:1.5", "not a whole positive"),
        ("pyramidkv:beta=0", "beta must be"),
        ("tiers:1024=bf16", "what becomes of older tokens"),
        ("tiers:rest=drop", "names no tier"),
        ("tiers:1024,rest=int4", "is no tier"),
        ("tiers:1024=drop,rest=int4", "only the last tier"),
        ("tiers:x=int8,rest=int4", "is not a token count"),
    ],
)
def test_a_malformed_policy_is_a_usage_error(text: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        get_policy(text)
