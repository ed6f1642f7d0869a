"""The import trap, in processes of its own: an import cannot be undone in this one."""

import subprocess
import sys


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_imports_whichever_build_is_installed() -> None:
    out = run(
        "from leash.worker.vision import import_torchvision as t; import torch\n"
        "print(t().models.resnet18()(torch.zeros(1, 3, 64, 64)).shape[1], t() is t())"
    )
    assert out == "1000 True"


def test_importing_worker_modules_does_not_import_torchvision() -> None:
    out = run(
        "import sys, leash.worker.models, leash.worker.datasets\n"
        "print('torchvision' in sys.modules)"
    )
    assert out == "False"


def test_another_failure_to_import_is_one_line() -> None:
    out = run(
        "import importlib\n"
        "from leash.ps.errors import UsageError\n"
        "from worker import vision\n"
        "def fail(name): raise RuntimeError('compiled for another PyTorch')\n"
        "importlib.import_module = fail\n"
        "try: vision.import_torchvision()\n"
        "except UsageError as error: print(error)"
    )
    assert "compiled for another PyTorch" in out
    assert "\n" not in out
