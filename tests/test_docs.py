"""The code in the documentation runs: every page's blocks are executed in order, in a folder of their own.

A block fenced as ``python`` is executed; all blocks of a page share one namespace. A block fenced as ``yaml FILE`` is
first written to FILE. Other blocks (``console`` and plain ``yaml``) are for reading.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```(\w+)[ ]?([^\n]*)\n(.*?)^```", re.M | re.S)


def pages() -> list[Path]:
    return sorted(p for p in DOCS.glob("*.md") if "```python" in p.read_text())


def test_the_promised_pages_have_code():
    assert {"add_a_dataset.md", "add_a_loss.md", "add_a_system.md"} <= {p.name for p in pages()}


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.name)
def test_code_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    namespace: dict[str, object] = {"__name__": "__docs__"}
    for language, info, code in BLOCK.findall(page.read_text()):
        if language == "yaml" and info:
            Path(info).parent.mkdir(parents=True, exist_ok=True)
            Path(info).write_text(code)
        elif language == "python":
            exec(compile(code, f"{page.name}", "exec"), namespace)
