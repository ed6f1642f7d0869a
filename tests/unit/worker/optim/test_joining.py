import json
import sys
from collections.abc import Callable

import pytest
import torch
from torch.distributed import HashStore

from leash import PSOptimizer
from leash.ps.errors import LeashError, UsageError
from leash.worker.optim.joining import find_server_and_rank

SERVER = "tcp://10.0.0.1:29500"
TORCHRUN = {"RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}

Environment = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Sets variables; without a call there is none that says where a server is."""
    for name in ("LEASH_SERVER", "LEASH_RANK", "LEASH_SERVER_OPTIONS", *TORCHRUN):
        monkeypatch.delenv(name, raising=False)

    def put(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> HashStore:
    """The store of torchrun, for a process of RANK 2 or, where a test says so, of RANK 0."""
    store = HashStore()
    module = sys.modules.get("torch.distributed.rendezvous")
    assert module is not None
    monkeypatch.setattr(module, "rendezvous", lambda _: iter([(store, store_rank[0], 4)]))
    store_rank[:] = [2]
    return store


store_rank = [2]


def silent(_: str) -> None:
    pass


def test_what_the_script_names_is_taken(environment: Environment) -> None:
    environment(LEASH_SERVER="tcp://10.0.0.9:1", LEASH_RANK="9", **TORCHRUN)
    said: list[str] = []
    assert find_server_and_rank(SERVER, 3, said.append) == (SERVER, 3)
    assert said == [
        f"server={SERVER}: leash launch has started one at tcp://10.0.0.9:1; leave server= and "
        "rank= out to take part in its run"
    ]


def test_a_copy_of_a_launch_finds_both_in_its_environment(environment: Environment) -> None:
    environment(LEASH_SERVER=SERVER, LEASH_RANK="2")
    assert find_server_and_rank(None, None, silent) == (SERVER, 2)


def test_a_launch_says_more_than_a_torchrun_around_it(environment: Environment) -> None:
    environment(LEASH_SERVER=SERVER, LEASH_RANK="1", **TORCHRUN)
    assert find_server_and_rank(None, None, silent) == (SERVER, 1)


def test_torchruns_ranks_count_from_0_and_leashs_from_1(environment: Environment) -> None:
    environment(**TORCHRUN)
    assert find_server_and_rank(SERVER, None, silent) == (SERVER, 3)


@pytest.mark.parametrize(
    ("server", "rank", "missing"),
    [
        (None, None, "give server=, the server's address and rank=, this worker's number from 1;"),
        (None, 1, "give server=, the server's address;"),
        (SERVER, None, "give rank=, this worker's number from 1;"),
    ],
)
def test_what_nobody_says_is_named(
    environment: Environment, server: str | None, rank: int | None, missing: str
) -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.raises(UsageError) as refused:
        PSOptimizer(model.named_parameters(), server, rank)
    told = str(refused.value)
    assert missing in told
    assert "leash launch --workers N SCRIPT" in told
    assert "torchrun" in told


@pytest.mark.parametrize("rank", ["0", "-1", "one", ""])
def test_a_variable_that_is_no_rank_is_named(environment: Environment, rank: str) -> None:
    environment(LEASH_SERVER=SERVER, LEASH_RANK=rank)
    with pytest.raises(UsageError, match=f"LEASH_RANK={rank}: expected a worker's number"):
        find_server_and_rank(None, None, silent)


def test_rank_0_tells_the_others_where_the_server_is(
    environment: Environment, store: HashStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leash.worker.optim.joining._numbers", iter([7, 8]))
    environment(**TORCHRUN)
    store.set("leash/server/7", json.dumps({"address": SERVER}))
    store.set("leash/server/8", json.dumps({"address": "tcp://10.0.0.1:4"}))
    assert find_server_and_rank(None, None, silent) == (SERVER, 3)
    assert find_server_and_rank(None, None, silent) == ("tcp://10.0.0.1:4", 3)


def test_options_that_cannot_be_are_told_in_every_process(
    environment: Environment, store: HashStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leash.worker.optim.joining._numbers", iter([1, 1]))
    environment(**{**TORCHRUN, "RANK": "0"}, LEASH_SERVER_OPTIONS="--polcy bsp")
    store_rank[:] = [0]
    told = r"LEASH_SERVER_OPTIONS: unknown option --polcy; did you mean --policy\?"
    with pytest.raises(UsageError, match=told):
        find_server_and_rank(None, None, silent)
    environment(RANK="2")
    store_rank[:] = [2]
    with pytest.raises(LeashError, match=f"RANK 0 could not start the server: {told}"):
        find_server_and_rank(None, None, silent)
