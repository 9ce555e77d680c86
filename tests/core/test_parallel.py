from __future__ import annotations

import pytest

from kvplan.core.attention import FullAttention
from kvplan.core.errors import UsageError
from kvplan.core.model import Architecture
from kvplan.core.parallel import Parallel, pipeline_stages


@pytest.mark.parametrize(
    # vLLM 0.33 distributed/utils.py get_pp_indices: the remainder goes to the stages before the last
    ("num_layers", "pp", "stages"),
    [
        (80, 4, (20, 20, 20, 20)),
        (61, 4, (15, 15, 16, 15)),
        (62, 4, (15, 16, 16, 15)),
        (63, 4, (16, 16, 16, 15)),
        (61, 2, (31, 30)),
    ],
)
def test_pipeline_remainders_go_before_the_last_stage(num_layers: int, pp: int, stages: tuple[int, ...]) -> None:
    assert pipeline_stages(num_layers, pp) == stages


def test_sequences_spread_evenly_over_replicas() -> None:
    assert Parallel(dp=4).sequences_per_replica(10) == (3, 3, 2, 2)


@pytest.mark.parametrize("sizes", [{"tp": 0}, {"pp": -1}, {"dp": 5000}, {"tp": 4, "dcp": 3}])
def test_impossible_sizes_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Parallel(**sizes)


def test_heads_that_do_not_split_name_the_sizes_that_do() -> None:
    layer = (FullAttention(num_kv_heads=8, head_dim=128),)
    architecture = Architecture(layers=(layer,) * 4, hidden_size=512, num_heads=12, max_context_tokens=None)
    with pytest.raises(UsageError, match="12 attention heads") as caught:
        Parallel(tp=8).check(architecture)
    assert caught.value.hint == "allowed: 1, 2, 3, 4, 6, 12"
    with pytest.raises(UsageError, match="4 layers"):
        Parallel(pp=5).check(architecture)
