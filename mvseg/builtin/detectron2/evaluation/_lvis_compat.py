"""Between the rest and the lvis package (0.5.3, its last release), whose evaluation was written for older numpy."""

from __future__ import annotations

import types

from lvis import LVIS, LVISEval, LVISResults

from ._old_numpy import OldNumpy

__all__ = ["LVIS", "LVISResults", "ModernLVISEval"]


def _with_old_numpy(function: types.FunctionType) -> types.FunctionType:
    """Copy a function so that only the copy sees ``np.float``."""
    return types.FunctionType(
        function.__code__,
        {**function.__globals__, "np": OldNumpy()},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


class ModernLVISEval(LVISEval):
    """LVISEval that runs on today's numpy."""

    accumulate = _with_old_numpy(LVISEval.accumulate)
