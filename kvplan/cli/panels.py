"""The boxes in which ``--help`` shows the options of the large commands: what one looks for stands together."""

from collections.abc import Mapping

PANELS: Mapping[str, str] = {
    "The request": "--model --ctx --concurrency --task --quality --output-tokens --shared-prefixes --evidence "
    "--evidence-model",
    "The cache": "--kv-dtype --kv-dtype-skip-layers --policy --encoder-tokens --mtp --weights --multimodal",
    "The hardware": "--gpu --count --gpu-memory --device --search",
    "Ranks": "--tp --pp --dp --dcp --enable-expert-parallel",
    "The engine": "--engine --kv-memory --gpu-memory-utilization --max-model-len --max-num-batched-tokens "
    "--max-num-seqs --block-size --attention-backend --no-prefix-caching --num-speculative-tokens --enforce-eager "
    "--usage",
    "A workload": "--trace --distribution --rate --prefill-rate --decode-time",
    "What was measured": "--from-log --calibration",
    "Checks": "--verify --frontier --against --engine-python --report --diff --check",
    "The evaluation": "--demo --methods --tasks --text --questions --samples --question-aware --press --thresholds "
    "--results --dtype --seed",
    "The answer": "--emit --plot --explain --format --json",
}
"""The flags of each box by its title; an option that is in none stands first, in a box of its own."""

_TITLES = {flag: title for title, flags in PANELS.items() for flag in flags.split()}


def panel_of(flag: str) -> str | None:
    """The title of the box in which an option is shown; None for the first box."""
    return _TITLES.get(flag)
