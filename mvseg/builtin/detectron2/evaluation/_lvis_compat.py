"""Between the rest and the lvis package (0.5.3, its last release), whose evaluation was written for older numpy."""

import types

import lvis.eval
import numpy
from lvis import LVIS, LVISEval, LVISResults  # noqa: F401

# numpy with a name that it has since removed; only the copied function below sees it.
_OLD_NUMPY = types.SimpleNamespace(**vars(numpy), float=float)


class ModernLVISEval(LVISEval):
    """LVISEval that runs on today's numpy."""

    accumulate = types.FunctionType(LVISEval.accumulate.__code__, {**vars(lvis.eval), "np": _OLD_NUMPY})
