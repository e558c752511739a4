"""CfgNode, the global config, and ``configurable``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import yaml
from detectron2.utils.file_io import PathManager
from fvcore.common.config import CfgNode as _FvcoreCfgNode
from yacs.config import CfgNode as _YacsCfgNode


class CfgNode(_FvcoreCfgNode):
    """Config tree that reads YAML files with ``_BASE_`` and brings files of older versions up to date."""

    @classmethod
    def _open_cfg(cls, filename: str) -> Any:
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a YAML file; tags that run Python code are refused unless ``allow_unsafe`` says otherwise."""
        from detectron2.config.compat import upgrade_partial

        if not PathManager.isfile(cfg_filename):
            raise FileNotFoundError(f"config file {cfg_filename} does not exist")
        try:
            loaded = self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe)
        except yaml.constructor.ConstructorError as error:
            raise ValueError(
                f"{cfg_filename} (or its _BASE_) uses a YAML tag that runs Python code: {error.problem}. "
                "Write the value out, or pass allow_unsafe=True for a file that you trust"
            ) from error
        if "VERSION" in self:
            upgrade_partial(loaded, newest=self.VERSION, source=cfg_filename)
        self.merge_from_other_cfg(type(self)(loaded))

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """Return the tree as YAML text."""
        return super().dump(*args, **kwargs)


global_cfg = CfgNode()


def get_cfg() -> CfgNode:
    """Return a fresh copy of the default tree."""
    from detectron2.config.defaults import _C

    return _C.clone()


def set_global_cfg(cfg: CfgNode) -> None:
    """Let ``detectron2.config.global_cfg`` have the content of ``cfg``: for code that cannot be handed a config."""
    global_cfg.clear()
    global_cfg.update(cfg)


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """Let a constructor or function also be called with a config.

    ``@configurable`` on ``__init__``: the class has ``from_config(cls, cfg, ...)`` that returns the explicit arguments.
    ``@configurable(from_config=f)`` on a function: ``f(cfg, ...)`` returns them. Arguments that the call gives by
    keyword and that ``from_config`` does not take replace those that it returned.
    """
    if init_func is not None:
        if not inspect.isfunction(init_func) or init_func.__name__ != "__init__" or from_config is not None:
            raise TypeError("@configurable without arguments decorates an __init__ method")
        return _configurable_constructor(init_func)
    if from_config is None:
        return configurable
    if not inspect.isfunction(from_config):
        raise TypeError("configurable(from_config=...) takes a function")
    return functools.partial(_configurable_function, from_config)


def _configurable_constructor(init: Callable) -> Callable:
    @functools.wraps(init)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        cls = type(self)
        translate = getattr(cls, "from_config", None)
        if translate is None:
            raise AttributeError(f"{cls.__name__} uses @configurable, so it needs a classmethod from_config(cls, cfg)")
        if not inspect.ismethod(translate):
            raise TypeError(f"{cls.__name__}.from_config must be a classmethod")
        if _gives_config(args, kwargs):
            init(self, **_explicit_arguments(translate, args, kwargs))
        else:
            init(self, *args, **kwargs)

    return construct


def _configurable_function(translate: Callable, function: Callable) -> Callable:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _gives_config(args, kwargs):
            return function(**_explicit_arguments(translate, args, kwargs))
        return function(*args, **kwargs)

    call.from_config = translate  # type: ignore[attr-defined]
    return call


def _gives_config(args: tuple, kwargs: dict[str, Any]) -> bool:
    first = args[0] if args else kwargs.get("cfg")
    return isinstance(first, _YacsCfgNode)


def _explicit_arguments(translate: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(translate).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"the first argument of {translate.__qualname__} must be named cfg")
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return translate(*args, **kwargs)
    known = {name: value for name, value in kwargs.items() if name in parameters}
    overrides = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**translate(*args, **known), **overrides}
