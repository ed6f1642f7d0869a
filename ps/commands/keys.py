"""`leash keys`: makes, lists and revokes the keys by which a server knows who may take part."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from leash.ps.options.commands import KeysOptions
from leash.ps.wire.keys import NO_RANK, add_key, new_keys, read_allowed, revoke_key


def run(options: KeysOptions) -> int:
    """Does what was asked with a folder of keys; returns the exit status.

    Raises:
        UsageError: the folder has no keys, or has some already; or a name is taken, or unknown.
    """
    _ACTIONS[options.action](options, Path(options.folder))
    return 0


def _new(options: KeysOptions, folder: Path) -> None:
    files = new_keys(folder, options.workers)
    print(f"made {folder}: {len(files)} keys, and the server's own")
    print(f"at the server:    leash server --keys {folder} ...")
    print(f"bring to each worker one file of its own, such as {files[0]}, and there:")
    print(f"                  leash worker --key {files[0].name} ...")
    print("who only watches: leash evaluate --key observer.key; who changes the run: "
          "leash set --key admin.key")  # fmt: skip


def _add(options: KeysOptions, folder: Path) -> None:
    path = add_key(folder, options.name, options.role, options.rank)
    print(f"made {path}: bring it to the {options.role}'s machine; a running server takes it")


def _list(_: KeysOptions, folder: Path) -> None:
    holders = read_allowed(folder)
    width = max((len(holder.name) for holder in holders), default=0)
    for holder in holders:
        rank = NO_RANK if holder.rank is None else holder.rank
        here = "" if (folder / f"{holder.name}.key").exists() else "  (its file is elsewhere)"
        print(f"{holder.name:<{width}}  {holder.role:<8}  rank {rank}  {holder.public}{here}")


def _revoke(options: KeysOptions, folder: Path) -> None:
    revoke_key(folder, options.name)
    print(f"revoked {options.name}: a running server lets it in no more, and evicts it")


_ACTIONS: Final[dict[str, Callable[[KeysOptions, Path], None]]] = {
    "new": _new, "add": _add, "list": _list, "revoke": _revoke,
}  # fmt: skip
