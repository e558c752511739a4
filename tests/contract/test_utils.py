"""Utilities: logging, files, registries, memory, pickling, seeds, counts."""

from __future__ import annotations

import logging
import pickle
import random

import numpy as np
import pytest
import torch
from detectron2.utils import collect_env, env, logger, memory
from detectron2.utils.file_io import PathHandler, PathManager
from detectron2.utils.registry import Registry, locate
from detectron2.utils.serialize import PicklableWrapper

from mvseg.provider import detectron2_provider

only_builtin = pytest.mark.skipif(detectron2_provider() != "builtin", reason="about mvseg's own provider")


@pytest.fixture
def records(monkeypatch):
    """Everything that this module's logger gets."""
    got: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record):
            got.append(record)

    mine = logging.getLogger(__name__)
    handler = Keep()
    mine.addHandler(handler)
    mine.setLevel(logging.DEBUG)
    yield got
    mine.removeHandler(handler)


def test_setup_logger_writes_to_stdout_and_file(tmp_path, capsys):
    log = logger.setup_logger(str(tmp_path), name="contract_a", abbrev_name="ca", color=False)
    logging.getLogger("contract_a.part").warning("hello %d", 3)
    assert log is logging.getLogger("contract_a")
    assert not log.propagate
    line = (tmp_path / "log.txt").read_text()
    assert "contract_a.part WARNING: hello 3" in line
    assert "hello 3" in capsys.readouterr().out


def test_setup_logger_abbreviates_on_the_terminal(tmp_path, capsys):
    logger.setup_logger(str(tmp_path), name="contract_f", abbrev_name="cf")
    logging.getLogger("contract_f.part").error("hello")
    shown = capsys.readouterr().out
    assert "cf.part" in shown and "contract_f" not in shown
    assert "f.part ERROR: hello" in (tmp_path / "log.txt").read_text()


def test_setup_logger_twice_logs_once(tmp_path):
    for _ in range(2):
        log = logger.setup_logger(str(tmp_path / "own.log"), name="contract_b", configure_stdout=False)
    log.info("once")
    assert (tmp_path / "own.log").read_text().count("once") == 1


def test_setup_logger_of_other_ranks_is_silent_on_stdout(tmp_path, capsys):
    log = logger.setup_logger(str(tmp_path), distributed_rank=2, name="contract_c")
    log.info("from rank two")
    assert capsys.readouterr().out == ""
    assert "from rank two" in (tmp_path / "log.txt.rank2").read_text()


def test_two_loggers_share_a_file(tmp_path):
    for name in ("contract_d", "contract_e"):
        logger.setup_logger(str(tmp_path), name=name, configure_stdout=False).info("line of %s", name)
    text = (tmp_path / "log.txt").read_text()
    assert "line of contract_d" in text and "line of contract_e" in text


def test_log_first_n_counts_by_caller(records):
    for index in range(5):
        logger.log_first_n(logging.INFO, f"message {index}", n=2)
    assert [record.getMessage() for record in records] == ["message 0", "message 1"]


def test_log_first_n_counts_by_message(records):
    for index in range(6):
        logger.log_first_n(logging.INFO, f"by message {index % 2}", key="message")
        logger.log_first_n(logging.INFO, f"by message {index % 2}", key="message")
    assert [record.getMessage() for record in records] == ["by message 0", "by message 1"]


def test_log_first_n_counts_by_both(records):
    for index in range(4):
        logger.log_first_n(logging.INFO, f"both {index % 2}", key=("caller", "message"))
        logger.log_first_n(logging.INFO, f"both {index % 2}", key=("caller", "message"))
    assert [record.getMessage() for record in records] == ["both 0", "both 0", "both 1", "both 1"]


def test_log_every_n(records):
    for index in range(7):
        logger.log_every_n(logging.INFO, f"every {index}", n=3)
    assert [record.getMessage() for record in records] == ["every 0", "every 3", "every 6"]


