"""Files that say how often a detector reported every word: a prior for the calibration of its scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class Prior:
    """How often a detector reported every word.

    Args:
        counts: word to its detections, which may be a mean.
        images: number of images that were looked at.
        source: where they are from, in words, such as "dataset coco_2017_val".
        weights: the weight file of the detector, as it was called.
        threshold: score that a detection had to exceed.
    """

    counts: Mapping[str, float]
    images: int = 0
    source: str = ""
    weights: str = ""
    threshold: float = 0.0

    def to_json(self) -> str:
        """Write the content of a file.

        Returns:
            JSON, words with many detections first.
        """
        by_count = dict(sorted(self.counts.items(), key=lambda item: (-item[1], item[0])))
        facts = {"source": self.source, "images": self.images, "weights": self.weights, "threshold": self.threshold}
        return json.dumps({"format": FORMAT, **facts, "counts": by_count}, indent=1, ensure_ascii=False) + "\n"


def read_prior(path: str | Path) -> Prior:
    """Read a file of counts.

    Args:
        path: JSON, written by ``python -m mvseg.inference.prior``.

    Returns:
        The counts and where they are from.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"MODEL.CALIBRATION.PRIOR {str(path)!r} is none of none, test, running, nor a file: "
            "python -m mvseg.inference.prior makes one"
        )
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        counts = {str(word): float(count) for word, count in content["counts"].items()}
        facts = {key: content[key] for key in ("images", "source", "weights", "threshold") if key in content}
        made_by = content["format"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no file of counts (JSON with format and counts): {error}") from error
    if made_by != FORMAT:
        raise ValueError(f"{path}: counts of format {made_by}, this version reads {FORMAT}")
    wrong = [word for word, count in counts.items() if not math.isfinite(count) or count < 0]
    if wrong or not counts:
        what = f"the count of {wrong[0]!r} is {counts[wrong[0]]}" if wrong else "it names no word"
        raise ValueError(f"{path}: {what}")
    return Prior(counts, **facts)
