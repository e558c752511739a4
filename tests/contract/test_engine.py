"""Trainers, hooks, setup, predictor, and resuming."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import configurable, get_cfg
from detectron2.engine import (
    AMPTrainer,
    DefaultPredictor,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import EventWriter, JSONWriter, get_event_storage
from torch import nn

from mvseg.provider import detectron2_provider

only_builtin = pytest.mark.skipif(detectron2_provider() != "builtin", reason="upstream's AMP needs CUDA")


@META_ARCH_REGISTRY.register()
class ContractModel(nn.Module):
    """Losses in training; in evaluation the mean colour of each image, so that a predictor can be checked."""

    @configurable
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.dropout = nn.Dropout(0.5)

    @classmethod
    def from_config(cls, cfg):
        return {}

    def forward(self, batch):
        if not self.training:
            return [
                {"mean": record["image"].mean(dim=(1, 2)), "size": (record["height"], record["width"])}
                | {"shape": tuple(record["image"].shape)}
                for record in batch
            ]
        out = self.dropout(self.linear(batch))
        return {"loss_a": out.square().mean(), "loss_b": out.abs().mean()}


class Stream:
    """Endless batches whose content depends on their number only."""

    def __init__(self, start=0):
        self.next = start

    def __iter__(self):
        while True:
            generator = torch.Generator().manual_seed(self.next)
            self.next += 1
            yield torch.rand(4, 3, generator=generator)


def simple_trainer(trainer_type=SimpleTrainer, lr=0.1, **kwargs):
    torch.manual_seed(0)
    model = ContractModel()
    return trainer_type(model, Stream(), torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), **kwargs)


def history(trainer, name):
    return trainer.storage.history(name).values()


# ---- trainers


def test_trainer_calls_hooks_in_order():
    calls = []

    class Note(HookBase):
        def __init__(self, name):
            self.name = name

        def before_train(self):
            calls.append((self.name, "before_train", self.trainer.iter))

        def after_train(self):
            calls.append((self.name, "after_train", self.trainer.iter))

        def before_step(self):
            calls.append((self.name, "before_step", self.trainer.iter, self.trainer.storage.iter))

        def after_backward(self):
            calls.append((self.name, "after_backward"))

        def after_step(self):
            calls.append((self.name, "after_step", self.trainer.iter))

    trainer = simple_trainer()
    trainer.register_hooks([Note("a"), None, Note("b")])
    trainer.train(3, 5)
    expected = [("a", "before_train", 3), ("b", "before_train", 3)]
    for k in (3, 4):
        expected += [("a", "before_step", k, k), ("b", "before_step", k, k)]
        expected += [("a", "after_backward"), ("b", "after_backward"), ("a", "after_step", k), ("b", "after_step", k)]
    assert calls == [*expected, ("a", "after_train", 5), ("b", "after_train", 5)]
    assert (trainer.start_iter, trainer.max_iter, trainer.iter) == (3, 5, 5)


def test_after_train_runs_on_errors():
    seen = []

    class Failing(TrainerBase):
        def run_step(self):
            if self.iter == 2:
                raise RuntimeError("broken step")

    trainer = Failing()
    trainer.register_hooks([hooks.CallbackHook(after_train=lambda t: seen.append(t.iter))])
    with pytest.raises(RuntimeError, match="broken step"):
        trainer.train(0, 5)
    assert seen == [2]
    with pytest.raises(NotImplementedError):
        TrainerBase().run_step()


def test_simple_trainer_makes_sgd_steps():
    trainer = simple_trainer()
    reference = ContractModel()
    reference.load_state_dict(trainer.model.state_dict())
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(5)
    trainer.train(0, 3)
    torch.manual_seed(5)
    losses = []
    for _, batch in zip(range(3), Stream()):
        terms = reference(batch)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        losses.append({name: value.item() for name, value in terms.items()})
    assert torch.equal(trainer.model.linear.weight, reference.linear.weight)
    assert [value for value, _ in history(trainer, "loss_a")] == pytest.approx([loss["loss_a"] for loss in losses])
    assert [v for v, _ in history(trainer, "total_loss")] == pytest.approx([sum(loss.values()) for loss in losses])
    assert [iteration for _, iteration in history(trainer, "data_time")] == [0, 1, 2]


def test_simple_trainer_refuses_eval_mode():
    trainer = simple_trainer()
    trainer.model.eval()
    with pytest.raises(AssertionError, match="eval"):
        trainer.train(0, 1)


def test_single_loss_tensor_and_zero_grad_before_forward():
    class Scalar(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, batch):
            self.grad_in_forward = None if self.w.grad is None else self.w.grad.clone()
            return self.w.sum()

    for before, expected in ((True, None), (False, 1.0)):
        model = Scalar()
        trainer = SimpleTrainer(
            model, Stream(), torch.optim.SGD(model.parameters(), lr=0.5), zero_grad_before_forward=before
        )
        trainer.train(0, 3)
        assert model.w.item() == pytest.approx(1 - 3 * 0.5)
        assert (model.grad_in_forward.item() if model.grad_in_forward is not None else None) == expected
        assert set(trainer.storage.histories()) >= {"total_loss", "data_time"}


def test_metrics_are_gathered_every_few_iterations():
    trainer = simple_trainer(gather_metric_period=3)
    trainer.train(0, 8)
    assert [iteration for _, iteration in history(trainer, "total_loss")] == [2, 5]


def test_metrics_can_be_written_by_another_thread():
    trainer = simple_trainer(async_write_metrics=True)
    trainer.train(0, 6)
    assert [iteration for _, iteration in history(trainer, "total_loss")] == list(range(6))


def test_loss_that_is_not_finite_stops_training():
    trainer = simple_trainer()
    with torch.no_grad():
        trainer.model.linear.weight.fill_(math.inf)
    with pytest.raises(FloatingPointError, match=r"loss_a|finite|nan|inf"):
        trainer.train(0, 2)


def test_reset_data_loader():
    trainer = simple_trainer()
    trainer.train(0, 2)
    trainer.reset_data_loader(lambda: Stream(100))
    trainer.train(2, 3)
    assert trainer.data_loader.next == 101


def test_hooks_must_be_hooks():
    with pytest.raises((AssertionError, TypeError)):
        simple_trainer().register_hooks([object()])


@only_builtin
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_amp_on_the_cpu(precision):
    seen = []

    class Watch(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append(out.dtype)
            return {"loss": out.float().square().mean()}

    model = Watch(3, 2)
    before = model.weight.detach().clone()
    trainer = AMPTrainer(
        model, Stream(), torch.optim.SGD(model.parameters(), lr=0.1), precision=precision, log_grad_scaler=True
    )
    trainer.train(0, 2)
    assert set(seen) == {precision}
    assert model.weight.dtype == torch.float32 and not torch.equal(model.weight, before)
    assert trainer.grad_scaler.is_enabled() == (precision == torch.float16)
    expected = [65536.0 if precision == torch.float16 else 1.0] * 2
    assert [value for value, _ in history(trainer, "[metric]grad_scaler")] == expected


@only_builtin
def test_amp_steps_are_those_of_the_plain_trainer():
    # the default scale overflows here at first, and then the scaler leaves steps out
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    plain, amp = simple_trainer(), simple_trainer(AMPTrainer, precision=torch.float16, grad_scaler=scaler)
    for trainer in (plain, amp):
        trainer.model.dropout.p = 0.0
        trainer.train(0, 3)
    torch.testing.assert_close(amp.model.linear.weight, plain.model.linear.weight, atol=2e-3, rtol=0)


@only_builtin
def test_amp_state_survives():
    first, second = (simple_trainer(AMPTrainer, precision=torch.float16) for _ in range(2))
    first.grad_scaler._init_scale = 128.0
    first.train(0, 2)
    state = first.state_dict()
    assert state["grad_scaler"]["scale"] == 128.0 and state["iteration"] == 2
    second.load_state_dict(state)
    assert second.grad_scaler.get_scale() == 128.0
    third = simple_trainer(AMPTrainer, precision=torch.bfloat16)
    third.load_state_dict(state)  # no scaler here: its state is ignored
    assert third.iter == 2


# ---- hooks


def test_callback_hook():
    seen = []
    names = ("before_train", "before_step", "after_step", "after_train")
    trainer = simple_trainer()
    trainer.register_hooks(
        [hooks.CallbackHook(**{name: lambda t, name=name: seen.append((name, t.iter)) for name in names})]
    )
    trainer.train(0, 1)
    assert seen == [("before_train", 0), ("before_step", 0), ("after_step", 0), ("after_train", 1)]


def test_iteration_timer_skips_the_warmup():
    trainer = simple_trainer()
    trainer.register_hooks([hooks.IterationTimer(warmup_iter=3)])
    trainer.train(10, 16)
    values = history(trainer, "time")
    assert [iteration for _, iteration in values] == [12, 13, 14, 15]
    assert all(0 < value < 5 for value, _ in values)


def test_writers_see_the_last_values(tmp_path):
    trainer = simple_trainer()
    path = tmp_path / "metrics.json"
    closed = []

    class Writer(EventWriter):
        def write(self):
            closed.append("write")

        def close(self):
            closed.append("close")

    trainer.register_hooks(
        [hooks.EvalHook(0, lambda: {"metric": 100}), hooks.PeriodicWriter([JSONWriter(str(path)), Writer()], period=20)]
    )
    trainer.train(0, 50)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [19, 39, 49, 50]
    assert rows[-1]["metric"] == 100
    assert closed == ["write"] * 4 + ["close"]


@pytest.mark.parametrize(("iterations", "period", "count"), [(30, 15, 2), (31, 15, 3), (20, 0, 1)])
def test_eval_hook_runs_at_periods_and_at_the_end(iterations, period, count):
    runs = []
    trainer = simple_trainer()
    trainer.register_hooks([hooks.EvalHook(period, lambda: runs.append(get_event_storage().iter))])
    trainer.train(0, iterations)
    assert len(runs) == count and runs[-1] == iterations


def test_eval_hook_flattens_and_checks():
    trainer = simple_trainer()
    trainer.register_hooks([hooks.EvalHook(0, lambda: {"bbox": {"AP": 1, "AP50": 2.5}, "x": 3})])
    trainer.train(0, 1)
    latest = trainer.storage.latest()
    assert (latest["bbox/AP"], latest["bbox/AP50"], latest["x"]) == ((1.0, 1), (2.5, 1), (3.0, 1))
    trainer = simple_trainer()
    trainer.register_hooks([hooks.EvalHook(0, lambda: {"x": "not a number"})])
    with pytest.raises(ValueError, match=r"not a number|x"):
        trainer.train(0, 1)


def test_eval_hook_after_train_can_be_off():
    runs = []
    trainer = simple_trainer()
    trainer.register_hooks([hooks.EvalHook(2, lambda: runs.append(1), eval_after_train=False)])
    trainer.train(0, 4)
    assert len(runs) == 1  # the one that would coincide with the end is left to after_train


@pytest.mark.parametrize(
    ("mode", "values", "saved"),
    [
        ("max", [0.3, 0.4, 0.35, 0.5], [9, 19, 40]),
        ("min", [1.0, 0.8, 0.9, 0.9], [9, 19]),
        ("min", [math.nan, 0.8, 0.9, 0.9], [19]),
    ],
)
def test_best_checkpointer(tmp_path, mode, values, saved):
    trainer = simple_trainer()
    checkpointer = DetectionCheckpointer(trainer.model, str(tmp_path))
    names = []
    checkpointer.save = lambda name, **state: names.append((name, state["iteration"]))
    metrics = iter(values)
    trainer.register_hooks(
        [
            hooks.EvalHook(10, lambda: {"metric": next(metrics)}),
            hooks.BestCheckpointer(10, checkpointer, "metric", mode=mode),
        ]
    )
    trainer.train(0, 40)
    assert names == [("model_best", iteration) for iteration in saved]


def test_lr_hook_logs_before_it_steps():
    trainer = simple_trainer(lr=1.0)
    trainer.register_hooks([hooks.LRScheduler(scheduler=torch.optim.lr_scheduler.StepLR(trainer.optimizer, 2))])
    trainer.train(0, 5)
    assert [value for value, _ in history(trainer, "lr")] == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])


def test_lr_hook_takes_fvcore_schedules():
    from fvcore.common.param_scheduler import LinearParamScheduler

    trainer = simple_trainer(lr=2.0)
    trainer.register_hooks([hooks.LRScheduler(scheduler=LinearParamScheduler(1.0, 0.0))])
    trainer.train(0, 4)
    assert [value for value, _ in history(trainer, "lr")] == pytest.approx([2.0, 1.5, 1.0, 0.5])


def test_lr_hook_shows_the_largest_group():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(6)]
    groups = [{"params": parameters[:1], "lr": 1.0}, {"params": parameters[1:], "lr": 2.0}]
    assert hooks.LRScheduler.get_best_param_group_id(torch.optim.SGD(groups, lr=1.0)) == 1
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, [3.0, 4.0, 4.0, 5.0, 4.0, 3.0])]
    assert hooks.LRScheduler.get_best_param_group_id(torch.optim.SGD(groups, lr=1.0)) == 1


def test_precise_bn_averages_the_batches():
    model = nn.Sequential(nn.BatchNorm1d(3))
    model.forward = lambda batch, norm=model[0]: {"loss": norm(batch).sum()}
    trainer = SimpleTrainer(model, Stream(50), torch.optim.SGD(model.parameters(), lr=0.0))
    trainer.register_hooks([hooks.PreciseBN(2, model, Stream(), 5)])
    trainer.train(0, 2)
    batches = [batch for _, batch in zip(range(5), Stream())]
    torch.testing.assert_close(model[0].running_mean, torch.cat(batches).mean(0))


def test_periodic_checkpointer_hook_and_resume(tmp_path):
    def build():
        trainer = simple_trainer(lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 3)
        checkpointer = DetectionCheckpointer(trainer.model, str(tmp_path), trainer=trainer)
        trainer.register_hooks([hooks.LRScheduler(scheduler=scheduler), hooks.PeriodicCheckpointer(checkpointer, 10)])
        return trainer, scheduler, checkpointer

    trainer, scheduler, _ = build()
    trainer.train(0, 12)
    assert {path.name for path in tmp_path.glob("*.pth")} == {"model_0000009.pth", "model_final.pth"}
    rate = trainer.optimizer.param_groups[0]["lr"]
    trainer, scheduler, checkpointer = build()
    checkpointer.resume_or_load("not_there.pth")
    assert trainer.iter == 11 and scheduler.last_epoch == 12
    assert trainer.optimizer.param_groups[0]["lr"] == rate == pytest.approx(1e-5)


@only_builtin
def test_states_of_two_hooks_of_one_class_survive():
    class Counter(HookBase):
        def __init__(self, value):
            self.value = value

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]

    first = simple_trainer()
    first.register_hooks([Counter(1), Counter(2)])
    second = simple_trainer()
    second.register_hooks([Counter(0), Counter(0)])
    second.load_state_dict(first.state_dict())
    assert [hook.value for hook in second._hooks] == [1, 2]


# ---- defaults


def contract_cfg(folder, **solver):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "ContractModel"
    cfg.OUTPUT_DIR = str(folder)
    cfg.SOLVER.MAX_ITER = 6
    cfg.SOLVER.STEPS = (4,)
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return cfg


class ContractEvaluator(DatasetEvaluator):
    def reset(self):
        self.seen = 0

    def process(self, inputs, outputs):
        self.seen += len(outputs)

    def evaluate(self):
        return {"bbox": {"AP": float(self.seen)}}


class ContractTrainer(DefaultTrainer):
    """Steps draw dropout from a generator state that follows from the iteration, as a resumable loader's would."""

    @classmethod
    def build_train_loader(cls, cfg):
        return Stream()

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        image = torch.zeros(3, 4, 4)
        return [[{"image": image, "height": 4, "width": 4}]] * len(dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return ContractEvaluator()

    def run_step(self):
        self.data_loader.next = self.iter
        torch.manual_seed(self.iter)
        super().run_step()


def build(cfg):
    torch.manual_seed(0)
    return ContractTrainer(cfg)


def run(cfg, resume=False):
    trainer = build(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_default_trainer_writes_everything(tmp_path):
    cfg = contract_cfg(tmp_path)
    cfg.DATASETS.TEST = ("ab", "abc")
    cfg.TEST.EVAL_PERIOD = 4
    trainer = run(cfg)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"metrics.json", "model_0000002.pth", "model_0000005.pth", "model_final.pth", "last_checkpoint"} <= names
    assert any(name.startswith("events.out") for name in names)
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert rows[-1]["ab/bbox/AP"] == 2.0 and rows[-1]["abc/bbox/AP"] == 3.0
    assert [row["iteration"] for row in rows] == [4, 5, 6] or [row["iteration"] for row in rows][-1] == 6
    assert [round(value, 4) for value, _ in history(trainer, "lr")] == [0.0001, 0.05, 0.1, 0.1, 0.01, 0.01]
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert saved["iteration"] == 5 and saved["trainer"]["iteration"] == 5
    assert set(saved["trainer"]) == {"iteration", "hooks", "_trainer"}
    assert set(saved["trainer"]["_trainer"]) == {"iteration", "optimizer"}


def test_one_long_run_equals_two_halves(tmp_path):
    whole = run(contract_cfg(tmp_path / "whole"))
    half = contract_cfg(tmp_path / "halves", MAX_ITER=6)

    class Stop(HookBase):
        def after_step(self):
            if self.trainer.iter == 2:
                raise KeyboardInterrupt

    first = build(half)
    first.resume_or_load(resume=True)
    first.register_hooks([Stop()])
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = ContractTrainer(half)
    second.resume_or_load(resume=True)
    assert second.start_iter == 3
    second.train()
    assert torch.equal(second.model.linear.weight, whole.model.linear.weight)
    for name in ("total_loss", "loss_a", "lr"):
        assert history(first, name) + history(second, name) == history(whole, name)
    momentum = [trainer.optimizer.state_dict()["state"][0]["momentum_buffer"] for trainer in (second, whole)]
    assert torch.equal(*momentum)


def test_weights_are_loaded_without_the_rest(tmp_path):
    run(contract_cfg(tmp_path / "a"))
    cfg = contract_cfg(tmp_path / "b")
    cfg.MODEL.WEIGHTS = str(tmp_path / "a" / "model_final.pth")
    trainer = ContractTrainer(cfg)
    trainer.resume_or_load(resume=True)  # nothing to resume in b
    assert trainer.start_iter == 0
    assert torch.equal(
        trainer.model.linear.weight, torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]["linear.weight"]
    )
    assert trainer.optimizer.state_dict()["state"] == {}


