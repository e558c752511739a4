"""A claim: one YAML file that says which trainings to compare, with how many seeds, by which numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import mvseg  # noqa: F401  (first: it makes detectron2 importable)
from mvseg.config import load_config
from mvseg.vocabulary import did_you_mean

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
FIELDS = ("question", "config", "arms", "metrics", "seeds", "overrides", "start", "baseline", "command")
START = "start"  # arm of the trainings that all arms of a seed go on from
KEY_LENGTH = 10  # characters of a run's key in the name of its folder


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        arm: the arm it belongs to.
        part: name of the training within an arm that has several, else empty.
        seed: the seed.
        overrides: config key to value, over the claim's config.
        key: hash of everything that decides the result: the resolved config, the command and the start.
        start: the training whose final weights it goes on from; None if it begins as its config says.
    """

    arm: str
    part: str
    seed: int
    overrides: Mapping[str, Any]
    key: str
    start: Run | None = None

    @property
    def name(self) -> str:
        """Name of its folder.

        Returns:
            Arm, part, seed and the beginning of the key.
        """
        parts = [self.arm, self.part, f"seed{self.seed}", self.key[:KEY_LENGTH]]
        return "-".join(part for part in parts if part)

    @property
    def title(self) -> str:
        """How messages call it.

        Returns:
            Arm, part and seed.
        """
        return f"{self.arm}{f' ({self.part})' if self.part else ''}, seed {self.seed}"


@dataclass(frozen=True)
class Claim:
    """What a claim's file says.

    Args:
        name: name of the file.
        question: what is asked, in one sentence.
        config: config file, relative to the repository.
        arms: name to the overrides of that arm; an arm may hold several trainings under ``runs``.
        metrics: numbers to compare, as "test set/task/metric".
        seeds: seeds of every arm.
        overrides: overrides of all arms, and of the start.
        start: overrides of one training for each seed that all arms go on from, or, if they name a SEED, of one for all
            seeds; None: the arms start as the config says.
        baseline: the arm that the others are compared with.
        command: the trainer, without options.
    """

    name: str
    question: str
    config: str
    arms: dict[str, dict[str, Any]]
    metrics: tuple[str, ...]
    seeds: tuple[int, ...]
    overrides: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] | None = None
    baseline: str = ""
    command: tuple[str, ...] = ("python", "train_net.py")

    @property
    def config_path(self) -> Path:
        """The config file.

        Returns:
            Absolute path.
        """
        return ROOT / self.config

    def runs(self, seeds: Sequence[int] | None = None, only: Sequence[str] = ()) -> list[Run]:
        """List the trainings, all arms with the first seed first, so that early results can be compared.

        Args:
            seeds: instead of the claim's own.
            only: names of arms; empty: all.

        Returns:
            The runs, the start of a seed before its arms.

        Raises:
            ValueError: if there is no such arm.
        """
        for name in only:
            if name not in self.arms:
                raise ValueError(f"claim {self.name!r} has no arm {name!r}{did_you_mean(name, self.arms)}")
        found = []
        for seed in seeds or self.seeds:
            start = None if self.start is None else self._run(START, "", seed, self.start)
            found += [start] if start is not None and start not in found else []
            for arm in only or self.arms:
                own = dict(self.arms[arm])
                parts = own.pop("runs", {"": {}})
                found += [self._run(arm, part, seed, {**own, **extra}, start) for part, extra in parts.items()]
        return found

    def _run(self, arm: str, part: str, seed: int, own: Mapping[str, Any], start: Run | None = None) -> Run:
        overrides = {**self.overrides, "SEED": seed, **own}
        cfg = load_config(self.config_path, as_options(overrides))
        cfg.OUTPUT_DIR = ""
        decides = json.dumps([cfg.dump(), self.command, *([] if start is None else [start.key])])
        return Run(arm, part, int(overrides["SEED"]), overrides, hashlib.sha256(decides.encode()).hexdigest(), start)


def as_options(overrides: Mapping[str, Any]) -> list[str]:
    """Write overrides as the KEY VALUE pairs of a command line.

    Args:
        overrides: config key to value.

    Returns:
        Alternating keys and values.
    """
    return [text for key, value in overrides.items() for text in (key, str(value))]


def claim_names(folder: Path = FOLDER) -> list[str]:
    """List the claims that exist.

    Args:
        folder: where their files lie.

    Returns:
        Their names.
    """
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_claim(name: str, folder: Path = FOLDER) -> Claim:
    """Read a claim.

    Args:
        name: its name, or a path of a YAML file.
        folder: where the files of claims lie.

    Returns:
        The claim.

    Raises:
        ValueError: if there is no such claim, or a field is unknown, missing or wrong.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"no claim {name!r}{did_you_mean(name, claim_names(folder))}")
    fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: a claim is a mapping with the fields {', '.join(FIELDS)}")
    for key in fields:
        if key not in FIELDS:
            raise ValueError(f"{path}: unknown field {key!r}{did_you_mean(str(key), FIELDS)}")
    lacking = [key for key in ("question", "config", "arms", "metrics") if not fields.get(key)]
    if lacking:
        raise ValueError(f"{path}: missing field(s) {', '.join(lacking)}")
    return _make_claim(path, fields)


def _make_claim(path: Path, fields: Mapping[str, Any]) -> Claim:
    arms = {str(arm): dict(overrides or {}) for arm, overrides in fields["arms"].items()}
    baseline = str(fields.get("baseline") or next(iter(arms)))
    if baseline not in arms:
        raise ValueError(f"{path}: the baseline {baseline!r} is no arm{did_you_mean(baseline, arms)}")
    start = fields.get("start")
    if start is not None and (START in arms or not isinstance(start, dict) or {"runs", "MODEL.WEIGHTS"} & set(start)):
        raise ValueError(f"{path}: start is one training, a mapping of overrides without weights; no arm is called so")
    for metric in fields["metrics"]:
        if metric.count("/") != 2:
            raise ValueError(f"{path}: metric {metric!r}: write test set/task/metric, such as coco_2017_val/bbox/AP50")
    return Claim(
        name=path.stem,
        question=str(fields["question"]).strip(),
        config=str(fields["config"]),
        arms=arms,
        metrics=tuple(fields["metrics"]),
        seeds=tuple(fields.get("seeds") or (1, 2, 3)),
        overrides=dict(fields.get("overrides") or {}),
        start=start,
        baseline=baseline,
        command=tuple(fields.get("command") or ("python", "train_net.py")),
    )
