"""Make a CPU build of vLLM believe that it runs on a CUDA device, without a device and without kernels.

Only what vLLM's planner and model constructors ask for is replaced: the platform object (compute capability, memory,
name), the compiled extension modules (empty stand-ins, so that FlashAttention 2, 3 and 4 count as available, as in
vLLM's CUDA wheel) and the process groups (torch's own "fake" backend, which accepts any world size in one process).
Import this module and call :func:`install` before anything of vLLM is imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from typing import Any
from unittest.mock import MagicMock

GIB = 1 << 30

#: name and total memory in bytes that vLLM sees for each compute capability.
DEVICES = {
    (8, 0): ("NVIDIA A100-SXM4-80GB", 80 * GIB),
    (8, 9): ("NVIDIA L40S", 48 * GIB),
    (9, 0): ("NVIDIA H200", 140 * GIB),
    (10, 0): ("NVIDIA B200", 178 * GIB),
    (12, 0): ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 96 * GIB),
}

#: compiled modules of the CUDA wheel that a CPU wheel lacks.
COMPILED_MODULES = (
    "vllm._C",
    "vllm._C_stable_libtorch",
    "vllm._moe_C_stable_libtorch",
    "vllm.vllm_flash_attn._vllm_fa2_C",
    "vllm.vllm_flash_attn._vllm_fa3_C",
    "vllm._flashmla_C",
    "vllm._flashmla_extension_C",
    "vllm._flashkda_C",
)

#: Python packages of kernels that the CUDA wheel bundles or depends on.
KERNEL_PACKAGES = (
    *("vllm.third_party.flashmla", "vllm.third_party.deep_gemm", "vllm.vllm_flash_attn.cute"),
    *("deep_gemm", "tilelang", "cutlass", "cuda", "quack"),
)

#: prefixes of the operator namespaces that those modules would fill.
KERNEL_NAMESPACES = ("_C", "_moe_C", "_flash", "_vllm_fa", "_qutlass", "_rocm")


class _MockModule(types.ModuleType):
    """A module that owns every public name anyone asks for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


class MockFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Serve ``root`` and all its submodules as :class:`_MockModule`."""

    def __init__(self, root: str) -> None:
        self.root = root

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.root and not fullname.startswith(self.root + "."):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = _MockModule(spec.name)
        module.__path__ = []
        module.__version__ = "99.0"
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def _empty_modules() -> None:
    for name in COMPILED_MODULES:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module
    # A media reader that no planner needs and that fails to load without CUDA libraries.
    sys.modules["torchcodec"] = None  # type: ignore[assignment]


def _platform_class(capability: tuple[int, int]) -> type[Any]:
    from vllm.platforms import cuda
    from vllm.platforms.interface import DeviceCapability

    name, memory_bytes = DEVICES[capability]

    class StandInCuda(cuda.CudaPlatformBase):
        """vLLM's own CUDA platform with the questions to the driver answered from a table."""

        @classmethod
        def get_device_capability(cls, device_id: int = 0) -> Any:
            return DeviceCapability(*capability)

        @classmethod
        def get_device_name(cls, device_id: int = 0) -> str:
            return name

        @classmethod
        def get_device_total_memory(cls, device_id: int = 0) -> int:
            return memory_bytes

        @classmethod
        def is_fully_connected(cls, device_ids: list[int]) -> bool:
            return True

        @classmethod
        def device_count(cls) -> int:
            return 64

        @classmethod
        def get_cuda_runtime_major(cls) -> int:
            return 13

        @classmethod
        def num_compute_units(cls, device_id: int = 0) -> int:
            return 132

        @classmethod
        def is_integrated_gpu(cls, device_id: int = 0) -> bool:
            return False

        @classmethod
        def is_pin_memory_available(cls) -> bool:
            return False

        @classmethod
        def get_device_communicator_cls(cls) -> str:
            return "vllm.distributed.device_communicators.base_device_communicator.DeviceCommunicatorBase"

        @classmethod
        def logical_device_id_to_visible_device_id(cls, device_id: int) -> int:
            return 0

    return StandInCuda


def _count_triton_as_usable() -> None:
    """Triton's decorators need no device: keep the real package where the CPU wheel would replace it."""
    import vllm.platforms as platforms

    real = platforms.vllm_version_matches_substr
    platforms.vllm_version_matches_substr = lambda substr: substr != "cpu" and real(substr)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    import vllm.triton_utils.importing as importing  # noqa: F401

    platforms.vllm_version_matches_substr = real


