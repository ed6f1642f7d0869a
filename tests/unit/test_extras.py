"""What is needed beyond a server's packages: asked for in one line, and listed once."""

import re
import subprocess
import sys
from importlib.metadata import metadata, packages_distributions, requires
from pathlib import Path

import pytest

from leash._extras import EXTRAS, install_command

ROOT = Path(__file__).resolve().parents[2]
# As if these were not installed.
WITHOUT = """
import sys

sys.modules.update(dict.fromkeys({missing!r}))
from leash.ps.cli import main
main({words!r})
"""


def project(package: str) -> str:
    """The project that a package is installed by: ``sklearn`` ▸ ``scikit-learn``."""
    return packages_distributions()[package][0].lower()


def extras_of(name: str) -> set[str]:
    """The extras of Leash that ask for a project."""
    pattern = re.compile(rf"{re.escape(name)}[^\w-].*extra == .(\w+)", re.IGNORECASE)
    return {found[1] for told in requires("leash") or () if (found := pattern.match(told))}


# Not asked for by name: they come with scikit-learn.
@pytest.mark.parametrize("package", sorted(EXTRAS.keys() - {"scipy", "threadpoolctl"}))
def test_each_extra_brings_what_the_table_says(package: str) -> None:
    assert EXTRAS[package] in extras_of(project(package))


def test_the_page_on_installing_lists_each_extra() -> None:
    page = (ROOT / "docs" / "install.md").read_text("utf-8")
    table = page.partition("| extra | for |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(metadata("leash").get_all("Provides-Extra", []))


def test_torch_alone_brings_no_torchvision() -> None:
    assert "torch" not in extras_of("torchvision")
    assert "torch" in extras_of("torch")


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["worker", "--dataset=digits"], "torch"),
        (["evaluate", "--dataset=digits"], "torch"),
        (["em", "--path=x"], "sklearn"),
        (["report", "x"], "matplotlib"),
        (["launch", "--dataset=digits", "--log=csv,wandb"], "wandb"),
        (["server", "--log=tensorboard"], "tensorboard"),
        (["bench", "kernels"], "torch"),
        (["bench", "scaling"], "psutil"),
    ],
)
def test_a_command_without_its_packages_ends_in_one_line_that_names_the_mend(
    words: list[str], missing: str, tmp_path: Path
) -> None:
    script = WITHOUT.format(missing={missing}, words=words)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"leash {words[0]}: ")
    assert line.endswith(install_command(missing))
    assert done.returncode in (1, 2)


@pytest.mark.parametrize(
    ("left", "says"),
    [
        ("", "torch is there and does not import"),  # what an interrupted removal leaves
        ("raise ImportError('libtorch.so: no such file', name='torch._C')", "libtorch.so: no such"),
        ("raise OSError('libcudart.so.12: cannot open')", "libcudart.so.12: cannot open"),
        ("import torch._gone", "No module named 'torch._gone'"),
    ],
)
@pytest.mark.parametrize("command", ["worker", "evaluate"])
def test_a_broken_torch_is_one_line_too(command: str, left: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(left)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + WITHOUT.format(
        missing=set(), words=[command, "--dataset=digits"]
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"leash {command}: ")
    assert says in line
    assert line.endswith(install_command("torch"))
    assert done.returncode == 1
