"""The model code check over every packaged spec with a published config: 23 releases' worth of other people's code.

Each model runs its own cache and a compressed one on the CPU; together they stop after half an hour.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
if transformers.__version__ != "5.23.0":
    pytest.skip("kvplan has the rules of transformers 5.23.0", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of hqq, which transformers imports where it is installed
    from kvplan.runtime.verify.model_code import CodeOptions, verify_model_code

from kvplan.specs.catalogue import load_found, spec_files  # noqa: E402
from kvplan.specs.published_config import published_config  # noqa: E402

pytestmark = pytest.mark.parity

OPTIONS = CodeOptions(compressions=(("int8", "none"),), batches=(2,), seconds=60)
MOST_SECONDS = 1800
STARTED = time.monotonic()
SPECS = {path.stem: path for path in spec_files() if published_config(load_found(path)).values is not None}

NO_CODE: Mapping[str, str] = {}
"""Specs whose architecture transformers 5.23.0 does not build from the published config -> what it says."""


@pytest.mark.parametrize("name", SPECS)
def test_the_code_of_a_packaged_spec_holds_what_is_predicted(name: str) -> None:
    if time.monotonic() - STARTED > MOST_SECONDS:
        pytest.skip(f"{MOST_SECONDS} s are over")
    found = verify_model_code(load_found(SPECS[name]), torch.device("cpu"), OPTIONS)
    if name in NO_CODE:
        assert found.checks == ()
        assert NO_CODE[name] in found.skipped[0]
        return
    assert [entry for entry in found.checks if not entry.passed] == []
    assert found.passed, found.skipped