def test_test_returns_the_only_result_bare(tmp_path):
    cfg = contract_cfg(tmp_path)
    cfg.DATASETS.TEST = ("abcd",)
    model = ContractModel().eval()
    assert ContractTrainer.test(cfg, model) == {"bbox": {"AP": 4.0}}
    assert ContractTrainer.test(cfg, model, [ContractEvaluator()]) == {"bbox": {"AP": 4.0}}
    assert ContractTrainer.test(cfg, model, ContractEvaluator()) == {"bbox": {"AP": 4.0}}
    with pytest.raises(AssertionError):
        ContractTrainer.test(cfg, model, [ContractEvaluator()] * 2)
    with pytest.raises(NotImplementedError):
        DefaultTrainer.build_evaluator(cfg, "abcd")


def test_expected_results_are_checked(tmp_path):
    cfg = contract_cfg(tmp_path)
    cfg.DATASETS.TEST = ("ab",)
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 2.0, 0.1]]
    trainer = ContractTrainer(cfg)
    assert trainer.train() == {"bbox": {"AP": 2.0}}


def test_model_loader_and_optimizer_are_the_inner_trainers(tmp_path):
    trainer = ContractTrainer(contract_cfg(tmp_path))
    assert trainer.model is trainer._trainer.model and trainer.data_loader is trainer._trainer.data_loader
    other = ContractModel()
    trainer.model = other
    assert trainer._trainer.model is other
    optimizer = torch.optim.SGD(other.parameters(), lr=1.0)
    trainer.optimizer = optimizer
    assert trainer._trainer.optimizer is optimizer


