"""A checkpointer that reads .pth and .pkl files without running code from them."""

import os
import pickle
import re
from typing import Any
from urllib.parse import parse_qs

import torch
import torch.distributed as dist
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.serialize import load_plain_pickle, numpy_safe_globals
from fvcore.common.checkpoint import Checkpointer
from torch import nn


class DetectionCheckpointer(Checkpointer):
    """fvcore's Checkpointer for Detectron2's files.

    Reads .pkl files of numpy arrays, and matches parameter names by their endings where the file (or a
    ``?matching_heuristics=True`` after its path) asks for it. A file that only rank 0 can see is sent to the others.
    What the file and the model do not share is logged.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ) -> None:
        save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager, self._match_names = PathManager, False

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file into the model and the checkpointables (default: all of them); return what else it holds."""
        if not path:
            return super().load(path, checkpointables)
        path, self._match_names = _split_query(path)
        local = self.path_manager.get_local_path(path)
        seen = comm.all_gather(os.path.isfile(local))
        if not seen[0]:
            raise FileNotFoundError(f"checkpoint {path} not found")
        if all(seen):
            return super().load(local, checkpointables)
        return self._load_from_main(local, checkpointables)

    def _load_from_main(self, path: str, checkpointables: list[str] | None) -> dict[str, Any]:
        self.logger.info("only rank 0 has %s: it sends the content to the other ranks", path)
        box = [self._load_file(path) if comm.is_main_process() else None]
        dist.broadcast_object_list(box, src=0)
        checkpoint: dict[str, Any] = box[0]  # type: ignore[assignment]
        incompatible = self._load_model(checkpoint)
        if incompatible is not None:
            self._log_incompatible_keys(incompatible)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in checkpoint:
                self.checkpointables[key].load_state_dict(checkpoint.pop(key))
        return checkpoint

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            with PathManager.open(filename, "rb") as file:
                content = load_plain_pickle(file)
            if "model" not in content or "__author__" not in content:
                # Caffe2's own files: the weights lie bare or under "blobs"; the names are checked when they are matched
                weights = {k: v for k, v in content.get("blobs", content).items() if not k.endswith("_momentum")}
                content = {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
        else:
            content = self._torch_load(filename)
            if "model" not in content:
                content = {"model": content}
        if self._match_names:
            content["matching_heuristics"] = True
        return content

    def _torch_load(self, f: str) -> Any:
        try:
            with torch.serialization.safe_globals(numpy_safe_globals()):
                return torch.load(f, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            name = re.search(r"GLOBAL (\S+)", str(error))
            raise pickle.UnpicklingError(
                f"{f} holds {name.group(1) if name else 'something'} besides tensors, numpy arrays and containers, and "
                "loading that could run foreign code. If you trust the file, save its state dict alone into a new file"
            ) from error

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if checkpoint.get("matching_heuristics"):
            weights = checkpoint["model"]
            self._convert_ndarray_to_tensor(weights)
            from_caffe2 = checkpoint.get("__author__") == "Caffe2"
            checkpoint["model"] = align_and_update_state_dicts(self.model.state_dict(), weights, from_caffe2)
        incompatible = super()._load_model(checkpoint)
        # Constants that come from the config or are computed; older files have or lack them.
        missing, unexpected = incompatible.missing_keys, incompatible.unexpected_keys
        missing[:] = [key for key in missing if key not in ("pixel_mean", "pixel_std")]
        unexpected[:] = [key for key in unexpected if "anchor_generator.cell_anchors" not in key]
        return incompatible


def _split_query(path: str) -> tuple[str, bool]:
    """Split ``path?matching_heuristics=True`` into the path and the flag."""
    path, _, query = path.partition("?")
    options = parse_qs(query)
    wanted = options.pop("matching_heuristics", ["False"]) == ["True"]
    if options:
        raise ValueError(f"checkpoint {path}: unknown option {', '.join(options)}; there is matching_heuristics=True")
    return path, wanted
