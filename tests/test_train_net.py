"""train_net.py as its users start it: killed and resumed, with two processes, for evaluation only, with mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "tests" / "training"
sys.path[:0] = [str(ROOT), str(TINY)]


@pytest.fixture(scope="module")
def cards() -> Path:
    from tiny import shared_sets

    return shared_sets()


def write_config(cards: Path, output: Path, *opts: object) -> Path:
    from tiny import tiny_config

    output.mkdir(parents=True, exist_ok=True)
    cfg = tiny_config(cards, output, *opts)
    path = output / "given.yaml"
    path.write_text(cfg.dump())
    return path


@dataclass
class Run:
    process: subprocess.Popen[bytes]
    log: Path

    def finish(self, code: int = 0) -> str:
        try:
            self.process.wait(timeout=120)
        finally:
            self.process.kill()
        output = self.log.read_text()
        assert self.process.returncode == code, output[-6000:]
        return output


def start(config: Path, *arguments: str, launcher: tuple[str, ...] = (), sleep: float = 0.0) -> Run:
    command = [sys.executable, "-W", "ignore", *launcher, str(TINY / "run_tiny.py"), "--config-file", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TINY_SLEEP": str(sleep or ""), "CUDA_VISIBLE_DEVICES": ""}
    log = config.with_suffix(".log")  # a pipe that nobody reads would block the process
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *arguments], env=environment, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT
        )
    return Run(process, log)


def wait_for(path: Path, run: Run, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert run.process.poll() is None and time.monotonic() < end, run.log.read_text()[-6000:]
        time.sleep(0.02)


def run_here(config: Path, *arguments: str) -> dict:
    import train_net

    return train_net.main(train_net.parse(["--config-file", str(config), *arguments]))


def weights(folder: Path, name: str = "model_final") -> dict[str, torch.Tensor]:
    return torch.load(folder / f"{name}.pth", weights_only=True)["model"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 0.0) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[k].double(), b[k].double(), tolerance, tolerance) for k in a)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_run_resumes_and_ends_as_if_nothing_had_happened(cards, tmp_path, number):
    opts = ["SOLVER.MAX_ITER", 12, "SOLVER.CHECKPOINT_PERIOD", 4, "SOLVER.EMA.ENABLED", True, "DATASETS.TEST", ()]
    run_here(write_config(cards, tmp_path / "whole", *opts))

    config = write_config(cards, tmp_path / "killed", *opts)
    run = start(config, "--num-gpus", "1", sleep=0.3)
    wait_for(tmp_path / "killed" / "last_checkpoint", run)
    time.sleep(0.4)  # one or two steps further
    run.process.send_signal(number)
    output = run.finish(code=-number if number == signal.SIGKILL else 143)
    last = (tmp_path / "killed" / "last_checkpoint").read_text()
    assert not (tmp_path / "killed" / "model_final.pth").exists()
    if number == signal.SIGTERM:
        assert last > "model_0000003.pth" and "--resume goes on from here" in output
    else:
        assert last == "model_0000003.pth"
    for path in (tmp_path / "killed").glob("*.pth"):
        torch.load(path, weights_only=True)  # every file there is whole

    run_here(config, "--resume")
    for name in ("model_final", "model_final_ema"):
        assert equal(weights(tmp_path / "whole", name), weights(tmp_path / "killed", name))


def losses_of(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}


def test_two_processes_train_and_evaluate_as_one_with_the_whole_batch(cards, tmp_path):
    # depth 18: no dropout and no batch statistics, so that a batch is the mean of its halves
    opts = ["MODEL.RESNETS.DEPTH", 18, "SOLVER.IMS_PER_BATCH", 8, "TEST.NUM_PICTURES", 2, "TEST.VALIDATION_LOSS", True,
            "SOLVER.AMP.ENABLED", False, "DATALOADER.ASPECT_RATIO_GROUPING", False]  # fmt: skip
    run_here(write_config(cards, tmp_path / "one", *opts))
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    start(write_config(cards, tmp_path / "two", *opts), launcher=launcher).finish()

    one, two = losses_of(tmp_path / "one"), losses_of(tmp_path / "two")
    assert one.keys() == two.keys() and len(one) >= 1
    assert all(two[i] == pytest.approx(one[i], rel=1e-5) for i in one)
    assert equal(weights(tmp_path / "one"), weights(tmp_path / "two"), 1e-5)
    for name in ("tiny_a", "tiny_b"):
        a, b = (json.loads((tmp_path / f / "results.json").read_text())["results"][name] for f in ("one", "two"))
        assert a["bbox"] == b["bbox"] and a["bbox"]["AP50"] > 0
        assert a["loss"]["total"] == pytest.approx(b["loss"]["total"], rel=1e-4)
        assert (tmp_path / "two" / "pictures" / f"{name}_0000005.jpg").is_file()


def test_launch_starts_the_processes_itself_and_evaluates(cards, tmp_path):
    config = write_config(cards, tmp_path, "DATASETS.TEST", ("tiny_a",))
    output = start(config, "--num-gpus", "2", "--eval-only").finish()
    assert "tiny_a" in json.loads((tmp_path / "results.json").read_text())["results"]
    assert "bbox AP50" in output


def test_evaluation_only_uses_the_given_weights_and_writes_no_checkpoint(cards, tmp_path):
    trained = run_here(write_config(cards, tmp_path / "train"))
    config = write_config(cards, tmp_path / "eval")
    results = run_here(config, "--eval-only", "MODEL.WEIGHTS", str(tmp_path / "train" / "model_final.pth"))
    a, b = (json.loads((tmp_path / f / "results.json").read_text())["results"] for f in ("train", "eval"))
    assert a == b and a["tiny_a"]["bbox"]["AP50"] > 0 and set(results) == {"tiny_a", "tiny_b"}
    assert set(trained) >= {"tiny_a", "tiny_b"}
    assert not list((tmp_path / "eval").glob("*.pth"))
    assert run_here(write_config(cards, tmp_path / "train"), "--eval-only", "--resume").keys() == results.keys()


def test_overrides_at_the_end_win(cards, tmp_path):
    run_here(write_config(cards, tmp_path / "a"), "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(tmp_path / "b"))
    assert torch.load(tmp_path / "b" / "model_final.pth", weights_only=True)["iteration"] == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("SOLVER.BASE_LRR", "1"), KeyError, "SOLVER.BASE_LRR.*SOLVER.BASE_LR"),
        (("DATASETS.TRAIN", "('tiny_aa',)"), KeyError, "tiny_aa.*tiny_a"),
        (("DATASETS.TEST", "('tiny_bb',)"), KeyError, "tiny_bb.*tiny_b"),
        (("DATASETS.CARDS", "['/nowhere/cards']"), FileNotFoundError, "/nowhere/cards"),
        (("MODEL.WEIGHTS", "/nowhere/model.pth"), FileNotFoundError, "/nowhere/model.pth"),
        (("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bf16"), ValueError, "SOLVER.AMP.DTYPE.*bfloat16"),
        (("SOLVER.MAX_ITER",), ValueError, "SOLVER.MAX_ITER"),
    ],
)
def test_mistakes_get_an_answer(cards, tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        run_here(write_config(cards, tmp_path), *arguments)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_message_stands_last(cards, tmp_path, processes):
    config = write_config(cards, tmp_path, "DATASETS.TEST", ("tiny_aa",))
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(config), "--num-gpus", processes]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 1 and "FutureWarning" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "KeyError: " in last and "no dataset 'tiny_aa'; nearest: tiny_a" in last
    assert done.stderr.count("Traceback") == 1


def test_evaluating_random_weights_is_said(cards, tmp_path):
    run_here(write_config(cards, tmp_path, "DATASETS.TEST", ("tiny_a",)), "--eval-only")
    assert "evaluating random weights" in (tmp_path / "log.txt").read_text()


def test_missing_config_file_is_said_by_name(tmp_path, capsys):
    import train_net

    with pytest.raises(FileNotFoundError, match=r"absent.yaml"):
        run_here(tmp_path / "absent.yaml")
    with pytest.raises(SystemExit):
        train_net.parse(["--num-gpus", "1"])
    assert "--config-file is missing" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_cpu_is_used(cards, tmp_path):
    run_here(write_config(cards, tmp_path), "MODEL.DEVICE", "cuda", "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()")
    assert "running on the CPU" in (tmp_path / "log.txt").read_text()
