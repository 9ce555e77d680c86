"""Floor 2: one file per retention policy, each defining ``POLICY``.

To add one, copy the nearest file: ``keynorm.py`` (a share of the tokens), ``window.py`` (a number of tokens) or
``pyramidkv.py`` (a budget per layer: ``per_layer`` is True). The fields of the frozen dataclass are the options, in
the order in which values without a name fill them: ratios are Fractions, token counts are ints. An option declared
with ``field(kw_only=True)`` needs its name, and is described only where it is not at its default. Optional class
attributes: ``aliases``, and ``presets`` (names that stand for options). A module whose options are no fields offers
``parse(arguments)``, as ``tiers.py`` does. ``tests/contracts/test_policies.py`` holds every policy to the contract.
"""

from __future__ import annotations

from types import ModuleType

from kvplan.core.errors import UsageError
from kvplan.core.policy import RetentionPolicy
from kvplan.core.registry import configure, find_module, modules, split_call

_WHAT = "policy"


def get_policy(text: str) -> RetentionPolicy:
    """The policy of ``none``, ``window:4096,sinks=4`` or ``h2o:keep=0.2``. Raises UnknownNameError or UsageError."""
    head, _, arguments = text.partition(":")
    name, _, _ = split_call(head, _WHAT)
    if not name:
        raise UsageError(f"{_WHAT} {text!r} has no name", "write none, window:4096 or h2o:keep=0.2, for example")
    module = find_module(__name__, name, _WHAT, names_of)
    policy: RetentionPolicy = module.POLICY
    if hasattr(module, "parse"):
        return module.parse(arguments) if arguments else policy
    _, positional, options = split_call(text, _WHAT)
    preset = getattr(policy, "presets", {}).get(name, {})
    start = configure(policy, [], preset, (), f"{_WHAT} {name}")
    chosen: RetentionPolicy = configure(start, positional, options, (), f"{_WHAT} {name}")
    return chosen


def policy_names() -> list[str]:
    """The names of all policies, without aliases and presets."""
    return [module.POLICY.name for module in modules(__name__)]


def names_of(module: ModuleType) -> list[str]:
    """Every name that a policy's module answers to: its own, its aliases and its presets."""
    policy = module.POLICY
    return [policy.name, *getattr(policy, "aliases", ()), *getattr(policy, "presets", ())]
