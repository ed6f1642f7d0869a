"""A worker's side of an optimizer's state, which ``PSOptimizer.state_dict`` adds to torch's.

::

    state          empty: averages and counts of updates are the server's
    param_groups   the options, as torch writes them
    leash          residual, codec    what rounding left over for the next gradients, laid out
                                      like a slab; empty for a codec without error feedback
                   inner              the inner optimizer's own state_dict; None without one
                   local_steps        how many steps make a push
                   round              the steps that were taken and not pushed; None if there are
                                      none
                   taken              by which PSOptimizer, after which step; only where the server
                                      has averages: see `leash.worker.optim.servers_state`
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch

from leash.ps.errors import UsageError
from leash.worker.client.memory import Slab
from leash.worker.optim.step_path import StepPath

KEY: Final = "leash"

NOT_OURS: Final = (
    "load_state_dict: this is the state of a torch optimizer, whose averages (momentum, Adam's) a "
    "PSOptimizer has no place for: they live on the server. Continue a run with leash server "
    "--resume; or load this state into an optimizer of your own, and pass that as inner="
)


def worker_state(residual: Slab | None, codec: str, path: StepPath) -> dict[str, Any]:
    """Copies what this worker would lose if it ended now.

    Args:
        residual: what rounding has left over; None in a process that sends no gradients.
        codec: of the gradients.
        path: on which steps reach the server.
    """
    kept = np.zeros(0, np.uint8) if residual is None else residual.copy()
    return {"residual": torch.from_numpy(kept), "codec": codec, **path.state()}


def check_state(state_dict: Mapping[str, Any], residual: Slab | None, codec: str) -> None:
    """Refuses a state that cannot be used as a whole, before a part of it is.

    Args:
        state_dict: as somebody gave it to ``load_state_dict``.
        residual: as in `worker_state`.
        codec: of this worker's gradients.

    Raises:
        UsageError: it is not a PSOptimizer's, or that of one with another codec or model.
    """
    if state_dict.get("state"):
        raise UsageError(NOT_OURS)
    own = state_dict.get(KEY)
    if own is None or residual is None or not own["residual"].numel():
        return
    if (own["codec"], len(own["residual"])) != (codec, len(residual)):
        raise UsageError(
            f"load_state_dict: what {own['codec']} left over of {len(own['residual'])} bytes of "
            f"gradients does not fit this worker, with {codec} and {len(residual)}; take the same "
            "model and codec"
        )


def load_worker_state(own: Mapping[str, Any], residual: Slab | None, path: StepPath) -> None:
    """Takes over what `worker_state` has copied.

    Args:
        own: that copy. REQUIRES: `check_state` has passed it.
        residual: of this worker, gets what rounding left over.
        path: goes on where the other was.

    Raises:
        UsageError: it has an inner optimizer's state and there is none, or the other way round.
    """
    path.load_state(own)
    if residual is not None and own["residual"].numel():
        residual[:] = own["residual"].cpu().numpy()
