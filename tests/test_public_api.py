"""The public API documents itself: shapes of tensors, errors raised, and the source of every formula."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "mvseg"
TENSOR = re.compile(r"\b(Tensor|LongTensor|BoolTensor|ndarray)\b")
# "(N, 4)", "(images, n)", "(3, H, W)", "(n,)" or a word for a tensor without dimensions
SHAPE = re.compile(r"\((?:[\w.+*/ -]+,)+ ?[\w.+*/ -]*\)|\bscalar\b")
# Modules whose public functions on tensors are formulas.
FORMULAS = ("modeling/objectives/", "modeling/classifier.py", "modeling/proposals/centernet_targets.py")

Definition = ast.FunctionDef | ast.ClassDef


def source_files() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if "builtin" not in p.parts and "__pycache__" not in p.parts)


def public_definitions(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    for node in tree.body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield f"{node.name}.{method.name}", method


def annotations_of(node: ast.FunctionDef) -> str:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    parts = [a.annotation for a in arguments] + [node.returns]
    return " ".join(ast.unparse(p) for p in parts if p is not None)


def raised(node: ast.FunctionDef) -> set[str]:
    """Names of the exceptions that the function's own body raises; bare re-raises and nested functions do not count."""
    names, stack = set(), list(node.body)
    while stack:
        item = stack.pop()
        if isinstance(item, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(item, ast.Raise) and item.exc is not None:
            target = item.exc.func if isinstance(item.exc, ast.Call) else item.exc
            if isinstance(target, ast.Name) and target.id[0].isupper():
                names.add(target.id)
        stack.extend(ast.iter_child_nodes(item))
    return names


def complaints(path: str, source: str) -> list[str]:
    found = []
    tree = ast.parse(source)
    if source.strip() and not ast.get_docstring(tree):
        found.append("module: no docstring")
    for name, node in public_definitions(tree):
        text = ast.get_docstring(node) or ""
        if not text:
            found.append(f"{name}: no docstring")
            continue
        if not isinstance(node, ast.FunctionDef):
            continue
        touches_tensors = bool(TENSOR.search(annotations_of(node)))
        if touches_tensors and not SHAPE.search(text):
            found.append(f"{name}: tensors without a shape such as (N, 4)")
        missing = [e for e in sorted(raised(node)) if f"{e}:" not in text.partition("Raises:")[2]]
        if missing:
            found.append(f"{name}: Raises section lacks {', '.join(missing)}")
        if touches_tensors and path.startswith(FORMULAS) and "Source:" not in text:
            found.append(f"{name}: formula without a Source")
    return found


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_public_api_is_documented(path: Path):
    found = complaints(path.relative_to(ROOT).as_posix(), path.read_text())
    assert not found, f"{path.relative_to(ROOT.parent)}:\n  " + "\n  ".join(found)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("def f(x: Tensor) -> Tensor:\n    '''Double it.'''\n    return 2 * x", "shape"),
        ("def f() -> None:\n    '''Stop.'''\n    raise ValueError('no')", "Raises section lacks ValueError"),
        ("def f() -> None:\n    pass", "no docstring"),
        ("def f(x: Tensor) -> Tensor:\n    '''Double (N, 4).'''\n    return 2 * x", "Source"),
    ],
)
def test_the_walk_sees_what_is_missing(body: str, complaint: str):
    found = complaints("modeling/objectives/x.py", f"'''Doc.'''\n{body}")
    assert any(complaint in line for line in found), found


def test_the_walk_accepts_a_complete_docstring():
    body = (
        "'''Doc.'''\ndef f(x: Tensor) -> Tensor:\n    '''Double.\n\n    Args:\n        x: (N, 4) boxes, pixels.\n\n"
        "    Raises:\n        ValueError: if empty.\n\n    Source: arithmetic.\n    '''\n    raise ValueError('no')"
    )
    assert complaints("modeling/objectives/x.py", body) == []
