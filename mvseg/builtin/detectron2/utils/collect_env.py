"""The environment table that default_setup logs."""

import importlib
import os
import platform

import detectron2
import torch
from tabulate import tabulate


def collect_env_info() -> str:
    """Describe system, versions and devices as a table."""
    rows = [
        ("platform", platform.platform()),
        ("Python", platform.python_version()),
        ("detectron2", f"{detectron2.__version__} @ {os.path.dirname(detectron2.__file__)}"),
    ]
    for name in ("torch", "torchvision", "numpy", "PIL", "cv2", "fvcore", "iopath", "pycocotools"):
        try:
            version = getattr(importlib.import_module(name), "__version__", "installed")
        except ImportError:
            version = "not installed"
        rows.append((name, version))
    rows.append(("CUDA of torch", str(torch.version.cuda)))
    rows += [(f"GPU {i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    rows.append(("CPU threads of torch", str(torch.get_num_threads())))
    return tabulate(rows)
