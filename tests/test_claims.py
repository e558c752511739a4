"""The claims laboratory with a trainer that only pretends: runs are done once, resumed, compared seed by seed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.claims.__main__ import main  # noqa: E402
from benchmarks.claims.claim import claim_names, load_claim  # noqa: E402
from benchmarks.claims.tables import sign_test, spread  # noqa: E402
from mvseg.config import load_config  # noqa: E402

# Its results: AP = 100 * BASE_LR + seed for the set "x"; with BASE_LR 0.666 it fails, with 0.111 it waits for SIGTERM.
TRAINER = """
import ast, json, os, sys, time
from pathlib import Path
opts = dict(zip(sys.argv[4::2], sys.argv[5::2]))
out = Path(opts["OUTPUT_DIR"])
with (Path(__file__).parent / "calls.txt").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + " threads=" + os.environ["OMP_NUM_THREADS"] + chr(10))
assert sys.argv[1] == "--config-file" and sys.argv[3] == "--resume"
rate, seed = float(opts["SOLVER.BASE_LR"]), int(opts["SEED"])
if rate == 0.666:
    sys.exit("no such thing")
if rate == 0.111 and not (out / "half.txt").exists():
    (out / "half.txt").write_text("")
    time.sleep(60)
(out / "model_0000009.pth").write_bytes(b"1")
(out / "model_final.pth").write_bytes(b"1")
results = {name: {"bbox": {"AP": 100 * rate + seed}} for name in ast.literal_eval(opts.get("DATASETS.TEST", "['x']"))}
(out / "results.json").write_text(json.dumps({"results": results}))
"""


@pytest.fixture
def lab(tmp_path: Path):
    """Function that writes a claim and runs the command on it; gives the exit code."""
    (tmp_path / "trainer.py").write_text(TRAINER)
    (tmp_path / "base.yaml").write_text("SOLVER: {MAX_ITER: 10}\n")
    claim = {
        "question": "Is more better?", "config": str(tmp_path / "base.yaml"), "seeds": [1, 2, 3],
        "command": ["python", str(tmp_path / "trainer.py")], "overrides": {"SOLVER.IMS_PER_BATCH": 2},
        "arms": {"low": {"SOLVER.BASE_LR": 0.1}, "high": {"SOLVER.BASE_LR": 0.3}}, "metrics": ["x/bbox/AP"],
    }  # fmt: skip

    def run(*arguments: str, **changes) -> int:
        path = tmp_path / "test_claim.yaml"
        path.write_text(yaml.safe_dump({**claim, **changes}, sort_keys=False))
        return main([str(path), "--output", str(tmp_path / "out"), *arguments])

    run.folder = tmp_path / "out" / "test_claim"
    run.calls = lambda: (tmp_path / "calls.txt").read_text().splitlines() if (tmp_path / "calls.txt").exists() else []
    run.path = tmp_path / "test_claim.yaml"
    return run


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_every_run_is_done_once_and_compared_seed_by_seed(lab, capsys):
    assert lab() == 0
    out = capsys.readouterr().out.splitlines()
    assert len(lab.calls()) == 6
    assert all("SOLVER.IMS_PER_BATCH 2" in call for call in lab.calls())
    table = [cells(line) for line in out]
    assert any(row[:3] == ["low", "3", "12.0 (11.0 to 13.0)"] for row in table)
    assert any(row[:3] == ["high", "3", "32.0 (31.0 to 33.0)"] for row in table)
    assert ["high - low", "x/bbox/AP", "+20.0", "3 of 3", "0.25"] in table
    assert any("cannot fall below p = 0.25" in line for line in out)
    assert lab() == 0 and len(lab.calls()) == 6  # the second time nothing is left to do
    assert "done before, x/bbox/AP 11.0" in capsys.readouterr().out
    assert not list(lab.folder.rglob("model_0*.pth")) and len(list(lab.folder.rglob("model_final.pth"))) == 6


def test_tables_are_written(lab):
    lab()
    rows = list(csv.DictReader((lab.folder / "test_claim.csv").open()))
    assert sorted((r["arm"], int(r["seed"]), float(r["value"])) for r in rows) == [
        ("high", 1, 31.0), ("high", 2, 32.0), ("high", 3, 33.0), ("low", 1, 11.0), ("low", 2, 12.0), ("low", 3, 13.0),
    ]  # fmt: skip
    text = (lab.folder / "test_claim.md").read_text()
    assert "Is more better?" in text and "32.0 (31.0 to 33.0)" in text and "code: " in text


def test_a_changed_config_makes_new_runs_and_only_those_that_change(lab):
    lab("--seeds", "1")
    arms = {"low": {"SOLVER.BASE_LR": 0.1}, "high": {"SOLVER.BASE_LR": 0.4}}
    lab("--seeds", "1", arms=arms)
    assert len(lab.calls()) == 3
    (lab.path.parent / "base.yaml").write_text("SOLVER: {MAX_ITER: 11}\n")
    lab("--seeds", "1", arms=arms)
    assert len(lab.calls()) == 5


START = {"SOLVER.BASE_LR": 0.5}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_arms_go_on_from_one_start_for_each_seed(lab, capsys, jobs):
    assert lab("--seeds", "1,2", "--jobs", jobs, start=START) == 0
    calls = lab.calls()
    assert len(calls) == 6 and sum("MODEL.WEIGHTS" not in call for call in calls) == 2
    for seed in (1, 2):
        (weights,) = lab.folder.glob(f"runs/start-seed{seed}-*/model_final.pth")
        own = [call for call in calls if f"SEED {seed} " in call and "BASE_LR 0.5" not in call]
        assert len(own) == 2 and all(f"MODEL.WEIGHTS {weights} " in call for call in own)
    table = [cells(line) for line in capsys.readouterr().out.splitlines()]
    assert any(row[:3] == ["start", "2", "51.5 (51.0 to 52.0)"] for row in table)
    assert not any(row and row[0].startswith("start -") for row in table)
    assert lab("--seeds", "1,2", start=START) == 0 and len(lab.calls()) == 6
    assert lab("--seeds", "1", "--only", "low", start={"SOLVER.BASE_LR": 0.4}) == 0  # another start: the arm anew
    assert len(lab.calls()) == 8 and "all arms go on from" in (lab.folder / "test_claim.md").read_text()


def test_all_seeds_may_share_a_start(lab):
    assert lab("--jobs", "2", start={**START, "SEED": 5}) == 0
    (weights,) = lab.folder.glob("runs/start-seed5-*/model_final.pth")
    calls = lab.calls()
    assert len(calls) == 7 and sum(f"MODEL.WEIGHTS {weights} " in call for call in calls) == 6
    assert all(sum(f"SEED {seed} " in call for call in calls) == 2 for seed in (1, 2, 3))


def test_nothing_goes_on_from_a_start_that_failed(lab, capsys):
    assert lab("--seeds", "1", start={"SOLVER.BASE_LR": 0.666}) == 1
    assert len(lab.calls()) == 1 and "goes on from has failed" in (lab.folder / "test_claim.md").read_text()
    assert lab(start={"runs": {}}) == 2 and "start is one training" in capsys.readouterr().err


def test_seeds_arms_and_jobs_can_be_chosen(lab, capsys):
    assert lab("--only", "high", "--seeds", "7,8", "--jobs", "2") == 0
    assert len(lab.calls()) == 2 and all("SOLVER.BASE_LR 0.3" in call for call in lab.calls())
    cores = len(os.sched_getaffinity(0))
    assert all(call.endswith(f"threads={max(1, cores // 2)}") for call in lab.calls())
    assert lab("--only", "hgih") == 2 and "nearest: high" in capsys.readouterr().err
    assert lab("--table") == 0 and len(lab.calls()) == 2


def test_a_failing_arm_stops_alone_and_says_why(lab, capsys):
    arms = {"bad": {"SOLVER.BASE_LR": 0.666}, "good": {"SOLVER.BASE_LR": 0.2}}
    assert lab(arms=arms) == 1
    out = capsys.readouterr().out
    assert "FAILED with exit code 1" in out and "no such thing" in out
    assert len(lab.calls()) == 4  # one of the bad arm, three of the good one
    assert "21.0 to 23.0" in out and "FAILED" in (lab.folder / "test_claim.md").read_text()
    lab(arms=arms)
    assert len(lab.calls()) == 5  # a failed run is tried again


def test_an_arm_of_several_trainings_gives_each_number_from_its_own(lab, capsys):
    parts = {
        "a": {"SOLVER.BASE_LR": 0.2, "DATASETS.TEST": ["x"]},
        "b": {"SOLVER.BASE_LR": 0.3, "DATASETS.TEST": ["y"]},
    }
    arms = {"joint": {"SOLVER.BASE_LR": 0.5, "DATASETS.TEST": ["x", "y"]}, "separate": {"runs": parts}}
    assert lab("--seeds", "1", arms=arms, metrics=["x/bbox/AP", "y/bbox/AP"]) == 0
    table = [cells(line) for line in capsys.readouterr().out.splitlines()]
    assert any(row[:4] == ["separate", "1", "21.0", "31.0"] for row in table)
    assert ["separate - joint", "y/bbox/AP", "-20.0", "0 of 1", "1.00"] in table


def test_an_interrupted_claim_goes_on(lab, tmp_path: Path):
    lab("--table", arms={"slow": {"SOLVER.BASE_LR": 0.111}}, seeds=[1, 2])  # writes the claim's file
    command = [sys.executable, "-m", "benchmarks.claims", str(lab.path), "--output", str(tmp_path / "out")]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((lab.folder / "runs").glob("*/half.txt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130 and "goes on from here" in errors
    assert len(lab.calls()) == 1  # the second run was not started, and the first one was ended
    assert not list(lab.folder.rglob("done.json"))
    assert main([str(lab.path), "--output", str(tmp_path / "out"), "--seeds", "1"]) == 0
    assert len(list(lab.folder.rglob("done.json"))) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": []}, "unknown field 'metric'; nearest: metrics"),
        ({"metrics": ["AP"]}, "write test set/task/metric"),
        ({"baseline": "hihg"}, "'hihg' is no arm; nearest: high"),
        ({"arms": {}}, "missing field(s) arms"),
        ({"overrides": {"SOLVER.MAX_ITERS": 3}}, "unknown config key SOLVER.MAX_ITERS"),
        ({"config": "no/such.yaml"}, "does not exist"),
    ],
)
def test_a_wrong_claim_is_refused_before_anything_is_run(lab, capsys, changes, message):
    assert lab(**changes) == 2
    assert message in capsys.readouterr().err and lab.calls() == []


def test_statistics():
    assert sign_test(3, 0) == 0.25 and sign_test(0, 5) == 0.0625 and sign_test(0, 0) == 1.0
    assert sign_test(4, 1) == pytest.approx(2 * (5 + 1) / 32)
    assert spread([1.0, 2.0, 6.0]) == "3.0 (1.0 to 6.0)" and spread([2.0]) == "2.0" and spread([]) == "-"


@pytest.mark.parametrize("name", claim_names())
def test_the_claims_that_come_with_mvseg_are_complete(name: str):
    claim = load_claim(name)
    runs = claim.runs()
    assert len(runs) >= 3 * len(claim.arms) and len({run.name for run in runs}) == len(runs)
    of_config = load_config(claim.config_path).DATASETS.TEST
    tested = {arm: set() for arm in claim.arms}
    for run in runs:
        if run.arm in tested:  # the start of an arm need not give the arm's numbers
            tested[run.arm] |= set(run.overrides.get("DATASETS.TEST", of_config))
    for metric in claim.metrics:  # every arm can give every number
        assert all(metric.split("/")[0] in names for names in tested.values())


def test_the_claims_are_listed(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "scope: " in out and "joint: " in out and "arms all, own, safe; 9 trainings" in out
