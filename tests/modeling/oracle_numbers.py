"""Reading of the stored numbers of the original implementations, and comparison with them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Oracle:
    """One folder of stored inputs and outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.io = np.load(folder / "io.npz")
        self.config = json.loads((folder / "config.json").read_text())

    def __call__(self, key: str) -> Tensor:
        value = torch.from_numpy(np.asarray(self.io[key]))
        return value.float() if value.dtype == torch.float16 else value

    def images(self, key: str) -> list[Tensor]:
        return [self(f"{key}_{i}") for i in range(2)]

    def state_dict(self, text: Any = None) -> dict[str, Tensor]:
        spec = importlib.util.spec_from_file_location("oracle_weights", self.folder.parent / "weights.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.make_state_dict(json.loads((self.folder / "manifest.json").read_text()), text)


def close(actual: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    """Compare within a tolerance relative to the largest expected value."""
    assert actual.shape == expected.shape
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=relative, atol=relative * float(expected.abs().max())
    )
