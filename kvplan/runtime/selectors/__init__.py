"""The torch halves of the retention policies, a file per way to score tokens.

A file defines ``SELECTORS``: the name of a policy -> a function that builds its selector for the policy's options.
"""

from __future__ import annotations

from kvplan.core.policy import RetentionPolicy
from kvplan.core.registry import modules
from kvplan.runtime.selector import Selector, SelectorFactory


def selector_of(policy: RetentionPolicy) -> Selector:
    """The selector of a policy. Raises LookupError where the policy has none."""
    for module in modules(__name__):
        selectors: dict[str, SelectorFactory] = module.SELECTORS
        if policy.name in selectors:
            return selectors[policy.name](policy)
    raise LookupError(f"{policy.name} has no selector in kvplan.runtime.selectors")
