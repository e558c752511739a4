"""One training step: forward under autocast, finite check, backward, clipping, update."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import SimpleTrainer
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils import comm
from torch import Tensor, nn

from mvseg.checkpoints import atomic_file
from mvseg.training.optimizer import Clip
from mvseg.training.setup import seed_everything

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_precision(name: str) -> torch.dtype:
    """Turn SOLVER.AMP.DTYPE into a dtype.

    Args:
        name: "bfloat16" or "float16".

    Returns:
        The dtype.

    Raises:
        ValueError: if it is neither.
    """
    if name not in PRECISIONS:
        raise ValueError(f"SOLVER.AMP.DTYPE {name!r}: choose one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


class TrainingStep(SimpleTrainer):
    """Detectron2's plain training loop with autocast on any device, clipping and a check for non-finite losses.

    Args:
        model: the model in training mode, wrapped or not; gives a dict of scalar losses, or one scalar.
        data_loader: endless iterable of batches.
        optimizer: updates the model.
        precision: dtype of the autocast region; None computes in the model's own dtype. float16 scales the loss.
        clip: clips the gradients of parameters in place, after unscaling.
        output_dir: where the inputs of a failed step are saved; None saves nothing.
        seed: the random numbers of a step follow from it, the process and the iteration; None seeds nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        precision: torch.dtype | None = None,
        clip: Clip | None = None,
        output_dir: str | Path | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.device_type = next(model.parameters()).device.type
        self.precision = precision
        self.clip = clip
        self.output_dir = Path(output_dir) if output_dir is not None else None
        self.seed = seed
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=precision == torch.float16)
        self.batch: list[dict[str, Any]] = []  # the latest batch, for pictures and for the report of a failure

    def run_step(self) -> None:
        """Train on one batch.

        Raises:
            FloatingPointError: if a loss is NaN or infinite, or numbers inside the model are; the inputs are saved
                before.
        """
        start = time.perf_counter()
        self._seed(0)  # a loader without worker processes may draw from this process's generators
        self.batch = next(self._data_loader_iter)
        self._seed(1)
        data_time = time.perf_counter() - start
        losses = self._forward()
        if isinstance(losses, Tensor):
            losses = {"total_loss": losses}
        values = torch.stack([loss.float() for loss in losses.values()])
        total: Tensor = values.sum()
        self._check_finite(total.detach(), losses)
        self.optimizer.zero_grad()
        self.scaler.scale(total).backward()
        self.after_backward()
        self._update()
        values = values.detach().cpu()  # all losses in one copy: each would wait for the GPU
        self.write_metrics(dict(zip(losses, values, strict=True)), data_time, self.iter)

    def _check_finite(self, total: Tensor, losses: dict[str, Tensor]) -> None:
        """Stop all processes after the same step, so that none waits for the gradients of one that has stopped."""
        failures = (~torch.isfinite(total)).float()
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(failures)
        if not failures:
            return
        if torch.isfinite(total):
            raise FloatingPointError(f"iteration {self.iter}: the loss of another process is not finite; see its log")
        raise FloatingPointError(self._report_failure(losses))

    def _forward(self) -> Any:
        try:
            with torch.autocast(self.device_type, self.precision, enabled=self.precision is not None):
                return self.model(self.batch)
        except Exception as error:  # numbers that are not finite make models fail in many ways before there is a loss
            if isinstance(error, FloatingPointError):
                raise FloatingPointError(self._report_failure({}, str(error))) from error
            broken = [name for name, value in self.model.named_parameters() if not torch.isfinite(value).all()]
            if broken:
                found = f"{len(broken)} parameters are not finite, such as {broken[0]}"
                raise FloatingPointError(self._report_failure({}, found)) from error
            raise

    def _seed(self, part: int) -> None:
        if self.seed is not None:
            seed_everything(self.seed, comm.get_rank(), self.iter, part)

    def _update(self) -> None:
        if self.clip is not None:
            self.scaler.unscale_(self.optimizer)
            self.clip(self.model.parameters())
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _report_failure(self, losses: dict[str, Tensor], found: str = "") -> str:
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        bad = [f"{name} = {value}" for name, value in values.items() if not torch.isfinite(torch.tensor(value))]
        images = ", ".join(str(record.get("file_name", record.get("image_id", "?"))) for record in self.batch)
        found = found or f"{', '.join(bad) or 'the sum of the losses'} is not finite"
        message = f"iteration {self.iter}: {found}; images: {images}"
        if self.output_dir is None:
            return message
        suffix = f"_rank{comm.get_rank()}" if comm.get_rank() else ""
        path = self.output_dir / f"nan_inputs{suffix}.pt"
        with atomic_file(path) as file:
            torch.save({"iteration": self.iter, "losses": values, "batch": plain(self.batch)}, file)
        return (
            f"{message}. The inputs are saved in {path}; a lower SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS or "
            "SOLVER.CLIP_GRADIENTS.ENABLED True often helps"
        )

    def state_dict(self) -> dict[str, Any]:
        """Give the state for a checkpoint.

        Returns:
            Iteration, optimizer, hooks, and the loss scaler.
        """
        return {**super().state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a checkpoint.

        Args:
            state_dict: from :meth:`state_dict`; one of Detectron2's own trainer, without a scaler, is taken as well.
        """
        super().load_state_dict(state_dict)
        scaler = state_dict.get("scaler")
        if scaler and self.scaler.is_enabled():
            self.scaler.load_state_dict(scaler)


def plain(value: Any) -> Any:
    """Turn a batch into tensors, numbers, texts, lists and dicts, which ``torch.load`` reads with weights_only.

    Args:
        value: a batch, a record, Instances, structures or anything inside them.

    Returns:
        The same content; Instances become dicts of their fields (boxes ``(n, 4)``, masks ``(n, H, W)`` or lists of
        polygons), other objects their text.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray):
        return plain(torch.as_tensor(value)) if value.dtype.kind in "biuf" else str(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Instances):
        return {"image_size": list(value.image_size), **{k: plain(v) for k, v in value.get_fields().items()}}
    if isinstance(value, Boxes | BitMasks):
        return plain(value.tensor)
    if isinstance(value, PolygonMasks):
        return [[torch.as_tensor(polygon) for polygon in polygons] for polygons in value.polygons]
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, int | float | str | bool | None) else str(value)
