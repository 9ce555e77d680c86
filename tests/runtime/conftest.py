from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

if importlib.util.find_spec("torch"):
    import torch

    # The tensors of tests are small: threads that wait for each other take longer than the work, most of all where
    # several test processes share few cores.
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def fresh_process() -> Iterator[ProcessPoolExecutor]:
    """A process whose allocator has seen none of the other tests' tensors."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        yield process
