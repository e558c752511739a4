"""Event storage and writers."""

from __future__ import annotations

import json
import logging
import re

import pytest
import torch
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_storages_nest():
    assert not has_event_storage()
    with pytest.raises(AssertionError):
        get_event_storage()
    with EventStorage() as outer:
        assert get_event_storage() is outer
        with EventStorage(5) as inner:
            assert get_event_storage() is inner and inner.iter == 5
        assert get_event_storage() is outer
    assert not has_event_storage()


def test_storage_is_left_after_an_error():
    with pytest.raises(RuntimeError), EventStorage():
        raise RuntimeError
    assert not has_event_storage()


def test_scalars_histories_and_scopes():
    with EventStorage(start_iter=3) as storage:
        storage.put_scalar("a", torch.tensor(1.5))
        storage.step()
        storage.put_scalars(a=2, b=3.0)
        with storage.name_scope("outer"):
            storage.put_scalar("a", 7, smoothing_hint=False)
        storage.put_scalar("late", 1, cur_iter=100)
    assert storage.history("a").values() == [(1.5, 3), (2.0, 4)]
    assert storage.latest() == {"a": (2.0, 4), "b": (3.0, 4), "outer/a": (7.0, 4), "late": (1.0, 100)}
    assert storage.smoothing_hints()["outer/a"] is False
    assert set(storage.histories()) == {"a", "b", "outer/a", "late"}
    with pytest.raises(KeyError, match="nothing"):
        storage.history("nothing")
    storage.iter = 9
    assert storage.iter == storage.iteration == 9


def test_smoothing_hint_must_stay():
    with EventStorage() as storage:
        storage.put_scalar("a", 1, smoothing_hint=True)
        with pytest.raises(AssertionError):
            storage.put_scalar("a", 1, smoothing_hint=False)


def test_smoothing_is_a_median_over_iterations():
    with EventStorage() as storage:
        for value in [100, 0, 0, 1, 2, 50]:
            storage.put_scalar("dense", value)
            storage.put_scalar("raw", value, smoothing_hint=False)
            if storage.iter % 2:
                storage.put_scalar("sparse", value)
            storage.step()
    assert storage.count_samples("dense", 4) == 4
    assert storage.count_samples("sparse", 4) == 2
    smooth = storage.latest_with_smoothing_hint(4)
    assert smooth == {"dense": (1.5, 5), "raw": (50.0, 5), "sparse": (25.5, 5)}


def test_json_writer_writes_each_value_once(tmp_path):
    path = tmp_path / "metrics.json"
    with EventStorage() as storage:
        writer = JSONWriter(str(path))
        for step in range(12):
            storage.put_scalars(fast=float(step), smoothing_hint=False)
            if step in (1, 2, 9):
                storage.put_scalar("slow", 10.0 * step, smoothing_hint=False)
            if step in (3, 5, 11):  # between 3 and 5, "slow" has no new value
                writer.write()
            storage.step()
        writer.write()  # nothing new
        writer.close()
    assert sorted(read(path), key=lambda line: line["iteration"]) == [
        {"iteration": 2, "slow": 20.0},
        {"iteration": 3, "fast": 3.0},
        {"iteration": 5, "fast": 5.0},
        {"iteration": 9, "slow": 90.0},
        {"iteration": 11, "fast": 11.0},
    ]


def test_json_writer_appends(tmp_path):
    path = tmp_path / "metrics.json"
    for start in (0, 5):
        with EventStorage(start) as storage:
            writer = JSONWriter(str(path))
            storage.put_scalar("x", start)
            writer.write()
            writer.close()
    assert [row["iteration"] for row in read(path)] == [0, 5]


def test_json_writer_smooths(tmp_path):
    path = tmp_path / "metrics.json"
    with EventStorage() as storage:
        writer = JSONWriter(str(path), window_size=10)
        for k in range(20):
            storage.put_scalar("key", k)
            if (k + 1) % 10 == 0:
                writer.write()
            storage.step()
        writer.close()
    assert [row["key"] for row in read(path)] == [4.5, 14.5]


def printed(caplog, printer):
    logger = logging.getLogger("detectron2.utils.events")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    try:
        caplog.clear()
        printer.write()
        return [record.getMessage() for record in caplog.records]
    finally:
        logger.removeHandler(caplog.handler)


def test_metric_printer_line(caplog):
    logging.getLogger("detectron2.utils.events").propagate = False
    with EventStorage() as storage:
        storage.iter = 4
        storage.put_scalars(total_loss=1.25, loss_box=0.5, time=2.0, data_time=0.25)
        storage.put_scalar("[metric]stat", 3.0)
        storage.put_scalar("hidden", 8.0)
        storage.put_scalar("lr", 0.125, smoothing_hint=False)
        (line,) = printed(caplog, CommonMetricPrinter(max_iter=10))
        fields = dict(re.findall(r"(\S+): (\S+)", line))
        assert fields["eta"] == "0:00:10"  # 5 iterations of 2 s are left
        assert storage.latest()["eta_seconds"] == (10.0, 4)
        assert fields["iter"] == "4"
        assert float(fields["total_loss"]) == 1.25 and float(fields["loss_box"]) == 0.5
        assert float(fields["[metric]stat"]) == 3.0 and float(fields["lr"]) == 0.125
        assert float(fields["time"]) == 2.0 and float(fields["data_time"]) == 0.25
        assert "hidden" not in line
        assert line.index("iter: 4") < line.index("total_loss") < line.index("time") < line.index("lr")


def test_metric_printer_without_max_iter_has_no_eta(caplog):
    with EventStorage() as storage:
        storage.put_scalar("time", 1.0)
        (line,) = printed(caplog, CommonMetricPrinter())
        assert "eta" not in line and "iter: 0" in line


def test_metric_printer_is_quiet_after_the_last_iteration(caplog):
    with EventStorage(10):
        assert printed(caplog, CommonMetricPrinter(max_iter=10)) == []


def test_tensorboard_writer(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with EventStorage() as storage:
        writer = TensorboardXWriter(str(tmp_path))
        assert list(tmp_path.iterdir()) == []  # opened by the first write
        for k in range(4):
            storage.put_scalar("loss", k, smoothing_hint=False)
            if k == 1:
                storage.put_image("picture", torch.zeros(3, 4, 5, dtype=torch.uint8))
                storage.put_histogram("weights", torch.tensor([0.0, 1.0, 1.0, 4.0]), bins=4)
            writer.write()
            storage.step()
        writer.close()
    events = event_accumulator.EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    (image,) = events.Images("picture")
    assert (image.step, image.width, image.height) == (1, 5, 4)
    (histogram,) = events.Histograms("weights")
    value = histogram.histogram_value
    assert (histogram.step, value.min, value.max, value.num, value.sum, value.sum_squares) == (
        1,
        0.0,
        4.0,
        4,
        6.0,
        18.0,
    )


def test_writer_base():
    with pytest.raises(NotImplementedError):
        EventWriter().write()
    EventWriter().close()