def _inspect_models_in_process() -> None:
    """vLLM inspects each model class in a subprocess of its own, to keep CUDA out of the parent; no CUDA here."""
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = lambda fn: fn()


def _one_process_groups() -> None:
    """Give every process group torch's fake backend: world sizes above one without other processes."""
    import torch.distributed as dist

    real_new_group = dist.new_group

    def new_group(ranks: Any = None, *args: Any, **kwargs: Any) -> Any:
        kwargs["backend"] = "fake"
        return real_new_group(ranks, *args, **kwargs)

    dist.new_group = new_group
    from vllm.distributed import parallel_state
    from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

    parallel_state.in_the_same_node_as = lambda group, source_rank=0: [True] * dist.get_world_size(group)
    MessageQueue.create_from_process_group = staticmethod(lambda *args, **kwargs: None)


def _kernels_say_yes() -> None:
    """What the CUDA kernels answer about themselves on a device that they were built for."""
    from vllm import _custom_ops as ops

    for name in dir(ops):
        if name.startswith("cutlass_") and "support" in name:
            setattr(ops, name, lambda *args, **kwargs: True)


def _missing_kernels_exist() -> None:
    """Let model code name kernels that a CPU wheel lacks; nothing calls one."""
    import torch

    namespace_class = type(torch.ops._C)
    real = namespace_class.__getattr__

    def getattr_or_mock(self: Any, name: str) -> Any:
        try:
            return real(self, name)
        except AttributeError:
            if name.startswith("__") or not self.name.startswith(KERNEL_NAMESPACES):
                raise
            return MagicMock(name=f"{self.name}.{name}")

    namespace_class.__getattr__ = getattr_or_mock


def _sizes_of_kernel_buffers() -> None:
    """What FlashInfer answers about scratch buffers that vLLM makes with each layer: a number, of any size."""
    import flashinfer.utils

    flashinfer.utils.get_trtllm_gen_multi_ctas_kv_counter_bytes = lambda *args: 4


def _no_device_calls() -> None:
    import torch

    properties = types.SimpleNamespace(multi_processor_count=132, is_integrated=False, shared_memory_per_block_optin=0)
    torch.cuda.get_device_properties = lambda *args, **kwargs: properties
    torch.cuda.current_device = lambda: 0
    torch.accelerator.current_device_index = lambda: 0
    torch.accelerator.empty_cache = lambda: None
    torch.accelerator.current_stream = MagicMock(name="current_stream")
    for name in ("Stream", "Event"):
        setattr(torch.cuda, name, MagicMock(name=f"torch.cuda.{name}"))


def on_meta_device() -> Any:
    """A context in which every tensor is made on, or moved to, the meta device, whatever device the code names."""
    import torch
    from torch.overrides import TorchFunctionMode

    class OnMeta(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if func in (torch.Tensor.cuda, torch.Tensor.cpu):
                return args[0]
            if func is torch.Tensor.item:
                return 1
            if func is torch.Tensor.to:
                args = tuple("meta" if _names_device(arg) else arg for arg in args)
            if kwargs.get("device") is not None:
                kwargs["device"] = "meta"
            return func(*args, **kwargs)

    return OnMeta()


def _names_device(value: Any) -> bool:
    import torch

    return isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in ("cuda", "cpu"))


def install(capability: tuple[int, int], *, flashinfer: bool) -> None:
    """Set the platform to a CUDA device of ``capability``.

    ``flashinfer`` says whether the FlashInfer package counts as installed (vLLM's CUDA wheel depends on it): its Python
    names then exist, and none of them computes anything.
    """
    _empty_modules()
    # A real package that looks for CUDA's Python bindings: it must not find the stand-in.
    import xgrammar  # noqa: F401

    for root in KERNEL_PACKAGES:
        sys.meta_path.insert(0, MockFinder(root))
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.insert(0, MockFinder("torchvision"))
    if flashinfer:
        sys.meta_path.insert(0, MockFinder("flashinfer"))
        _sizes_of_kernel_buffers()
        os.environ["VLLM_HAS_FLASHINFER_CUBIN"] = "1"
    import vllm.platforms as platforms

    platforms._current_platform = _platform_class(capability)()
    _count_triton_as_usable()
    import vllm.vllm_flash_attn.flash_attn_interface as flash_attn

    flash_attn.FA4_AVAILABLE = True
    _kernels_say_yes()
    _missing_kernels_exist()
    _inspect_models_in_process()
    _one_process_groups()
    _no_device_calls()
