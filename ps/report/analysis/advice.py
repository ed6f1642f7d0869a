"""Words what would help a run, by what its workers can take.

A loop of the user's own has its own DataLoader, so that the server's plans of batches do not fit
it; it trains on leases where it has a LeaseSampler, and takes local steps by an inner optimizer.
"""

from leash.ps.options.plan import AUTO, LEASE, STATIC, WEIGHTED
from leash.ps.policy import ASP
from leash.ps.report.analysis.run import Run


def plans_for_unequal_speeds(run: Run) -> str:
    """Says what helps against lasting slowness, as the end of a sentence."""
    options = run.options
    is_adaptive = options.get("local_steps") == AUTO or options.get("batch_plan") == WEIGHTED
    policy = run.changes[-1].policy if run.changes else run.policy
    ways = [] if policy == ASP.name else ["--policy asp"]
    if run.has_own_loop:
        ways = _of_own_loop(ways, is_adaptive=is_adaptive)
    elif not is_adaptive:
        ways += ["--local-steps auto", "--batch-plan weighted"]
    told = ", nor could its plan" if is_adaptive else ""
    return f"{told}; try {_plan_for(run)}{_either(ways)}" if ways else told


def _of_own_loop(ways: list[str], *, is_adaptive: bool) -> list[str]:
    sampler = "a LeaseSampler in your loop"
    told = [f"{way} with {sampler}" for way in ways]
    if not is_adaptive:
        told.append(f"--local-steps auto with {'it' if told else sampler} and PSOptimizer(inner=…)")
    return told


def _plan_for(run: Run) -> str:
    """What comes before these ways, if the run had fixed shares because somebody asked for them."""
    if run.options.get("hetero_allocation") is not None:
        return "without --hetero-allocation "
    return "--data-plan lease with " if run.options.get("data_plan") == STATIC else ""


def _either(ways: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(ways[:-1]), ways[-1])))


def leases(run: Run) -> str:
    """Says how work can go on from who is slow to who is done, as the end of a sentence."""
    plan = run.summary.get("data_plan", run.options.get("data_plan"))  # that workers followed
    if run.has_own_loop:
        option = "" if plan == LEASE else "--data-plan lease with "
        return f"; try {option}a LeaseSampler in your loop, if it has none"
    return "" if plan == LEASE else "; try --data-plan lease"


def wider_bound(run: Run) -> str:
    """Says which bound hides steps that stumble."""
    bound = (run.changes[-1].bound if run.changes else run.bound) or 0
    wider = f"--bound {10 if bound < 10 else 2 * bound}"
    policy = "--policy ssp " if bound == 0 else ""
    return f"a larger bound hides that; try {policy}{wider}"


def cheaper_exchange(run: Run) -> str:
    """Says how a step gets more work of its own."""
    if run.has_own_loop:
        return "try larger batches in your loop, or --local-steps 8 with PSOptimizer(inner=…)"
    return "try a larger --batch-size, or --local-steps 8"
