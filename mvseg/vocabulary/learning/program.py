"""The integer program that chooses merges which do not contradict each other."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from .evidence import Bools, Floats

SCALE = 1e4  # the solver ends at an absolute gap of 1e-6: of the scaled values
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Choice:
    """What the solver found.

    Args:
        chosen: which sets are chosen, shape ``(S,)``, bool.
        objective: sum of the values of the chosen sets.
        bound: no choice has a smaller sum than this.
        seconds: time of the solver.
    """

    chosen: Bools
    objective: float
    bound: float
    seconds: float

    @property
    def is_optimal(self) -> bool:
        """Say whether it is proven that no choice is better.

        Returns:
            True if the bound is reached, but for rounding.
        """
        return self.objective - self.bound <= TOLERANCE * max(1.0, abs(self.objective))


def set_values(costs: Floats, sizes: Floats, penalty: float) -> Floats:
    """Give what it is worth to choose each set: smaller is better, 0 is a set that is not chosen.

    Args:
        costs: AP that each set costs, shape ``(S,)``, float.
        sizes: number of its words, shape ``(S,)``, float.
        penalty: lambda, the cost of one more word in the label space.

    Returns:
        Values, shape ``(S,)``, float.

    Source: Zhou et al. 2022, Simple multi-dataset detection (arXiv 2102.13086), as in the notebook
        UniDet_learn_labelspace_mAP of github.com/xingyizhou/UniDet (commit 94cd0e8).
    """
    return sizes * costs - penalty * (sizes - 1)


def choose_sets(values: Floats, members: Bools, time_limit: float = 600.0) -> Choice:
    """Choose sets with the smallest sum of values so that every word is in at most one of them, exactly.

    Args:
        values: value of every set, shape ``(S,)``, float.
        members: which words are in which set, shape ``(N, S)``, bool.
        time_limit: seconds after which the best choice so far is taken.

    Returns:
        The choice; ``is_optimal`` says whether the time sufficed.

    Raises:
        RuntimeError: if the solver finds no choice at all in the time.
    """
    started = time.monotonic()
    chosen = np.zeros(len(values), dtype=bool)
    useful = np.flatnonzero(values < 0)  # the others are never worth it
    if not len(useful):
        return Choice(chosen, 0.0, 0.0, time.monotonic() - started)
    contested = members[:, useful][members[:, useful].sum(axis=1) > 1]
    constraints = LinearConstraint(csr_array(contested.astype(float)), ub=1) if len(contested) else None
    answer = milp(
        SCALE * values[useful],
        integrality=np.ones(len(useful)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0, "time_limit": time_limit},
    )
    if answer.x is None:
        raise RuntimeError(f"the integer program was not solved within {time_limit:g} s: {answer.message}")
    chosen[useful[answer.x > 0.5]] = True
    if members[:, chosen].sum(axis=1).max(initial=0) > 1:
        raise RuntimeError("the solver's choice has a word twice; this is an error of the solver")
    bound = answer.get("mip_dual_bound")
    bound = -np.inf if bound is None else bound / SCALE
    return Choice(chosen, float(values[chosen].sum()), float(bound), time.monotonic() - started)
