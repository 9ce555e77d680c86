"""Import SGLang's CUDA code without CUDA: absent kernel packages become empty stand-ins, the GPU a named one.

Only what the resolution of arguments and the sizing of pools ask for is replaced. SGLang's own platform facts are set
through its own ``override_platform``; torch's device queries and the memory probe answer for the same device. Import
this module and call :func:`install` before anything of SGLang is imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from typing import Any, ClassVar
from unittest.mock import MagicMock

PACKAGES = ("torchvision", "loguru", "sgl_kernel", "flashinfer", "deep_gemm", "tilelang", "cutlass", "quack")
"""Packages that SGLang's modules import at their top; those that are installed are left alone."""

GPUS: dict[str, dict[str, Any]] = {
    "A100": {"capability": (8, 0), "mebibytes": 81_920},
    "H100": {"capability": (9, 0), "mebibytes": 81_559},
    "B200": {"capability": (10, 0), "mebibytes": 183_359},
    "RTX_PRO_6000": {"capability": (12, 0), "mebibytes": 97_887},
}


class _Module(types.ModuleType):
    """A module that owns every public name anyone asks for."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=f"{self.__name__}.{name}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = set(packages)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.split(".")[0] in self.packages:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def install() -> None:
    """Stand in for the packages that are not installed. transformers decides first which of them it has."""
    import transformers.utils.import_utils as available

    for name in dir(available):
        if name.startswith("is_") and name.endswith("_available"):
            try:
                getattr(available, name)()
            except Exception:  # a probe with arguments
                continue
    import transformers.models.auto.image_processing_auto
    import transformers.models.auto.processing_auto  # noqa: F401

    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    sys.meta_path.append(_Finder(absent))


def use_gpu(name: str) -> Any:
    """SGLang's own override of its platform facts, for ``with``; torch and the memory probe follow for good."""
    import torch
    from sglang.srt.runtime_context import override_platform

    gpu = GPUS[name]
    major, minor = gpu["capability"]
    torch.cuda.get_device_capability = lambda *args, **kwargs: (major, minor)
    torch.get_device_module = lambda *args, **kwargs: MagicMock(name="device_module")
    for module in [entry for key, entry in sys.modules.items() if key.startswith("sglang.")]:
        if hasattr(module, "get_device_memory_capacity"):
            module.get_device_memory_capacity = lambda *args, **kwargs: gpu["mebibytes"]
        if hasattr(module, "is_float4_e2m1fn_x2"):  # asks for a CUDA build of torch
            module.is_float4_e2m1fn_x2 = lambda dtype: dtype == torch.float4_e2m1fn_x2
    return override_platform(
        is_cuda=True,
        is_hip=False,
        is_npu=False,
        is_xpu=False,
        is_musa=False,
        is_mps=False,
        is_sm90=major == 9,
        is_sm100=major == 10,
        is_sm100_or_sm110=major == 10,
        is_sm110=False,
        is_sm120=major == 12,
        is_blackwell=major in (10, 12),
        is_hopper_with_cuda_12_3=major == 9,
        has_amx=False,
        has_flashinfer=True,
        device_sm=10 * major + minor,
        device_capability=(major, minor),
    )
