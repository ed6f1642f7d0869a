"""What a host is asked before a launch: a program that its Python reads from standard input.

It needs nothing of Leash, and no newer Python than 3.6, so that it can say what is missing. It
changes nothing on the host.
"""

import importlib
import json
import os
import platform
import shutil
import socket
import sys
from typing import Any

MARK = "leash-check "  # begins the line with the answer; a login may have printed others
TRY_S = 3.0  # a port that does not take a connection in this time counts as closed


def found_here(asked: "dict[str, Any]") -> "dict[str, Any]":
    """What this host has of what was asked for."""
    expanded = os.path.expanduser
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "directory": os.path.isdir(expanded(asked["directory"])),
        "missing": [path for path in asked["paths"] if not os.path.exists(expanded(path))],
        "rsync": shutil.which("rsync") is not None,
        **packages_here(),
        **way_to_the_server(asked),
    }


def packages_here() -> "dict[str, Any]":
    """Which Leash and which torch this Python has."""
    found = {"leash": "", "wire": 0, "leash_error": "", "torch": ""}  # type: dict[str, Any]
    try:
        found["leash"] = importlib.import_module("leash._version").__version__
        found["wire"] = importlib.import_module("leash.ps.wire.frames").VERSION
        importlib.import_module("leash.ps._core")
    except Exception as error:
        found["leash_error"] = f"{type(error).__name__}: {error}"
    try:
        found["torch"] = importlib.import_module("importlib.metadata").version("torch")
    except ImportError:  # there is no torch, or this Python is too old to say so
        found["torch"] = ""
    return found


def way_to_the_server(asked: "dict[str, Any]") -> "dict[str, Any]":
    """The first address at which all ports take a connection, and why those before it do not."""
    why = []  # type: list[str]
    for address in asked["addresses"]:
        complaints = (why_closed(address, port, asked["token"]) for port in asked["ports"])
        complaint = next(filter(None, complaints), "")
        if not complaint:
            return {"address": address, "why": why}
        why.append(complaint)
    return {"address": "", "why": why}


def why_closed(address: str, port: int, token: str) -> str:
    """Why a port is not the one that is looked for; empty where it is."""
    place = f"{address}:{port}"
    told = b""
    try:
        with socket.create_connection((address.strip("[]"), port), TRY_S) as connection:
            while len(told) < len(token):
                part = connection.recv(1024)
                if not part:
                    break
                told += part
    except OSError as error:
        return f"{place}: {error.strerror or error}"
    return "" if told == token.encode() else f"{place}: somebody else answers"


def answer_to(asked: "dict[str, Any]") -> None:
    """Prints what this host has, in one line."""
    sys.path = [place for place in sys.path if place]  # not a user's own random.py
    print(MARK + json.dumps(found_here(asked)))
