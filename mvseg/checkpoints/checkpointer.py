"""Checkpoints that survive a killed run (written whole or not at all) and that say what they could not load."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from mvseg.checkpoints.readers import translate_weights

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last_checkpoint"  # the file in OUTPUT_DIR that names the newest checkpoint, as in Detectron2


@dataclass(frozen=True)
class LoadReport:
    """What of a weight file reached the model and what did not.

    Attributes:
        path: the weight file.
        loaded: number of entries of the model that were filled from the file.
        missing: entries of the model that the file lacks; they keep their initial values.
        unexpected: entries of the file that the model has no place for.
        wrong_shape: (name, shape in the file, shape in the model) of entries that were left out.
    """

    path: str
    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def complete(self) -> bool:
        """Say whether every entry of the model was filled.

        Returns:
            True if nothing is missing and nothing had the wrong shape.
        """
        return not self.missing and not self.wrong_shape

    def describe(self) -> str:
        """Write the report as text.

        Returns:
            One line with the counts, then one line per entry that did not load.
        """
        lines = [
            f"{self.path}: {self.loaded} entries loaded, {len(self.missing)} missing in the file, "
            f"{len(self.wrong_shape)} of another shape, {len(self.unexpected)} in the file but not in the model"
        ]
        lines += [f"  missing      {name}" for name in self.missing]
        lines += [
            f"  wrong shape  {name}: file {file_shape}, model {model_shape}"
            for name, file_shape, model_shape in self.wrong_shape
        ]
        lines += [f"  not in model {name}" for name in self.unexpected]
        return "\n".join(lines)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing so that it is either the old one or the complete new one, whenever the run dies.

    Args:
        path: the file to write; its folder is made.

    Yields:
        A binary file; leaving the block without an error puts it in place.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writing, loading without pickled code, and a report of what did not load.

    Args:
        model: the model, wrapped in DistributedDataParallel or not.
        save_dir: folder of the checkpoints.
        save_to_disk: False never writes; None writes on the main process only.
        checkpointables: further objects with ``state_dict`` and ``load_state_dict`` that are saved with the model.
    """

    report: LoadReport | None = None

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self._loading = ""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` and let ``last_checkpoint`` name it.

        Args:
            name: file name without ending.
            kwargs: further entries of the file, such as ``iteration``.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: part.state_dict() for key, part in self.checkpointables.items()})
        data.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        with atomic_file(path) as file:
            torch.save(data, file)
        logger.info("Saved checkpoint %s", path)
        self.tag_last_checkpoint(path.name)

    def save_model(self, name: str, **facts: Any) -> None:
        """Write only the model's weights to ``<save_dir>/<name>.pth``; a resumed run does not go on from this file.

        Args:
            name: file name without ending.
            facts: further entries of the file, such as ``iteration``.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        path = Path(self.save_dir) / f"{name}.pth"
        with atomic_file(path) as file:
            torch.save({"model": self.model.state_dict(), **facts}, file)
        logger.info("Saved weights %s", path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Let ``last_checkpoint`` name a file.

        Args:
            last_filename_basename: file name below ``save_dir``.
        """
        with atomic_file(Path(self.save_dir) / LAST_CHECKPOINT) as file:
            file.write(last_filename_basename.encode())

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights, and the other parts where the file has them.

        Args:
            path: weight file; empty loads nothing.
            checkpointables: names of the parts to load besides the model; None loads all.

        Returns:
            What else the file holds.

        Raises:
            FileNotFoundError: if a local path does not exist.
            ValueError: if nothing in the file fits the model.
        """
        if path and "://" not in path and not Path(path.partition("?")[0]).exists():
            raise FileNotFoundError(f"MODEL.WEIGHTS: weight file {path} does not exist")
        self.report, self._loading = None, path
        return super().load(path, checkpointables=checkpointables)

    def _load_file(self, filename: str) -> Any:
        if filename.endswith((".pth", ".pt")):
            content = _read_tensors(filename)
            wrapper = next((key for key in ("model", "state_dict") if isinstance(content.get(key), dict)), None)
            content = {"model": content} if wrapper is None else {**content, "model": content[wrapper]}
        else:
            content = super()._load_file(filename)
        translated = translate_weights(content["model"], self.model.state_dict())
        if translated is not None:
            content = {"model": translated, "__author__": "mvseg", "matching_heuristics": True}
        return content

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        names = set(self.model.state_dict())
        # EMA weights, DDP's copies and the like never appear here: the base class already stripped the prefixes.
        missing = tuple(sorted(incompatible.missing_keys))
        wrong = tuple(sorted((n, tuple(a), tuple(b)) for n, a, b in incompatible.incorrect_shapes))
        # The base class counts entries of another shape as missing as well; they are listed once, with their shapes.
        missing = tuple(name for name in missing if name not in {entry[0] for entry in wrong})
        loaded = len(names) - len(missing) - len(wrong)
        self.report = LoadReport(self._loading, loaded, missing, tuple(sorted(incompatible.unexpected_keys)), wrong)
        # Statistics without a value of their own are never reported as missing, so they do not count here.
        empty = {name for name in names if name.endswith("num_batches_tracked")} | {"pixel_mean", "pixel_std"}
        if names - empty and not names - empty - {*missing, *(entry[0] for entry in wrong)}:
            raise ValueError(_nothing_fits(self.report, sorted(names)))
        if self.report.complete and not self.report.unexpected:
            logger.info("%s", self.report.describe())
        else:
            logger.warning("%s", self.report.describe())


def _read_tensors(filename: str) -> dict[str, Any]:
    try:
        content = torch.load(filename, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers of zip, pickle and tensors each fail in their own ways
        raise ValueError(
            f"weight file {filename} cannot be read ({type(error).__name__}): it is damaged, no PyTorch file, or holds "
            "Python objects besides tensors, which are not loaded for safety"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"weight file {filename} holds a {type(content).__name__}, not a dict of tensors")
    return content


def _nothing_fits(report: LoadReport, names: Sequence[str]) -> str:
    return (
        f"{report.path}: nothing in this file fits the model. The file has {_some(report.unexpected)}, the model wants "
        f"{_some(names)}. Is it a file for another architecture (MODEL.META_ARCHITECTURE, MODEL.BACKBONE.NAME)?"
    )


def _some(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
