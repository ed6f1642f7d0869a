"""Finds the libzmq that pyzmq has loaded, whose functions the lanes in C++ use."""

import sys

import zmq
import zmq.backend

from leash.ps import _core


def why_plain() -> str | None:
    """Why the functions of libzmq cannot be used; None if they can."""
    try:
        _core.find_libzmq(library())
    except (RuntimeError, OSError) as error:
        return str(error)
    return None


def library() -> str:
    """The path of pyzmq's shared object, which has loaded libzmq."""
    backend = sys.modules[zmq.backend.Socket.__module__]
    return getattr(backend, "__file__", None) or ""
