"""``optimizer.state`` where the server's optimizer has averages: nobody can use it here."""

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import torch

from leash.ps.errors import UsageError
from leash.worker.optim.local_steps import takes_differences

AT_THE_SERVER: Final = (
    "optimizer.state: momentum and averages are the server's, so nobody can read, change or clear "
    "them here: optimizer.save() writes them, leash server --resume goes on from that, and a new "
    "run begins without; or use an optimizer of your own, as inner=..."
)
COPIED: Final = (
    "a PSOptimizer cannot be copied or pickled: it is this process's part in a run. Make a new one "
    "in the other process, with a rank of its own; model.state_dict() and optimizer.state_dict() "
    "can be copied"
)
ROLLED_BACK: Final = (
    "load_state_dict: this state was taken at step {} of this optimizer, which is at step {} now; "
    "its momentum and averages are the server's, and stay as they are: go back to a checkpoint of "
    "the server's with leash server --resume, or call publish() to go back to weights alone"
)


class ServersState(MutableMapping[Any, Any]):
    """Stands for the state of the server's optimizer.

    Before the first step it is empty, as torch's. From then on every use raises UsageError, and at
    any time what would write to it.
    """

    def __init__(self, has_begun: Callable[[], bool]) -> None:
        """Begins empty.

        Args:
            has_begun: tells whether a step was taken.
        """
        self._has_begun: Final = has_begun

    def _require_empty(self) -> None:
        if self._has_begun():
            raise UsageError(AT_THE_SERVER)

    def __iter__(self) -> Iterator[Any]:
        self._require_empty()
        return iter(())

    def __len__(self) -> int:
        self._require_empty()
        return 0

    def __contains__(self, _: object) -> bool:
        self._require_empty()
        return False

    def get(self, _: Any, default: Any = None) -> Any:
        self._require_empty()
        return default

    def __getitem__(self, _: Any) -> NoReturn:
        raise UsageError(AT_THE_SERVER)

    def __setitem__(self, _: Any, __: Any) -> NoReturn:
        raise UsageError(AT_THE_SERVER)

    def __delitem__(self, _: Any) -> NoReturn:
        raise UsageError(AT_THE_SERVER)


class ShownState:
    """What a PSOptimizer shows where torch's optimizers have their state.

    That is the inner optimizer's, if there is one. Otherwise nothing is here: the server may have
    some.
    """

    def __init__(
        self, settings: Mapping[str, Any], inner: torch.optim.Optimizer | None,
        has_begun: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Shows an empty state, or one that nobody can use.

        Args:
            settings: of the run, as the server tells them.
            inner: takes the steps, if not the server does.
            has_begun: tells whether this worker has taken a step.
        """
        self._is_kept: Final = _keeps_state(settings)
        self._inner: Final = inner
        self._own: MutableMapping[Any, Any] = (
            ServersState(has_begun) if self._is_kept else defaultdict(dict)
        )
        self._token: Final = secrets.token_hex(8)  # no other optimizer has it
        self._is_hidden = False

    @property
    def value(self) -> MutableMapping[Any, Any]:
        """What ``optimizer.state`` is."""
        if self._is_hidden:
            return {}
        return self._own if self._inner is None else self._inner.state

    def replace(self, state: Any) -> None:
        """Takes what somebody assigns to ``optimizer.state``.

        Raises:
            UsageError: the server has a state, which that would not replace.
        """
        if self._inner is not None:
            self._inner.state = state
        elif self._is_kept:
            raise UsageError(AT_THE_SERVER)
        else:
            self._own = state

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """While torch's own ``state_dict`` runs, the state is empty."""
        self._is_hidden = True
        try:
            yield
        finally:
            self._is_hidden = False

    def taken_at(self, step: int) -> dict[str, Any]:
        """What `require_not_before` has to find in a state that was taken at this step."""
        return {"taken": {"by": self._token, "step": step}} if self._is_kept else {}

    def require_not_before(self, step: int, own: Mapping[str, Any]) -> None:
        """Refuses to go back: the server's averages would stay as they are.

        Args:
            step: of the worker, now.
            own: what a worker's state has beside torch's.

        Raises:
            UsageError: this optimizer took that state at another step.
        """
        taken = own.get("taken", {})
        if taken.get("by") == self._token and taken["step"] != step:
            raise UsageError(ROLLED_BACK.format(taken["step"], step))


def _keeps_state(settings: Mapping[str, Any]) -> bool:
    """Whether the server's optimizer has more than parameters, so that torch's has a state."""
    if takes_differences(dict(settings)):
        return bool(settings.get("outer_momentum"))
    return settings.get("optimizer") not in ("sgd", "sum") or bool(settings.get("momentum"))
