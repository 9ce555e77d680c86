"""What differs between releases of vLLM: one frozen value per release, read by the rest of the package."""

from __future__ import annotations

from kvplan.core.frozen import dataclass

PER_TENSOR = ("fp8", "fp8_e4m3", "fp8_e5m2")
PER_TOKEN_HEAD = ("int4_per_token_head", "int8_per_token_head", "fp8_per_token_head")
TURBOQUANT = ("turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_3bit_nc")
PACKED_LATENT = ("fp8_ds_mla", "nvfp4_ds_mla")
NVFP4 = ("nvfp4", "nvfp4_4over6")
OCTAVE = ("octave_k3v4", "octave_k3v3", "octave_k3v3_compact")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """One release; the defaults are 0.32's, the release that every rule was run in.

    ``cache_dtypes``              words of ``--kv-cache-dtype`` besides ``auto``, ``float16`` and ``bfloat16``
    ``amd_dtypes``                those that only the ROCm build has; ``unpriced_dtypes`` those kvplan has no format of
    ``counts_batches_in_flight``  windows keep every batch in flight, not just one
    ``hybrid_prefix_caching``     models with state cache prefixes unless told otherwise
    ``keeps_every_mamba_state``   with prefix caching, Mamba layers keep a state of every block
    ``aligned_blocks_fit_batch``  states at block boundaries need blocks of at most one batch
    ``drafts_widen_all_states``   speculative tokens widen the convolutions of Kimi delta and short-convolution layers
                                  too, and ``mamba_ssm_cache_dtype`` is obeyed by Kimi delta attention
    ``specs_pack``                scales are priced by the layer's spec, whatever the backend
    ``packs_sliding_int4``        int4 takes half a byte in sliding layers too
    ``compressed_auto``           DeepSeek-V4 reads ``auto`` as its packed FP8
    ``sparse_shares_native``      decode-context parallelism over sparse latent attention in 16 bits
    ``mimo_cache_dtype``          MiMo-V2 obeys the cache dtype
    ``kimi_k3``                   Kimi-K3 is known
    ``null_block_reserved``       the check at the start sets the null block aside
    ``state_checkpoint_blocks``   pages that Mamba-2 and Kimi delta attention hold on top for prefill checkpoints
    ``delta_net_checkpoint_tokens``  the multiple at which FlashInfer's delta net exports checkpoints, each in a page of
                                  its own; 0 where it does not
    ``backends_share_block``      the block size suits all attention backends, not the first alone
    ``windows_take_large_blocks`` sliding layers take the largest kernel block within the block size, not the smallest
    ``latent_hybrid_multiple``    blocks of hybrids with latent attention are at least this granular
    ``packs_pages``               DeepSeek-V4's layers pack by their own pages, not by those of its full layers
    ``routes_image_tokens``       backends that hand image tokens to Triton and the rest to faster kernels
    ``flash_own_pages``           FlashAttention 4's kernels with pages of 64 and 128 tokens, and its FP8 cache
    ``flashinfer_everywhere``     FlashInfer takes sinks and NVFP4 outside compute capability 10.x too
    ``hopper_sparse_flashinfer``  FlashInfer's sparse latent attention on Hopper
    ``large_batch_bytes``         device memory from which a batch is 16384 tokens; None: never
    ``small_batch_capabilities``  compute capabilities with the batch of small devices, whatever their memory
    ``one_log_line``              capacity and concurrency are logged together
    ``counts_own_token``          windows of Cohere 2 hold the token itself besides the configured ones
    ``glm_fp8_on_blackwell``      GLM-5's ``auto`` is FP8 on compute capability 10.x
    ``sparse_flash4``             FlashAttention 4's sparse latent attention on Blackwell
    ``sixteen_bits_match``        a 16-bit cache dtype must be the model's own
    ``second_runner_runs_all``    the second model runner runs hybrids and mixtures of experts too, and estimates its
                                  CUDA graphs before the cache is sized
    ``profiles_float_logits``     the second runner's profiling batch samples from logits in 32 bits
    ``profiles_top_k``            and filters them by top-k and top-p
    ``counts_runner_buffers``     buffers that the runner allocates before the weights count against the cache
    """

    version: str
    cache_dtypes: tuple[str, ...] = (*PER_TENSOR, *PACKED_LATENT, *TURBOQUANT, *PER_TOKEN_HEAD, *NVFP4)
    amd_dtypes: tuple[str, ...] = ("ultraquant_4bit",)
    unpriced_dtypes: tuple[str, ...] = ()
    counts_batches_in_flight: bool = True
    hybrid_prefix_caching: bool = True
    null_block_reserved: bool = True
    keeps_every_mamba_state: bool = False
    aligned_blocks_fit_batch: bool = False
    drafts_widen_all_states: bool = True
    specs_pack: bool = False
    packs_sliding_int4: bool = True
    compressed_auto: bool = True
    sparse_shares_native: bool = False
    mimo_cache_dtype: bool = True
    kimi_k3: bool = True
    state_checkpoint_blocks: int = 1
    delta_net_checkpoint_tokens: int = 0
    backends_share_block: bool = True
    windows_take_large_blocks: bool = True
    latent_hybrid_multiple: int = 128
    packs_pages: bool = True
    routes_image_tokens: bool = True
    flash_own_pages: bool = True
    flashinfer_everywhere: bool = True
    hopper_sparse_flashinfer: bool = True
    large_batch_bytes: int | None = 160 << 30
    small_batch_capabilities: tuple[tuple[int, int], ...] = ()
    one_log_line: bool = True
    counts_own_token: bool = True
    glm_fp8_on_blackwell: bool = True
    sparse_flash4: bool = False
    sixteen_bits_match: bool = False
    second_runner_runs_all: bool = True
    profiles_float_logits: bool = False
    profiles_top_k: bool = False
    counts_runner_buffers: bool = True