@only_builtin
def test_amp_of_the_default_trainer(tmp_path):
    cfg = contract_cfg(tmp_path)
    cfg.SOLVER.AMP.ENABLED = True
    trainer = run(cfg)
    assert isinstance(trainer._trainer, AMPTrainer)
    assert "grad_scaler" in torch.load(tmp_path / "model_final.pth", weights_only=True)["trainer"]["_trainer"]


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        (8, (16, 0.1, 5001, (4001,), 1000, 1001, 501)),
        (16, (32, 0.2, 2500, (2000,), 500, 500, 250)),
        (3, (6, 0.0375, 13336, (10669,), 2667, 2669, 1336)),
    ],
)
def test_auto_scale_workers(workers, expected):
    cfg = get_cfg()
    solver = cfg.SOLVER
    solver.IMS_PER_BATCH, solver.BASE_LR, solver.REFERENCE_WORLD_SIZE = 16, 0.1, 8
    solver.MAX_ITER, solver.STEPS, solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 5001, (4001,), 1001, 501
    cfg.freeze()
    new = DefaultTrainer.auto_scale_workers(cfg, workers)
    s = new.SOLVER
    got = (s.IMS_PER_BATCH, s.BASE_LR, s.MAX_ITER, s.STEPS, s.WARMUP_ITERS, s.CHECKPOINT_PERIOD, new.TEST.EVAL_PERIOD)
    assert got[0] == expected[0] and got[1] == pytest.approx(expected[1]) and got[2:] == expected[2:]
    assert workers == s.REFERENCE_WORLD_SIZE and new.is_frozen()
    assert cfg.SOLVER.MAX_ITER == 5001
    cfg.defrost()
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    assert DefaultTrainer.auto_scale_workers(cfg, 4) is cfg


