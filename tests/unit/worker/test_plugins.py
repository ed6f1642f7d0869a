import sys
from pathlib import Path

import pytest

from leash.ps.errors import UsageError
from leash.worker import plugins


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is not on the module path, as under the `leash` command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def test_a_module_in_the_working_directory_is_found(user_folder: Path) -> None:
    (user_folder / "leash_test_found.py").write_text("def build(): return 42\n")
    assert plugins.call("leash_test_found:build", "model") == 42


def test_the_working_directory_hides_no_installed_module(user_folder: Path) -> None:
    (user_folder / "colorsys.py").write_text("def rgb_to_hsv(): return 'hidden'\n")
    assert plugins.resolve("colorsys:rgb_to_hsv", "model").__module__ == "colorsys"
    assert str(user_folder) not in str(sys.modules["colorsys"].__file__)


@pytest.mark.parametrize("reference", [":build", "module:", ":"])
def test_half_a_reference_is_refused(reference: str) -> None:
    with pytest.raises(UsageError, match="expected module:function"):
        plugins.resolve(reference, "model")


def test_an_absent_module_names_the_folder_and_the_mend(user_folder: Path) -> None:
    with pytest.raises(UsageError, match="PYTHONPATH") as caught:
        plugins.resolve("leash_test_absent:build", "model")
    assert "leash_test_absent" in str(caught.value)
    assert str(user_folder) in str(caught.value)


def test_a_module_that_lacks_the_function_names_its_file(user_folder: Path) -> None:
    (user_folder / "leash_test_empty.py").write_text("build = 3\n")
    with pytest.raises(UsageError, match=r"no function 'build' in .*leash_test_empty\.py"):
        plugins.resolve("leash_test_empty:build", "model")


@pytest.mark.parametrize(
    ("stem", "source", "expected"),
    [
        ("leash_test_syntax", "def build(:\n", "SyntaxError"),
        ("leash_test_import", "import leash_test_not_there\n", "leash_test_not_there"),
        ("leash_test_lines", "raise ValueError('one\\ntwo')\n", "ValueError: one"),
    ],
)
def test_a_module_that_does_not_import_gives_the_cause_in_one_line(
    user_folder: Path, stem: str, source: str, expected: str
) -> None:
    (user_folder / f"{stem}.py").write_text(source)
    with pytest.raises(UsageError, match=expected) as caught:
        plugins.resolve(f"{stem}:build", "model")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_function_that_raises_gives_the_cause_in_one_line(user_folder: Path) -> None:
    (user_folder / "leash_test_raises.py").write_text("def build(n): pass\n")
    with pytest.raises(UsageError, match="the call failed with TypeError"):
        plugins.call("leash_test_raises:build", "model")
