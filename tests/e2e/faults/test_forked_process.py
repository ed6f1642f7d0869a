"""A process that was forked from a worker: it ends, and touches nothing of its parent's."""

import subprocess
import sys

import pytest

from support.servers import serving

# A worker that steps, and forks in every way between two steps.
WORKER = """
import multiprocessing, os, sys
import torch
from leash import PSOptimizer

model = torch.nn.Linear(2, 2)
inner = torch.optim.SGD(model.parameters(), lr=0.5) if {inner} else None
optimizer = PSOptimizer(
    model.named_parameters(), sys.argv[1], rank=1, overlap={overlap}, transport="{transport}",
    inner=inner,
)
expected = model.weight.detach().clone()

def step():
    global expected
    optimizer.zero_grad()
    optimizer.begin_step(samples=1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    expected = expected - 0.5
    assert torch.equal(model.weight, expected), "the parent's own step"

def write():
    with torch.no_grad():
        model.weight.fill_(7.0)

def use():
    for call in (optimizer.begin_step, optimizer.step, optimizer.rejoin, optimizer.client.state):
        try:
            call()
        except ValueError as error:
            print(call.__name__, error, flush=True)
    optimizer.close()
    write()

def fork(action):
    child = os.fork()
    if not child:
        action()
        sys.exit(0)  # runs what atexit has kept, which multiprocessing leaves out
    print("child ended with", os.waitpid(child, 0)[1], flush=True)
    assert torch.equal(model.weight, expected), "a child wrote to its parent's parameters"

step()
fork(use)
step()
process = multiprocessing.get_context("fork").Process(target=use)
process.start()
process.join()
print("child ended with", process.exitcode, flush=True)
step()
data = torch.utils.data.TensorDataset(torch.arange(8.0))
loader = torch.utils.data.DataLoader(
    data, batch_size=2, num_workers=2, multiprocessing_context="fork"
)
assert sorted(torch.cat([x for x, in loader]).tolist()) == list(range(8))
step()
optimizer.close()
fork(write)
"""


@pytest.mark.parametrize(
    ("overlap", "transport", "inner"),
    [(True, "tcp", False), (False, "shm", True)],
    ids=["overlap", "local steps"],
)
def test_a_forked_child_ends_and_its_use_of_the_optimizer_is_one_clear_error(
    overlap: bool, transport: str, inner: bool
) -> None:
    program = WORKER.format(overlap=overlap, transport=transport, inner=inner)
    rates = {"outer_lr": 1.0} if inner else {"lr": 0.5}
    with serving(policy="asp", **rates) as running:
        argv = [sys.executable, "-c", program, running.address]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert running.join() == 0
        summary = running.settled().summary()
        told = ("steps", "evictions", "refused_messages")
        assert [summary[name] for name in told] == [4, 0, 0]
    said = done.stdout.splitlines()
    used = ["begin_step", "step", "rejoin", "state", "child"]
    assert [line.split()[0] for line in said] == [*used, *used, "child"]
    for line in said:
        assert line == "child ended with 0" or "was forked from it: no connection outlives" in line
