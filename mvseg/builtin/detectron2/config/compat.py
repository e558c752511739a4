"""Key names of older config versions. A table of renames is applied to whichever of the keys a tree has."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.config.config import CfgNode

LATEST_VERSION = 2
_PANOPTIC = "MODEL.PANOPTIC_FPN."
_RETINANET = "MODEL.RETINANET."
# RENAMES[v]: name in version v - 1 -> name in version v
RENAMES: dict[int, dict[str, str]] = {
    1: {"MODEL.RPN_HEAD.NAME": "MODEL.RPN.HEAD_NAME"},
    2: {
        "MODEL.WEIGHT": "MODEL.WEIGHTS",
        "MODEL.RPN.ANCHOR_SIZES": "MODEL.ANCHOR_GENERATOR.SIZES",
        "MODEL.RPN.ANCHOR_ASPECT_RATIOS": "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
        "MODEL.ROI_HEADS.NMS": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
        "MODEL.ROI_HEADS.SCORE_THRESH": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
        _PANOPTIC + "COMBINE_INSTANCES_CONFIDENCE_THRESHOLD": _PANOPTIC + "COMBINE.INSTANCES_CONFIDENCE_THRESH",
        _PANOPTIC + "COMBINE_ON": _PANOPTIC + "COMBINE.ENABLED",
        _PANOPTIC + "COMBINE_OVERLAP_THRESHOLD": _PANOPTIC + "COMBINE.OVERLAP_THRESH",
        _PANOPTIC + "COMBINE_STUFF_AREA_LIMIT": _PANOPTIC + "COMBINE.STUFF_AREA_LIMIT",
        _PANOPTIC + "INSTANCE_LOSS_SCALE": _PANOPTIC + "INSTANCE_LOSS_WEIGHT",
        _PANOPTIC + "RPN_LOSS_SCALE": "MODEL.RPN.LOSS_WEIGHT",
        _PANOPTIC + "SEMANTIC_LOSS_SCALE": "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
        _RETINANET + "INFERENCE_NMS_THRESHOLD": _RETINANET + "NMS_THRESH_TEST",
        _RETINANET + "INFERENCE_SCORE_THRESHOLD": _RETINANET + "SCORE_THRESH_TEST",
        _RETINANET + "INFERENCE_TOPK_CANDIDATES": _RETINANET + "TOPK_CANDIDATES_TEST",
        "TEST.AUG_FLIP": "TEST.AUG.FLIP",
        "TEST.AUG_MAX_SIZE": "TEST.AUG.MAX_SIZE",
        "TEST.AUG_MIN_SIZES": "TEST.AUG.MIN_SIZES",
        "TEST.AUG_ON": "TEST.AUG.ENABLED",
        "TEST.DETECTIONS_PER_IMG": "TEST.DETECTIONS_PER_IMAGE",
    },
}


def upgrade_config(cfg: CfgNode, to_version: int | None = None) -> CfgNode:
    """Return a copy of a tree with the key names of a newer version."""
    target = LATEST_VERSION if to_version is None else to_version
    if target < cfg.VERSION:
        raise ValueError(f"cannot upgrade a config of version {cfg.VERSION} to {target}")
    new = cfg.clone()
    for version in range(cfg.VERSION + 1, target + 1):
        _rename(new, RENAMES[version])
    new["VERSION"] = target
    return new


def downgrade_config(cfg: CfgNode, to_version: int) -> CfgNode:
    """Return a copy of a tree with the key names of an older version."""
    if not 0 <= to_version <= cfg.VERSION:
        raise ValueError(f"cannot downgrade a config of version {cfg.VERSION} to {to_version}")
    new = cfg.clone()
    for version in range(cfg.VERSION, to_version, -1):
        _rename(new, {newer: older for older, newer in RENAMES[version].items()})
    new["VERSION"] = to_version
    return new


def guess_version(cfg: dict[str, Any], filename: str) -> int:
    """Say which version a partial tree without VERSION has: the oldest whose key names it uses, else the latest."""
    for version in sorted(RENAMES):
        old = [name for name in RENAMES[version] if _holds(cfg, name)]
        if old:
            logging.getLogger(__name__).warning(
                "%s has no VERSION; read as version %d because of %s", filename, version - 1, ", ".join(old)
            )
            return version - 1
    return LATEST_VERSION


def upgrade_partial(tree: dict[str, Any], newest: int, source: str) -> None:
    """Bring the keys that a file sets up to date, in place; RetinaNet's own anchor keys of version 1 included."""
    version = tree["VERSION"] if "VERSION" in tree else guess_version(tree, source)
    if version > newest:
        raise ValueError(f"{source}: VERSION {version} is newer than {newest}, the newest that this Detectron2 knows")
    if version < 2 <= newest:
        retinanet = tree.get("MODEL", {}).get("RETINANET", {})
        retinanet.pop("ANCHOR_STRIDES", None)
        _rename(tree, {f"{_RETINANET}ANCHOR_{k}": f"MODEL.ANCHOR_GENERATOR.{k}" for k in ("SIZES", "ASPECT_RATIOS")})
    for step in range(version + 1, newest + 1):
        _rename(tree, RENAMES[step])
    tree["VERSION"] = newest


def _holds(tree: dict[str, Any], name: str) -> bool:
    *path, leaf = name.split(".")
    for part in path:
        tree = tree.get(part)  # type: ignore[assignment]
        if not isinstance(tree, dict):
            return False
    return leaf in tree


def _rename(tree: dict[str, Any], names: dict[str, str]) -> None:
    for old, new in names.items():
        if not _holds(tree, old):
            continue
        *path, leaf = old.split(".")
        nodes = [tree]
        for part in path:
            nodes.append(nodes[-1][part])
        value = nodes[-1].pop(leaf)
        for parent, part in zip(reversed(nodes[:-1]), reversed(path)):
            if not parent[part]:
                del parent[part]
        *path, leaf = new.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, type(tree)())
        node[leaf] = value
