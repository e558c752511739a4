"""What all tests share: mvseg is imported first so that ``detectron2`` resolves; where the shared data lies."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import mvseg  # noqa: F401  (activates the detectron2 provider)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with oracles and photographs; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared (oracles and photographs) is not here")
    return SHARED


@pytest.fixture(autouse=True)
def _same_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _loggers_as_before():
    """Undo what a test's ``setup_logger`` did to the loggers of the whole process."""
    known = [logging.getLogger(name) for name in ("mvseg", "detectron2", "fvcore")]
    before = [(log, log.propagate, log.level, list(log.handlers)) for log in known]
    yield
    for log, propagate, level, handlers in before:
        log.propagate, log.level, log.handlers[:] = propagate, level, handlers


class RandomEncoder:
    """Stands for CLIP's text encoder, which is not installed with mvseg."""

    fingerprint = "random"

    def __init__(self, width: int) -> None:
        self.width = width

    def encode(self, texts):
        return torch.randn(len(texts), self.width, generator=torch.Generator().manual_seed(len(texts)))


@pytest.fixture
def text_width() -> int:
    """Width of the embeddings of :func:`system_data`; a file of tests may have its own."""
    return 512


@pytest.fixture
def system_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_width: int) -> Iterator[Path]:
    """For configs of projects: a folder of datasets with only the file of words that cards need; CLIP replaced."""
    from mvseg.data import register_builtin_cards
    from mvseg.data.catalog import get_card, unregister_card

    root = Path(__file__).resolve().parents[1]
    monkeypatch.chdir(root)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (tmp_path / "imagenet21k").mkdir()
    (tmp_path / "imagenet21k" / "words.tsv").write_text("name\tkey\ndog\tn02084071\ngiant squid\tn01971094\n")
    monkeypatch.setattr("mvseg.modeling.words.build_text_encoder", lambda *args, **kwargs: RandomEncoder(text_width))
    register_builtin_cards()
    yield tmp_path
    for card in (root / "projects").glob("*/cards*/*.yaml"):
        with contextlib.suppress(KeyError, ValueError):
            if get_card(card.stem).source == card.resolve():
                unregister_card(card.stem)
    monkeypatch.undo()
    register_builtin_cards()
