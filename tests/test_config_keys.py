"""Every config key that mvseg adds is read somewhere: a key that does nothing misleads."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_cfg

from mvseg.config import get_cfg

ROOT = Path(__file__).resolve().parents[1]


def added(ours: CfgNode, theirs: CfgNode | None, prefix: str = "") -> Iterator[str]:
    for name, value in ours.items():
        known = theirs is not None and name in theirs
        if isinstance(value, CfgNode):
            yield from added(value, theirs[name] if known else None, f"{prefix}{name}.")
        elif not known:
            yield f"{prefix}{name}"


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """``cfg.MODEL.TIMM`` of an attribute chain, with variables replaced by what they stand for."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, names)}.{node.attr}"
    return "?"


def keys_read(function: ast.AST) -> Iterator[str]:
    """Keys that a function reads from a config, also through a variable such as ``node = cfg.MODEL.TIMM``."""
    names: dict[str, str] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pair = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                for left, right in zip(target.elts, node.value.elts) if pair else [(target, node.value)]:
                    if isinstance(left, ast.Name) and isinstance(right, ast.Attribute):
                        names[left.id] = dotted(right, names)
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield dotted(node, names).partition("cfg.")[2]


@pytest.fixture(scope="module")
def read() -> set[str]:
    files = [p for p in (ROOT / "mvseg").rglob("*.py") if "builtin" not in p.parts]
    functions = [
        node
        for file in [*files, ROOT / "train_net.py"]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    return {key for function in functions for key in keys_read(function)}


KEYS = sorted(added(get_cfg(), detectron2_cfg()))


def test_there_are_keys():
    assert {"DATASETS.MIX", "MODEL.CENTERNET.SOI", "SOLVER.EMA.DECAY"} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_key_is_read(key: str, read: set[str]):
    assert key in read, f"nothing in mvseg reads {key}"
