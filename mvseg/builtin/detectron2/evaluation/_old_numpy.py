"""numpy with the names that it has since removed, for evaluation packages that nobody updates; numpy itself stays."""

from __future__ import annotations

from typing import Any

import numpy


class OldNumpy:
    """Hand out numpy's attributes, and the removed ones that lvis (float) and cityscapesscripts (in1d) still use."""

    float = float

    @staticmethod
    def in1d(*args: Any, **kwargs: Any) -> numpy.ndarray:
        """As numpy.isin, flattened."""
        return numpy.isin(*args, **kwargs).ravel()

    def __getattr__(self, name: str) -> Any:
        return getattr(numpy, name)
