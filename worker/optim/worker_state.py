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
"""

from collections.abc import Mapping
from typing import Any, Final

import torch

from leash.ps.errors import UsageError
from leash.worker.client.encoding import Encoder
from leash.worker.optim.step_path import StepPath

KEY: Final = "leash"

NOT_OURS: Final = (
    "load_state_dict: this is the state of a torch optimizer, whose averages (momentum, Adam's) a "
    "PSOptimizer has no place for: they live on the server. Continue a run with leash server "
    "--resume; or load this state into an optimizer of your own, and pass that as inner="
)


def worker_state(encoder: Encoder, codec: str, path: StepPath) -> dict[str, Any]:
    """Copies what this worker would lose if it ended now.

    Args:
        encoder: has what rounding left over.
        codec: of the gradients.
        path: on which steps reach the server.
    """
    return {
        "residual": torch.from_numpy(encoder.residual.copy()),
        "codec": codec,
        **path.state(),
    }


def check_state(state_dict: Mapping[str, Any], encoder: Encoder, codec: str) -> None:
    """Refuses a state that cannot be used as a whole, before a part of it is.

    Args:
        state_dict: as somebody gave it to ``load_state_dict``.
        encoder: of this worker.
        codec: of its gradients.

    Raises:
        UsageError: it is not a PSOptimizer's, or that of one with another codec or model.
    """
    if state_dict.get("state"):
        raise UsageError(NOT_OURS)
    own = state_dict.get(KEY)
    if own is None:
        return
    residual = own["residual"]
    if residual.numel() and (own["codec"], len(residual)) != (codec, len(encoder.residual)):
        raise UsageError(
            f"load_state_dict: what {own['codec']} left over of {len(residual)} bytes of gradients "
            f"does not fit this worker, with {codec} and {len(encoder.residual)}; take the same "
            "model and codec"
        )


def load_worker_state(own: Mapping[str, Any], encoder: Encoder, path: StepPath) -> None:
    """Takes over what `worker_state` has copied.

    Args:
        own: that copy. REQUIRES: `check_state` has passed it.
        encoder: gets what rounding left over.
        path: goes on where the other was.

    Raises:
        UsageError: it has an inner optimizer's state and there is none, or the other way round.
    """
    path.load_state(own)
    if own["residual"].numel():
        encoder.residual[:] = own["residual"].cpu().numpy()
