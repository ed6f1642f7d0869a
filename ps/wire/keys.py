"""Keys: who may take part in a run, in files that people understand.

::

    KEYS/              a folder that `leash keys new` makes; 0700
      server.key       the server's own; it stays at the server
      worker-1.key     one for each process: it goes to that process's machine, and to no other
      observer.key     for who only reads; `leash evaluate`
      admin.key        for who may also change, save and stop the run; `leash set`, `leash stop`
      allowed          who is let in, a line for each: name, role, rank or -, public key

A server needs server.key and allowed alone. Each .key file is a certificate as zmq.auth writes and
reads them: a pair of CURVE keys in Z85, and before it a few lines for people, with the server's
public key among them. Without that a client could not know the server.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from leash.ps.errors import UsageError
from leash.ps.words import KEY_VARIABLE

SERVER: Final = "server"  # the name of the server's own key
ALLOWED: Final = "allowed"
NO_RANK: Final = "-"

Role: TypeAlias = Literal["worker", "observer", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_Z85: Final = r"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}"
_FIELD: Final = re.compile(rf'^\s*([a-z-]+) = "({_Z85})"\s*$', re.MULTILINE)
_LINE: Final = re.compile(rf"(\S+)\s+({'|'.join(ROLES)})\s+(-|\d{{1,10}})\s+({_Z85})")
_ABOUT_ALLOWED: Final = """\
# Who is let in: name, role, rank or -, public key. `leash keys add` and `leash keys revoke` write
# here, and a server that runs goes by it within a second. A worker without a rank takes one with
# its first hello, and keeps it.
"""
_ABOUT_KEY: Final = """\
# A key of Leash, in the form of zmq.auth. Whoever has this file is {who}.
# Bring it to that machine over a way that you trust, and show it to nobody.
metadata
    name = "{name}"
    role = "{role}"
    server-key = "{server}"
curve
    public-key = "{public}"
    secret-key = "{secret}"
