"""The settings that a run was started with: those for workers, and those for summary.json."""

from collections.abc import Sequence
from typing import Any, Final

from leash.ps.options.addresses import shown_learners
from leash.ps.options.optimizer import optimizer_settings
from leash.ps.options.server import ServerOptions
from leash.ps.policy import Rule

# The settings that summary.json has beside those of the rule.
IN_SUMMARY: Final = (
    "workers", "least_workers", "model", "dataset", "seed", "time_scale", "data_plan", "batch_plan",
    "local_steps",
)  # fmt: skip


def run_settings(
    options: ServerOptions, rule: Rule, ranks: Sequence[int], data_plan: str
) -> dict[str, Any]:
    """Collects the settings for `welcome` and `state`; docs/wire-format.md lists them.

    Args:
        options: what the server was started with.
        rule: the one that the run goes by now; `leash set` may have changed it since the start.
        ranks: of the workers that may take part.
        data_plan: what the workers train on.
    """
    return {
        **rule.settings(),
        "workers": len(ranks),
        "learners": shown_learners(ranks),
        "least_workers": options.least,
        **optimizer_settings(options),
        "data_plan": data_plan,
        "batch_plan": options.batch_plan,
        "local_steps": options.local_steps,
        "seed": options.chosen_seed,
        "planned_epochs": options.epochs,
        "model": options.model,
        "dataset": options.dataset,
    }


def summary_settings(
    options: ServerOptions, rule: Rule, ranks: Sequence[int], data_plan: str
) -> dict[str, Any]:
    """Collects the settings for summary.json: some of `run_settings`, and the time scale.

    The arguments are those of `run_settings`.
    """
    settings = run_settings(options, rule, ranks, data_plan)
    known = {**settings, "time_scale": options.time_scale}
    return {name: known[name] for name in (*rule.settings(), *IN_SUMMARY)}
