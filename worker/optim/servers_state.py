"""``optimizer.state`` where the server's optimizer has averages: nobody can use it here."""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Final, NoReturn

from leash.ps.errors import UsageError
from leash.worker.optim.local_steps import takes_differences

AT_THE_SERVER: Final = (
    "optimizer.state: momentum and averages are the server's, so nobody can read, change or clear "
    "them here: its checkpoints have them (leash server --resume goes on from one), and a new run "
    "begins without; or use an optimizer of your own, as inner=..."
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
    """Stands for the state of the server's optimizer; every use raises UsageError."""

    def __getitem__(self, _: Any) -> NoReturn:
        raise UsageError(AT_THE_SERVER)

    def __setitem__(self, _: Any, __: Any) -> NoReturn:
        raise UsageError(AT_THE_SERVER)

    def __delitem__(self, _: Any) -> NoReturn:
        raise UsageError(AT_THE_SERVER)

    def __iter__(self) -> Iterator[Any]:
        raise UsageError(AT_THE_SERVER)

    def __len__(self) -> int:
        raise UsageError(AT_THE_SERVER)


def keeps_state(settings: Mapping[str, Any]) -> bool:
    """Whether the server's optimizer has more than parameters, so that torch's would have a state.

    Args:
        settings: of the run, as the server tells them.
    """
    if takes_differences(dict(settings)):
        return bool(settings.get("outer_momentum"))
    return settings.get("optimizer") not in ("sgd", "sum") or bool(settings.get("momentum"))