"""


@dataclass(frozen=True, slots=True)
class ClientKey:
    """What a client has: its own pair of keys, and the public key of its server. All in Z85."""

    public: str
    secret: str = field(repr=False)
    server: str


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """Somebody who is let in."""

    name: str
    role: Role
    rank: int | None  # of a worker whose key is for one rank alone
    public: str

    def __str__(self) -> str:
        return f"{self.role} key {self.name}"


class Keyring:
    """The keys of a server: its own, and those that it lets in.

    Attributes:
        public: of the server.
        secret: of the server.
        holders: who is let in, by public key. Each `refresh` that finds others makes a new map.
    """

    def __init__(self, folder: str) -> None:
        """Reads a folder of keys.

        Raises:
            UsageError: it has none, or a line or a file is wrong.
        """
        self._folder: Final = Path(folder)
        own = _read_key(self._folder / f"{SERVER}.key")
        self.public: Final = own["public-key"]
        self.secret: Final = own["secret-key"]
        self._seen = self._stamp()
        self.holders: dict[str, KeyHolder] = self._read()

    def refresh(self) -> None:
        """Reads again who is let in, if the file has changed; one that cannot be read is left."""
        try:
            stamp = self._stamp()
            if stamp != self._seen:
                self.holders, self._seen = self._read(), stamp
        except UsageError:
            return  # it is being written, or its reader is about to be told by `leash keys list`

    def _read(self) -> dict[str, KeyHolder]:
        return {holder.public: holder for holder in read_allowed(self._folder)}

    def _stamp(self) -> tuple[int, int, int]:
        try:
            found = os.stat(self._folder / ALLOWED)
        except OSError as error:
            raise _unusable(self._folder, error) from error
        return found.st_mtime_ns, found.st_ino, found.st_size


# What a client does.


def key_for(path: "str | os.PathLike[str] | None") -> ClientKey | None:
    """The key of a process: of this file, or of the one that LEASH_KEY names; None without both.

    Raises:
        UsageError: the file has no such key, or others of this host may read it.
    """
    path = path or os.environ.get(KEY_VARIABLE) or None
    if path is None:
        return None
    return _client_key(Path(path).expanduser())


def _client_key(place: Path) -> ClientKey:
    found = _read_key(place)
    if "server-key" not in found:
        raise UsageError(f"key {place}: is the server's own; give the one that leash keys new or "
                         "leash keys add made for this process")  # fmt: skip
    return ClientKey(found["public-key"], found["secret-key"], found["server-key"])


def _read_key(path: Path) -> dict[str, str]:
    try:
        text, mode = path.read_text("utf-8"), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"key {path}: {why}; leash keys new DIR makes keys") from error
    if mode & 0o007:
        raise UsageError(f"key {path}: everybody on this host may read it; chmod 600 {path}")
    found = dict(_FIELD.findall(text))
    if not {"public-key", "secret-key"} <= found.keys():
        raise UsageError(f"key {path}: has no pair of keys in it; leash keys new DIR makes some")
    return found


# What the owner of a folder does.


def read_allowed(folder: Path) -> list[KeyHolder]:
    """Those whom a folder of keys lets in, in the order of its lines.

    Raises:
        UsageError: there is no such file, or a line of it is wrong.
    """
    try:
        lines = (folder / ALLOWED).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(folder, error) from error
    return list(_holders(folder, lines))


def _holders(folder: Path, lines: list[str]) -> Iterator[KeyHolder]:
    names, keys = set[str](), set[str]()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("# "):
            continue
        place = f"{folder / ALLOWED}, line {number}"
        if (found := _LINE.fullmatch(line.strip())) is None:
            raise UsageError(f"{place}: expected name, role ({', '.join(ROLES)}), rank or "
                             f"{NO_RANK}, public key")  # fmt: skip
        name, role, rank, public = found.groups()
        if name in names or public in keys:
            raise UsageError(f"{place}: this name or key stands there twice; remove one")
        names.add(name)
        keys.add(public)
        yield KeyHolder(name, _role(role), None if rank == NO_RANK else int(rank), public)


def _role(word: str) -> Role:
    return next(role for role in ROLES if role == word)


def new_keys(folder: Path, workers: int) -> list[Path]:
    """Makes a folder with keys for a server, its workers, an observer and an admin.

    Returns:
        The files that go to others.

    Raises:
        UsageError: the folder has keys already, or cannot be made.
    """
    if (folder / ALLOWED).exists() or (folder / f"{SERVER}.key").exists():
        raise UsageError(f"{folder}: has keys already; leash keys add {folder} NAME adds one")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        public, secret = _pair()
        _write(folder / f"{SERVER}.key", _server_text(public, secret))
        _write(folder / ALLOWED, _ABOUT_ALLOWED)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}; take another folder") from error
    made = [add_key(folder, f"worker-{n}", "worker") for n in range(1, workers + 1)]
    return [*made, add_key(folder, "observer", "observer"), add_key(folder, "admin", "admin")]


def add_key(folder: Path, name: str, role: Role, rank: int | None = None) -> Path:
    """Adds a key to a folder.

    Args:
        folder: that `new_keys` has made.
        name: for people; also the name of the file.
        role: what its holder may do.
        rank: of a worker, to keep it for that rank; None for the rank of its first hello.

    Returns:
        The file that goes to the holder.

    Raises:
        UsageError: the name is taken or none, another key has that rank, or the folder has no keys.
    """
    if not _NAME.fullmatch(name) or name == SERVER:
        raise UsageError(f"{name}: give a name of letters, digits, dots and dashes, "
                         f"other than {SERVER}")  # fmt: skip
    holders, server = read_allowed(folder), _read_key(folder / f"{SERVER}.key")["public-key"]
    if any(holder.name == name for holder in holders):
        raise UsageError(
            f"{name}: {folder} has a key of this name; take another name, or revoke it"
        )
    if taken := [h.name for h in holders if rank is not None and h.rank == rank]:
        raise UsageError(f"--rank {rank}: the key {taken[0]} has it; take another rank")
    public, secret = _pair()
    holder, path = KeyHolder(name, role, rank, public), folder / f"{name}.key"
    text = _ABOUT_KEY.format(
        who=f"the {role} {name}", name=name, role=role, server=server, public=public, secret=secret
    )
    try:
        _write(path, text)
        _write_allowed(folder, [*holders, holder])
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; take another name, or remove it") from error
    return path


def revoke_key(folder: Path, name: str) -> None:
    """Lets the holder of this key in no more, and removes the file if it is still here.

    Raises:
        UsageError: the folder has no such key.
    """
    holders = read_allowed(folder)
    left = [holder for holder in holders if holder.name != name]
    if len(left) == len(holders):
        known = ", ".join(holder.name for holder in holders) or "none"
        raise UsageError(f"{name}: no key of this name; {folder} lets in: {known}")
    _write_allowed(folder, left)
    (folder / f"{name}.key").unlink(missing_ok=True)


def key_files(folder: str, role: Role) -> list[str]:
    """The key files of this role that are still in a folder, in the order of its lines.

    Raises:
        UsageError: the folder has no keys.
    """
    return [path for _, path in _files(folder, role)]


def admin_key(folder: str) -> ClientKey:
    """The key by which whoever has started a server asks it.

    Raises:
        UsageError: the folder has no file of an admin's key.
    """
    files = key_files(folder, "admin")
    if not files:
        raise UsageError(f"--keys {folder}: has no file of an admin's key, by which to ask the "
                         f"server; leash keys add {folder} NAME --role admin adds one")  # fmt: skip
    return _client_key(Path(files[0]))


def worker_files(folder: str, workers: int) -> list[str]:
    """A key file for each rank from 1 to `workers`, of those that are still in a folder.

    Raises:
        UsageError: they are too few, or the folder has no keys.
    """
    files = _files(folder, "worker")
    by_rank = {holder.rank: path for holder, path in files if holder.rank is not None}
    free = (path for holder, path in files if holder.rank is None)
    found = [by_rank.get(rank) or next(free, "") for rank in range(1, workers + 1)]
    if not all(found):
        raise UsageError(
            f"--keys {folder}: has too few files of workers' keys for --workers {workers}; leash "
            f"keys add {folder} NAME adds one"
        )
    return found


def files_for_workers(folder: str, workers: int, most: int | None = None) -> list[str]:
    """What a launcher hands to its workers, by rank. Makes a folder that is not there.

    Args:
        folder: of the keys.
        workers: how many it starts.
        most: how many may take part, if these are more: a folder that is made has keys for all.

    Raises:
        UsageError: the folder has too few keys of workers, or no admin's, or their files are
            elsewhere.
    """
    if not Path(folder).exists():
        new_keys(Path(folder), max(workers, most or 0))
    admin_key(folder)
    return worker_files(folder, workers)


def _files(folder: str, role: Role) -> list[tuple[KeyHolder, str]]:
    place = Path(folder)
    named = [(h, place / f"{h.name}.key") for h in read_allowed(place) if h.role == role]
    return [(holder, str(path)) for holder, path in named if path.exists()]


def _write_allowed(folder: Path, holders: list[KeyHolder]) -> None:
    width = max((len(holder.name) for holder in holders), default=0)
    lines = [
        f"{h.name:<{width}} {h.role:<8} {NO_RANK if h.rank is None else h.rank} {h.public}\n"
        for h in holders
    ]
    beside = folder / f"{ALLOWED}.new"
    beside.unlink(missing_ok=True)
    _write(beside, _ABOUT_ALLOWED + "".join(lines))
    beside.replace(folder / ALLOWED)


def _server_text(public: str, secret: str) -> str:
    text = _ABOUT_KEY.format(who="the server", name=SERVER, role=SERVER, server="",
                             public=public, secret=secret)  # fmt: skip
    return "".join(line for line in text.splitlines(keepends=True) if "server-key" not in line)


def _write(path: Path, text: str) -> None:
    """Writes a new file that nobody else may read, from its first byte on."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _pair() -> tuple[str, str]:
    """A new pair of keys: the public one, and the secret one."""
    import zmq  # the options of all commands import this module, and few of them make keys

    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def _unusable(folder: Path, error: OSError | UnicodeDecodeError) -> UsageError:
    why = getattr(error, "strerror", None) or "it is no text"
    return UsageError(f"--keys {folder}: {folder / ALLOWED}: {why}; leash keys new {folder} makes "
                      "keys")  # fmt: skip
