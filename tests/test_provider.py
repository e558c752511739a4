"""The choice of the Detectron2 provider: automatic, installed, built-in, and its refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REPORT = "import mvseg; from mvseg.provider import detectron2_provider; print(detectron2_provider())"


def run(code: str, path: str = "", **environment: str) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if k not in ("MVSEG_DETECTRON2", "PYTHONPATH")}
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), path]), **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


@pytest.fixture
def fake_installed(tmp_path: Path) -> str:
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = 'fake'\n")
    return str(tmp_path)


def test_an_installed_detectron2_wins(fake_installed):
    assert run(REPORT, fake_installed).stdout.strip() == "installed"


def test_builtin_can_be_demanded_over_an_installed_one(fake_installed):
    code = REPORT + "; import detectron2; print(detectron2.__file__)"
    out = run(code, fake_installed, MVSEG_DETECTRON2="builtin").stdout.split()
    assert out[0] == "builtin" and str(ROOT) in out[1]


def test_builtin_too_late_is_refused(fake_installed):
    result = run("import detectron2, mvseg", fake_installed, MVSEG_DETECTRON2="builtin")
    assert result.returncode != 0 and "Import mvseg first" in result.stderr


def test_unknown_choice_lists_the_choices():
    result = run("import mvseg", MVSEG_DETECTRON2="both")
    assert result.returncode != 0 and "auto, installed, builtin" in result.stderr


@pytest.mark.skipif(run("import detectron2").returncode == 0, reason="a Detectron2 is installed in this environment")
class TestWithoutAnInstalledDetectron2:
    def test_auto_uses_the_builtin_provider(self):
        assert run(REPORT).stdout.strip() == "builtin"

    def test_installed_is_refused_with_the_install_command(self):
        result = run("import mvseg", MVSEG_DETECTRON2="installed")
        assert result.returncode != 0 and "pip install" in result.stderr


def test_environment_report_names_provider_versions_and_devices():
    result = subprocess.run([sys.executable, "-m", "mvseg.environment"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for word in ("provider", "torch", "pycocotools", "cpu:", "DETECTRON2_DATASETS"):
        assert word in result.stdout
