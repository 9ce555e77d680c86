from __future__ import annotations

import importlib.util

if importlib.util.find_spec("torch"):
    import torch

    # The tensors of tests are small: threads that wait for each other take longer than the work, most of all where
    # several test processes share few cores.
    torch.set_num_threads(1)
