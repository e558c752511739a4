"""Which Detectron2 is in use, and the versions and devices of this machine (``python -m mvseg.environment``)."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Literal

Provider = Literal["installed", "builtin"]

ENVIRONMENT_VARIABLE = "MVSEG_DETECTRON2"
CHOICES = ("auto", "installed", "builtin")
BUILTIN_ROOT = Path(__file__).resolve().parent / "builtin"
INSTALL_COMMAND = "python -m pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
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
    "opencv-python-headless",
    "numpy",
    "pillow",
    "matplotlib",
    "tensorboard",
)

logger = logging.getLogger(__name__)


def detectron2_provider() -> Provider | None:
    """Say where ``detectron2`` comes from.

    Returns:
        "installed" or "builtin", or None when ``detectron2`` cannot be imported.
    """
    spec = importlib.util.find_spec("detectron2")
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [])
    return "builtin" if any(Path(place).resolve().parent == BUILTIN_ROOT for place in places) else "installed"


def activate_detectron2(choice: str | None = None) -> Provider:
    """Make ``import detectron2`` work; an installed Detectron2 wins unless the choice says otherwise.

    Args:
        choice: "auto", "installed" or "builtin"; None reads the environment variable MVSEG_DETECTRON2 (default "auto").

    Returns:
        The provider now in use.

    Raises:
        ValueError: if the choice is none of the three.
        ImportError: if "installed" is asked for and there is no Detectron2, or the other provider is already imported.
    """
    choice = choice or os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    if choice not in CHOICES:
        raise ValueError(f"{ENVIRONMENT_VARIABLE}={choice!r}: choose one of {', '.join(CHOICES)}")
    if choice == "builtin":
        _put_builtin_on_path(first=True)
    elif detectron2_provider() is None and choice == "auto":
        _put_builtin_on_path(first=False)
    provider = detectron2_provider()
    if provider is None or (choice != "auto" and provider != choice):
        raise ImportError(_refusal(choice, provider))
    logger.debug("detectron2: %s provider", provider)
    return provider


def _put_builtin_on_path(first: bool) -> None:
    path = str(BUILTIN_ROOT)
    if path in sys.path:
        return
    if first:
        sys.path.insert(0, path)
    else:
        sys.path.append(path)
    importlib.invalidate_caches()


def _refusal(choice: str, provider: str | None) -> str:
    if choice == "installed":
        found = "none is installed" if provider is None else "mvseg's built-in provider is already in use"
        return (
            f"{ENVIRONMENT_VARIABLE}=installed asks for a Detectron2 of your own, but {found}. Install it with\n"
            f"  {INSTALL_COMMAND}\nor unset {ENVIRONMENT_VARIABLE} to use the built-in provider."
        )
    return (
        f"{ENVIRONMENT_VARIABLE}={choice} asks for mvseg's built-in provider, but another detectron2 "
        f"({getattr(sys.modules.get('detectron2'), '__file__', None)}) is already imported. Import mvseg first."
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
    import torch

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
    import detectron2
    import mvseg

    rows = [
        ("mvseg", f"{mvseg.__version__} ({Path(mvseg.__file__).parent})"),
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


if __name__ == "__main__":
    print(describe())
