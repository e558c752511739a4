"""Which Detectron2 answers ``import detectron2``: an installed one, or mvseg's own provider of its interfaces."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Literal

Provider = Literal["installed", "builtin"]

ENVIRONMENT_VARIABLE = "MVSEG_DETECTRON2"
CHOICES = ("auto", "installed", "builtin")
BUILTIN_ROOT = Path(__file__).resolve().parent / "builtin"
INSTALL_COMMAND = "python -m pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"

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
    # fvcore still scripts its losses when it is imported; its users can do nothing about that.
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script", category=DeprecationWarning)
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
