"""The names `ps` and `worker`, which people used before there was a `leash`.

`worker` and `leash.worker` are then one module, and so is everything below them: no class exists
twice. Nothing of Leash imports these names.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Final

_PREFIX: Final = "leash."


def alias(name: str) -> None:
    """From now on, importing the package of this name imports that of Leash."""
    sys.modules[name] = importlib.import_module(_PREFIX + name)
    sys.meta_path.insert(0, _Finder(name))


class _Finder(MetaPathFinder):
    def __init__(self, name: str) -> None:
        self._below: Final = name + "."

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # What `python -m` runs is a module of its own, and found as any other file.
        if not name.startswith(self._below) or name.endswith(".__main__"):
            return None
        found = find_spec(_PREFIX + name)
        if found is None:
            return None
        spec = ModuleSpec(name, _Loader(), origin=found.origin)
        spec.submodule_search_locations = found.submodule_search_locations
        return spec


class _Loader(Loader):
    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(_PREFIX + module.__name__)
