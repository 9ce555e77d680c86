"""Prompt blocks that requests share: a radix tree with reference counts and least-recently-used eviction.

One *unit* is a run of tokens that fills whole blocks of every group; a prompt is a tuple of unit keys. Chains of units
that no request has parted yet are one node, so that a request costs as many steps as its prompt has branchings, not
as it has units. A unit that no request holds stays cached until it is evicted: those released longest ago first, of
one prompt the last first, as vLLM's free queue does (0.32, ``v1/core/block_pool.py``).
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heappop, heappush

Keys = tuple[Hashable, ...]


class PrefixNode:
    """A run of units after those of ``parent``; ``references`` requests hold it and everything above it."""

    __slots__ = ("children", "keys", "parent", "references", "released")

    def __init__(self, keys: Keys, parent: PrefixNode | None) -> None:
        self.keys = keys
        self.parent = parent
        self.children: dict[Hashable, PrefixNode] = {}
        self.references = 0
        self.released = 0


class PrefixTree:
    """All units in a pool: ``active_units`` are held by requests, ``cached_units`` by none."""

    def __init__(self) -> None:
        self.root = PrefixNode((), None)
        self.active_units = 0
        self.cached_units = 0
        self._clock = 0
        self._offers = 0
        self._leaves: list[tuple[int, int, PrefixNode]] = []

    def match(self, keys: Keys) -> tuple[int, int]:
        """The leading units that are present, and how many of them other requests hold."""
        node, present, active = self.root, 0, 0
        while present < len(keys):
            child = node.children.get(keys[present])
            if child is None:
                break
            common = _common(child.keys, keys, present)
            present += common
            if child.references:
                active += common
            if common < len(child.keys):
                break
            node = child
        return present, active

    def hold(self, keys: Keys) -> PrefixNode:
        """Hold all units of a prompt, adding those that are missing; the node to release them by."""
        node, done = self.root, 0
        while done < len(keys):
            child = node.children.get(keys[done])
            if child is None:
                child = PrefixNode(keys[done:], node)
                node.children[keys[done]] = child
                self.cached_units += len(child.keys)
            else:
                common = _common(child.keys, keys, done)
                if common < len(child.keys):
                    child = self._split(child, common)
            if not child.references:
                self.cached_units -= len(child.keys)
                self.active_units += len(child.keys)
            child.references += 1
            done += len(child.keys)
            node = child
        return node

    def release(self, node: PrefixNode) -> None:
        """Let go of a prompt's units; those that nobody else holds stay cached."""
        self._clock += 1
        at: PrefixNode | None = node
        while at is not None and at.parent is not None:
            at.references -= 1
            if not at.references:
                self.active_units -= len(at.keys)
                self.cached_units += len(at.keys)
                at.released = self._clock
                self._offer(at)
            at = at.parent

    def evict(self, units: int) -> None:
        """Drop so many cached units, least recently released first. There must be as many."""
        self.cached_units -= units
        while units:
            released, _, node = self._leaves[0]
            if node.references or node.children or node.released != released or node.parent is None:
                heappop(self._leaves)  # held again, continued by another prompt, or gone since
            elif len(node.keys) > units:
                node.keys = node.keys[:-units]
                units = 0
            else:
                heappop(self._leaves)
                units -= len(node.keys)
                parent, node.parent = node.parent, None
                del parent.children[node.keys[0]]
                self._offer(parent)

    def _offer(self, node: PrefixNode) -> None:
        """A node may be evicted once nobody holds it and nothing follows it."""
        if node.parent is not None and not node.references and not node.children:
            self._offers += 1
            heappush(self._leaves, (node.released, self._offers, node))

    def _split(self, node: PrefixNode, units: int) -> PrefixNode:
        """Part a node after its first ``units``; the upper half. Holders keep the lower one."""
        parent = node.parent
        assert parent is not None, "the root has no units to part"
        upper = PrefixNode(node.keys[:units], parent)
        upper.references = node.references
        parent.children[upper.keys[0]] = upper
        node.keys = node.keys[units:]
        node.parent = upper
        upper.children[node.keys[0]] = node
        return upper


def _common(keys: Keys, other: Keys, start: int) -> int:
    """How many leading ``keys`` are equal to those of ``other`` from ``start``."""
    length = min(len(keys), len(other) - start)
    if keys[:length] == other[start : start + length]:
        return length
    low = 1  # the first is equal: it led here
    while keys[low] == other[start + low]:
        low += 1
    return low