def test_log_every_n_seconds(records):
    for index in range(3):
        logger.log_every_n_seconds(logging.INFO, f"slow {index}", n=1000)
    assert [record.getMessage() for record in records] == ["slow 0"]
    for index in range(2):
        logger.log_every_n_seconds(logging.INFO, f"fast {index}", n=0)
    assert [record.getMessage() for record in records][1:] == ["fast 0", "fast 1"]


def test_create_small_table():
    lines = logger.create_small_table({"AP": 12.3456, "AP50": 1.0}).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == ["AP", "AP50"]
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["12.346", "1.000"]


def test_path_manager_takes_handlers(tmp_path):
    class Handler(PathHandler):
        def _get_supported_prefixes(self):
            return ["contract://"]

        def _get_local_path(self, path, **kwargs):
            return str(tmp_path / path.removeprefix("contract://"))

        def _open(self, path, mode="r", **kwargs):
            return open(self._get_local_path(path), mode)

    PathManager.register_handler(Handler(), allow_override=True)
    (tmp_path / "a.txt").write_text("content")
    with PathManager.open("contract://a.txt") as file:
        assert file.read() == "content"
    PathManager.mkdirs(str(tmp_path / "x" / "y"))
    assert PathManager.isdir(str(tmp_path / "x" / "y"))
    assert PathManager.isfile(str(tmp_path / "a.txt")) and not PathManager.exists(str(tmp_path / "b"))


def test_registry():
    registry = Registry("CONTRACT")

    @registry.register()
    class First:
        pass

    def second():
        pass

    registry.register(second)
    assert registry.get("First") is First and registry.get("second") is second and "First" in registry
    with pytest.raises(KeyError, match="third"):
        registry.get("third")
    with pytest.raises(AssertionError, match="First"):
        registry.register(First)


def test_locate():
    assert locate("torch.nn.Linear") is torch.nn.Linear
    assert locate("collections.OrderedDict.fromkeys") == __import__("collections").OrderedDict.fromkeys
    with pytest.raises(Exception, match=r"no_such_thing|locate"):
        locate("torch.nn.no_such_thing")


def test_retry_if_cuda_oom():
    calls = []

    def fails(times):
        def function(x, *, scale):
            calls.append(scale)
            if len(calls) <= times:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
            return x * scale

        return function

    for times in (0, 1, 2):
        calls.clear()
        assert memory.retry_if_cuda_oom(fails(times))(torch.ones(1), scale=3).item() == 3
        assert len(calls) == times + 1
    calls.clear()
    with pytest.raises(torch.OutOfMemoryError):
        memory.retry_if_cuda_oom(fails(3))(torch.ones(1), scale=3)


def test_retry_if_cuda_oom_lets_other_errors_pass():
    def broken():
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        memory.retry_if_cuda_oom(broken)()


def test_picklable_wrapper():
    factor = 3
    wrapped = PicklableWrapper(PicklableWrapper(lambda x: x * factor))
    assert pickle.loads(pickle.dumps(wrapped))(2) == 6
    assert wrapped(5) == 15


def test_seed_all_rng_seeds_everything():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    env.seed_all_rng(7)
    first = draw()
    assert draw() != first
    env.seed_all_rng(7)
    assert draw() == first
    torch.manual_seed(7)
    assert torch.rand(1).item() == first[2]
    assert env.TORCH_VERSION >= (2, 0)


def test_collect_env_info_names_versions():
    table = collect_env.collect_env_info()
    assert torch.__version__ in table and np.__version__ in table


@only_builtin
def test_plain_pickles_only():
    import io

    from detectron2.utils.serialize import load_plain_pickle

    content = {"a": np.arange(3, dtype="float32"), "b": [np.float64(2.5), "text", (1, None)], "c": {1, 2}}
    for protocol in (2, 5):
        read = load_plain_pickle(io.BytesIO(pickle.dumps(content, protocol=protocol)))
        assert read["a"].tolist() == [0, 1, 2] and read["b"] == content["b"] and read["c"] == {1, 2}
    with pytest.raises(pickle.UnpicklingError, match=r"posix\.system|nt\.system"):
        load_plain_pickle(io.BytesIO(pickle.dumps(__import__("os").system)))
