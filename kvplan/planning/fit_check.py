"""Whether one placement fits, without asking how much more it would hold: what searches ask many times over."""

from __future__ import annotations

from typing import cast

from kvplan.core.budget import BudgetingEngine, RankBudget
from kvplan.core.engine import Allocation, Engine
from kvplan.core.errors import DoesNotFitError
from kvplan.core.fit import FitRequest
from kvplan.core.frozen import dataclass
from kvplan.core.model import Model
from kvplan.core.units import format_bytes
from kvplan.planning.fit import build_budget_request, with_memory, without_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class FitCheck:
    """One placement, checked; it fits where ``problem`` is None.

    ``needed_bytes`` is the cache of the asked requests on the fullest rank (0 where weights and overhead alone do not
    fit, and it was not asked), ``available_bytes`` what is left there, ``capacity`` what the engine makes of it.
    """

    request: FitRequest
    budgets: tuple[RankBudget, ...]
    needed_bytes: int
    available_bytes: int
    missing_bytes: int
    capacity: Allocation | None
    problem: str | None

    @property
    def fits(self) -> bool:
        """Whether the engine starts and holds all asked requests at once: what FitResult says of it too."""
        return self.problem is None

    @property
    def weights_bytes(self) -> int:
        """Weights of the fullest rank."""
        return max(budget.weights.size_bytes for budget in self.budgets)


def check_fit(model: Model, request: FitRequest, engine: Engine) -> FitCheck:
    """Check one placement. Raises UsageError or UnsupportedError where the engine cannot be started so at all."""
    asked = build_budget_request(model, request, engine)
    budgets = cast(BudgetingEngine, engine).budget(asked)
    available = min(budget.kv_cache.size_bytes for budget in budgets)
    missing = max(budget.missing_bytes for budget in budgets)
    needed, capacity = 0, None
    if missing:
        problem: str | None = _overfull(budgets, engine.name)
    else:
        ranks = engine.allocate(without_memory(asked.allocation)).stages
        needed = max(rank.allocated_bytes for rank in ranks)
        problem = None
        if needed > available:
            problem = f"the cache needs {format_bytes(needed)} per device, {format_bytes(available)} are left"
        elif not available:
            problem = "no memory is left for the cache"
        else:
            try:
                capacity = engine.allocate(with_memory(asked.allocation, available))
            except DoesNotFitError as error:
                problem = error.message
    return FitCheck(
        request=request,
        budgets=budgets,
        needed_bytes=needed,
        available_bytes=available,
        missing_bytes=missing,
        capacity=capacity,
        problem=problem,
    )


def _overfull(budgets: tuple[RankBudget, ...], engine: str) -> str:
    worst = max(budgets, key=lambda budget: budget.missing_bytes)
    return (
        f"weights ({format_bytes(worst.weights.size_bytes)}) and overhead exceed the "
        f"{format_bytes(worst.requested_bytes)} per device that {engine} takes by {format_bytes(worst.missing_bytes)}"
    )
