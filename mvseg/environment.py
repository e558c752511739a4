"""Versions and devices of this machine, and which Detectron2 is in use (``python -m mvseg.environment``)."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import detectron2
import torch

import mvseg
from mvseg.provider import detectron2_provider

REPORTED_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "fvcore",
    "iopath",
    "pycocotools",
    "lvis",
    "opencv-python",
    "numpy",
    "pillow",
    "matplotlib",
    "tensorboard",
)


def package_versions() -> dict[str, str]:
    """Look up the versions of the packages that matter.

    Returns:
        Package name to version; packages that are not installed are left out.
    """
    versions = {}
    for name in REPORTED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def device_lines() -> list[str]:
    """Describe the devices that torch can use.

    Returns:
        One line for each device: the CPU first, then every CUDA device with its memory.
    """

    lines = [
        f"cpu: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        lines.append(f"cuda:{index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    return lines


def describe() -> str:
    """Write the environment report that ``python -m mvseg.environment`` prints.

    Returns:
        Several lines: provider of detectron2, Python, package versions, devices, data folder.
    """
    rows = [
        ("mvseg", f"{mvseg.__version__} ({_folder(mvseg)})"),
        (
            "detectron2",
            f"{detectron2_provider()} provider, {detectron2.__version__} ({Path(detectron2.__file__).parent})",
        ),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        *package_versions().items(),
        *(("device", line) for line in device_lines()),
        ("DETECTRON2_DATASETS", os.environ.get("DETECTRON2_DATASETS", "datasets (default)")),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _folder(module: object) -> Path:
    return Path(getattr(module, "__file__", None) or ".").parent


if __name__ == "__main__":
    print(describe())