def test_argument_parser():
    args = default_argument_parser().parse_args(
        ["--config-file", "c.yaml", "--num-gpus", "2", "--eval-only", "SOLVER.BASE_LR", "0.1", "--odd"]
    )
    assert (args.config_file, args.num_gpus, args.eval_only, args.resume) == ("c.yaml", 2, True, False)
    assert args.opts == ["SOLVER.BASE_LR", "0.1", "--odd"]
    plain = default_argument_parser().parse_args([])
    assert (plain.config_file, plain.num_gpus, plain.num_machines, plain.machine_rank, plain.opts) == ("", 1, 1, 0, [])
    assert plain.dist_url.startswith("tcp://127.0.0.1:")


@pytest.fixture
def _keep_torch_settings():
    benchmark, precision = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    yield
    torch.backends.cudnn.benchmark = benchmark
    torch.set_float32_matmul_precision(precision)


@pytest.mark.usefixtures("_keep_torch_settings")
def test_default_setup(tmp_path):
    (tmp_path / "in.yaml").write_text("# a remark in the file\nSEED: 11\n")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "in.yaml"))
    cfg.OUTPUT_DIR = str(tmp_path / "out" / "deep")
    cfg.CUDNN_BENCHMARK = True
    cfg.FLOAT32_PRECISION = "high"
    default_setup(cfg, SimpleNamespace(config_file=str(tmp_path / "in.yaml"), eval_only=False))
    first = (torch.rand(1).item(), np.random.rand())
    torch.manual_seed(11)
    np.random.seed(11)
    assert first == (torch.rand(1).item(), np.random.rand())
    assert torch.backends.cudnn.benchmark
    dumped = yaml.safe_load(Path(cfg.OUTPUT_DIR, "config.yaml").read_text())
    assert dumped["SEED"] == 11 and dumped["OUTPUT_DIR"] == cfg.OUTPUT_DIR
    text = Path(cfg.OUTPUT_DIR, "log.txt").read_text()
    assert "a remark in the file" in text and torch.__version__ in text
    logging.getLogger("detectron2.some.part").info("a later line")
    assert "a later line" in Path(cfg.OUTPUT_DIR, "log.txt").read_text()


def test_default_writers(tmp_path):
    kinds = [type(writer).__name__ for writer in default_writers(str(tmp_path / "new"), 10)]
    assert kinds == ["CommonMetricPrinter", "JSONWriter", "TensorboardXWriter"]


def test_ddp_is_only_for_several_processes():
    model = ContractModel()
    assert create_ddp_model(model) is model


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_predictor(tmp_path, image_format):
    torch.save({"model": ContractModel().state_dict()}, tmp_path / "w.pth")
    cfg = contract_cfg(tmp_path)
    cfg.MODEL.WEIGHTS = str(tmp_path / "w.pth")
    cfg.INPUT.FORMAT = image_format
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 20, 50
    predictor = DefaultPredictor(cfg)
    assert not predictor.model.training
    image = np.zeros((10, 15, 3), dtype=np.uint8)
    image[..., 0] = 10
    image[..., 2] = 30
    out = predictor(image)
    assert out["shape"] == (3, 20, 30) and out["size"] == (10, 15)
    assert out["mean"].tolist() == ([10, 0, 30] if image_format == "BGR" else [30, 0, 10])