V0_25 = Rules(
    version="0.25.1",
    cache_dtypes=(*PER_TENSOR, "fp8_ds_mla", *TURBOQUANT, *PER_TOKEN_HEAD, "nvfp4"),
    amd_dtypes=(),
    counts_batches_in_flight=False,
    hybrid_prefix_caching=False,
    null_block_reserved=False,
    keeps_every_mamba_state=True,
    aligned_blocks_fit_batch=True,
    drafts_widen_all_states=False,
    specs_pack=True,
    packs_sliding_int4=False,
    compressed_auto=False,
    sparse_shares_native=True,
    mimo_cache_dtype=False,
    kimi_k3=False,
    state_checkpoint_blocks=0,
    backends_share_block=False,
    windows_take_large_blocks=False,
    latent_hybrid_multiple=1,
    packs_pages=False,
    routes_image_tokens=False,
    flash_own_pages=False,
    flashinfer_everywhere=False,
    hopper_sparse_flashinfer=False,
    large_batch_bytes=None,
    one_log_line=False,
    counts_own_token=False,
    glm_fp8_on_blackwell=False,
    second_runner_runs_all=False,
    profiles_float_logits=True,
    counts_runner_buffers=False,
)
"""vLLM 0.25.1: ``v1/kv_cache_interface.py:546`` (windows), ``config/model.py:1883`` (hybrids cache no prefixes),
``platforms/interface.py`` (the first backend decides), ``v1/core/kv_cache_utils.py`` (groups, check, log)."""

V0_32 = Rules(version="0.32.0")
"""vLLM 0.32.0: ``config/cache.py:39``, ``config/vllm.py:577``, ``v1/core/kv_cache_utils.py``."""

V0_33 = Rules(
    version="0.33.0",
    unpriced_dtypes=OCTAVE,
    delta_net_checkpoint_tokens=64,
    small_batch_capabilities=((12, 1),),
    sparse_flash4=True,
    sixteen_bits_match=True,
    profiles_float_logits=True,
    profiles_top_k=True,
)
"""vLLM 0.33.0: ``layers/mamba/gdn/qwen_gdn_linear_attn.py:736`` (delta nets), ``engine/arg_utils.py:2940`` (GB10),
``platforms/cuda.py:84`` (sparse), ``config/vllm.py:1492`` (16 bits); planner in ``v1/core/kv_cache_planning.py``."""
