"""Two verifications compared: what changed between two runs, devices or releases."""

from __future__ import annotations

from kvplan.core.frozen import dataclass
from kvplan.core.verification import Check, Verification


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationDiff:
    """What changed since ``source``.

    ``broken`` passed and no longer do, ``mended`` the other way round; ``changed`` are other figures with the same
    outcome, (old, new); ``new`` and ``gone`` are in one of the two only; ``around`` are (name, old, new) of the device
    and the versions.
    """

    source: str
    broken: tuple[Check, ...] = ()
    mended: tuple[Check, ...] = ()
    changed: tuple[tuple[Check, Check], ...] = ()
    new: tuple[Check, ...] = ()
    gone: tuple[Check, ...] = ()
    num_same: int = 0
    around: tuple[tuple[str, str, str], ...] = ()

    @property
    def same(self) -> bool:
        """Whether every check is as it was."""
        return not (self.broken or self.mended or self.changed or self.new or self.gone)


def diff_verifications(old: Verification, new: Verification, source: str) -> VerificationDiff:
    """What ``new`` found that ``old`` (read from ``source``) did not, check by check."""
    before, after = _by_name(old), _by_name(new)
    pairs = [(before[name], check) for name, check in after.items() if name in before]
    flipped = [pair for pair in pairs if pair[0].passed != pair[1].passed]
    changed = [pair for pair in pairs if pair not in flipped and _figures(pair[0]) != _figures(pair[1])]
    return VerificationDiff(
        source=source,
        broken=tuple(check for _, check in flipped if not check.passed),
        mended=tuple(check for _, check in flipped if check.passed),
        changed=tuple(changed),
        new=tuple(check for name, check in after.items() if name not in before),
        gone=tuple(check for name, check in before.items() if name not in after),
        num_same=len(pairs) - len(flipped) - len(changed),
        around=_around(old, new),
    )


def _by_name(found: Verification) -> dict[tuple[str, str, str, int], Check]:
    """Every check by its name; equal names are told apart by their order."""
    named: dict[tuple[str, str, str, int], Check] = {}
    for check in found.checks:
        repeat = 0
        while (name := (check.subject, check.group, check.what, repeat)) in named:
            repeat += 1
        named[name] = check
    return named


def _figures(check: Check) -> tuple[int, int]:
    return check.predicted_bytes, check.measured_bytes


def _around(old: Verification, new: Verification) -> tuple[tuple[str, str, str], ...]:
    before, after = _surroundings(old), _surroundings(new)
    names = dict.fromkeys((*before, *after))
    changes = ((name, before.get(name, "none"), after.get(name, "none")) for name in names)
    return tuple((name, was, now) for name, was, now in changes if was != now)


def _surroundings(found: Verification) -> dict[str, str]:
    device = {"device": found.device.name, "driver": found.device.driver or "none"}
    return {**found.request, **device, **found.versions}
