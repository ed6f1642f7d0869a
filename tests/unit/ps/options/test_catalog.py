from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest

from leash.ps.cli import parse
from leash.ps.errors import UsageError
from leash.ps.options.catalog import DATASETS, MODELS, choose, choose_task


@dataclass(frozen=True)
class Fruit:
    name: str
    aliases: tuple[str, ...] = ()


FRUITS = {fruit.name: fruit for fruit in (Fruit("green_apple", ("GrannySmith",)), Fruit("pear"))}


@pytest.mark.parametrize("spelling", ["green_apple", "Green-Apple", "GREENAPPLE", "granny_smith"])
def test_case_and_separators_do_not_matter(spelling: str) -> None:
    assert choose(spelling, FRUITS, "fruit").name == "green_apple"


def test_an_unknown_name_brings_the_nearest_and_all_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'paer'.*did you mean pear\?.*green_apple, pear"):
        choose("paer", FRUITS, "fruit")


def test_a_name_like_no_other_brings_the_known_ones_only() -> None:
    with pytest.raises(UsageError, match="known are green_apple, pear") as caught:
        choose("zzz", FRUITS, "fruit")
    assert "did you mean" not in str(caught.value)


def test_every_known_pair_names_entries_of_the_two_tables() -> None:
    assert {known.dataset for known in MODELS.values()} <= DATASETS.keys()
    assert {known.model for known in DATASETS.values()} <= MODELS.keys()


@pytest.mark.parametrize(
    ("model", "dataset", "pair"),
    [
        ("MnistCNN", None, ("mnist_cnn", "mnist")),
        (None, "digits", ("linear", "digits")),
        ("lenet", "digits", ("lenet", "digits")),
        ("nets:build", "mnist", ("nets:build", "mnist")),
        ("nets:build", "nets:data", ("nets:build", "nets:data")),
        (None, None, (None, None)),
    ],
)
def test_a_model_and_a_data_set_follow_from_each_other(
    model: str | None, dataset: str | None, pair: tuple[str | None, str | None]
) -> None:
    assert choose_task(model, dataset) == pair


@pytest.mark.parametrize(("model", "dataset"), [("nets:build", None), (None, "nets:data")])
def test_nothing_follows_from_somebodys_own_function(
    model: str | None, dataset: str | None
) -> None:
    with pytest.raises(UsageError, match="too, a name or module:function"):
        choose_task(model, dataset)


def all_names() -> list[tuple[str, str, str]]:
    """Every name of every model and data set: kind, spelling, today's name."""
    return [
        (kind, spelling, known.name)
        for kind, table in (("model", MODELS), ("dataset", DATASETS))
        for known in table.values()
        for spelling in (known.name, *known.aliases)
    ]


COMMANDS_WITH_A_TASK = ("launch", "server", "worker", "evaluate")


# The commands in turn: all of them take their names from the same table.
@pytest.mark.parametrize(
    ("command", "kind", "spelling", "name"),
    [(command, *named) for command, named in zip(cycle(COMMANDS_WITH_A_TASK), all_names())],
    ids=str,
)
def test_every_name_is_taken_on_the_command_line_and_in_a_settings_file(
    command: str, kind: str, spelling: str, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"{kind}: {spelling}\n")
    for words in ([f"--{kind}", spelling], [f"--config={file}"]):
        _, options = parse([command, *words])
        options.check()
        assert getattr(options, kind) == spelling  # the demo's logs are named after it
    chosen = choose_task(**{"model": None, "dataset": None, kind: spelling})
    assert chosen[kind == "dataset"] == name


@pytest.mark.parametrize("command", COMMANDS_WITH_A_TASK)
def test_every_command_takes_the_demos_name_of_a_model(command: str) -> None:
    _, options = parse([command, "--model=AlexNetCifar10"])
    options.check()


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("MnistCNN", "mnist_cnn"), ("LeNetForMNIST", "lenet"), ("AlexNet", "alexnet_cifar"),
        ("AlexNetForCIFAR", "alexnet_cifar"), ("AlexNetCifar10", "alexnet_cifar"),
        ("ResNet18OnCifar10", "resnet18"), ("ResNetOnCifar10", "resnet18"),
    ],
)  # fmt: skip
def test_the_names_of_the_ssp_demo_are_known(spelling: str, name: str) -> None:
    assert choose(spelling, MODELS, "model").name == name


def test_no_spelling_stands_for_two() -> None:
    for table in (MODELS, DATASETS):
        spellings = [plain for known in table.values()
                     for plain in {s.lower().replace("_", "").replace("-", "")
                                   for s in (known.name, *known.aliases)}]  # fmt: skip
        assert len(set(spellings)) == len(spellings)
