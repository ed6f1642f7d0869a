"""The training side of Leash: models, and the folders of client, optimizer, trainer, data and EM.

Imports: the optimizer, for `PSOptimizer`; options and the command line.
"""

from typing import TYPE_CHECKING, Any

if __name__ == "worker":  # the folder, found from the root of a checkout
    from leash._alias import alias

    alias(__name__)

if TYPE_CHECKING:
    from leash.worker.optim.optimizer import PSOptimizer

__all__ = ["PSOptimizer"]


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import, so it is imported only for those who ask for the optimizer.
    if name == "PSOptimizer":
        from leash.worker.optim.optimizer import PSOptimizer

        return PSOptimizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
