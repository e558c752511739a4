"""CfgNode, the global config, and ``configurable``."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import yaml
from detectron2.utils.file_io import PathManager
from fvcore.common.config import CfgNode as _FvcoreCfgNode
from yacs.config import CfgNode as _YacsCfgNode


class CfgNode(_FvcoreCfgNode):
    """Config tree that reads YAML files with ``_BASE_``."""

    @classmethod
    def _open_cfg(cls, filename: str) -> Any:
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a YAML file; tags that run Python code are refused unless ``allow_unsafe`` says otherwise."""
        if not PathManager.isfile(cfg_filename):
            raise FileNotFoundError(f"config file {cfg_filename} does not exist")
        try:
            loaded = self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe)
        except yaml.constructor.ConstructorError as error:
            raise ValueError(
                f"{cfg_filename} (or its _BASE_) uses a YAML tag that runs Python code: {error.problem}. "
                "Write the value out, or pass allow_unsafe=True for a file that you trust"
            ) from error
        if loaded.get("VERSION", 2) != 2:
            raise ValueError(f"{cfg_filename}: VERSION {loaded['VERSION']}, but only 2 is in mvseg's built-in provider")
        self.merge_from_other_cfg(type(self)(loaded))


def read_keys(node: CfgNode, keys: str) -> dict[str, Any]:
    """Read the blank-separated keys of a node as arguments of the same names in lower case."""
    return {key.lower(): node[key] for key in keys.split()}


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
    if from_config is not None:
        return functools.partial(_accept_config, translate=from_config)
    if getattr(init_func, "__name__", None) != "__init__":
        raise TypeError("@configurable without arguments decorates an __init__ method")
    return _accept_config(init_func)


def _accept_config(function: Callable, translate: Callable | None = None) -> Callable:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        # The translator of a constructor is that of the class which is being built.
        own, args = ((), args) if translate else (args[:1], args[1:])
        translator = translate or _translator_of(type(own[0]))
        if isinstance(args[0] if args else kwargs.get("cfg"), _YacsCfgNode):
            return function(*own, **_explicit_arguments(translator, args, kwargs))
        return function(*own, *args, **kwargs)

    call.from_config = translate  # type: ignore[attr-defined]
    return call


def _translator_of(cls: type) -> Callable:
    translator = getattr(cls, "from_config", None)
    if translator is None:
        raise AttributeError(f"{cls.__name__} uses @configurable, so it needs a classmethod from_config(cls, cfg)")
    if not inspect.ismethod(translator):
        raise TypeError(f"{cls.__name__}.from_config must be a classmethod")
    return translator


def _explicit_arguments(translate: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(translate).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"the first argument of {translate.__qualname__} must be named cfg")
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return translate(*args, **kwargs)
    known = {name: kwargs.pop(name) for name in list(kwargs) if name in parameters}
    return {**translate(*args, **known), **kwargs}
