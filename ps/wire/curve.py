"""Encrypts and authenticates the sockets of both sides by CURVE: see leash.ps.wire.keys.

::

    DEALER ── CURVE: HELLO, WELCOME, INITIATE ──▸ ROUTER of a server with keys
                                                    │ ZAP: may this public key come in?
                                                  Doorman ─▸ 200 and the key as User-Id, or 400

libzmq refuses whoever has no key, or not the server's. Every message that comes in has its sender's
public key as its User-Id, which nobody can choose.
"""

import time
from contextlib import suppress
from typing import Final

import zmq
from zmq.auth import Authenticator

from leash.ps.wire.keys import ClientKey, Keyring

DOMAIN: Final = "leash"  # by which libzmq and the doorman know that the same sockets are meant
USER_ID: Final = "User-Id"
REFRESH_S: Final = 1.0  # a running server looks so often who is let in
NEWCOMERS: Final = 16  # that are answered in a row, before messages have their turn


def secure_client(socket: zmq.Socket[bytes], key: ClientKey) -> None:
    """Has a DEALER connect by this key, and to its server alone."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, key.server.encode())
    socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())


def sender_of(frame: zmq.Frame) -> str:
    """The public key of whoever has sent this frame to a socket that a doorman guards."""
    user = frame.get(USER_ID)
    assert isinstance(user, str)
    return user


class Doorman(Authenticator):
    """Lets into a server's sockets those whose keys it knows. Their intakes count the others.

    It has no thread: the server's loop polls `socket`, and calls `attend`.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keyring: Keyring) -> None:
        """Begins to answer for all sockets of this context that `guard` is called for.

        Args:
            context: of the sockets.
            keyring: who is let in.
        """
        super().__init__(context)
        self._keyring: Final = keyring
        self._refresh_at_s = 0.0
        self.configure_curve_callback(DOMAIN, self)
        self.start()

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Has a ROUTER take encrypted connections of known keys alone. Call it before it binds."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._keyring.secret.encode())
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN.encode())
        # Without this, libzmq would let everybody in where no doorman is.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """What to poll: it is readable when there is something for `attend`."""
        assert self.zap_socket is not None
        return self.zap_socket

    def attend(self) -> None:
        """Answers for newcomers. Never waits."""
        self._look_at_keys()
        for _ in range(NEWCOMERS):
            try:
                asked = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            answering = self.handle_zap_message(asked)
            with suppress(StopIteration):  # a coroutine that has nothing to wait for
                answering.send(None)

    def callback(self, domain: str, key: bytes) -> bool:
        """Says whether a newcomer is let in: `Authenticator` asks.

        Args:
            domain: of the socket.
            key: the newcomer's public key, in Z85.
        """
        return domain == DOMAIN and key.decode() in self._keyring.holders

    def close(self) -> None:
        """Closes what it has made itself. Call it before the context ends."""
        self.stop()

    def _look_at_keys(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._refresh_at_s:
            self._refresh_at_s = now_s + REFRESH_S
            self._keyring.refresh()
