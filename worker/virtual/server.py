"""The server of a run in virtual time: the engine of a real one, carried by events."""

from collections import deque
from collections.abc import Callable
from typing import Final

from leash.ps.options.server import ServerOptions
from leash.ps.runs.rundir import RunDir
from leash.ps.server.run_engine import RunEngine
from leash.ps.server.shards.remote_shards import OnNotice, RemoteShard, RemoteShards
from leash.ps.shard.data_desk import memory_of
from leash.ps.wire.sockets import Payload
from leash.worker.virtual.network import Connection, Frames
from leash.worker.virtual.world import World

DATA_PORT: Final = 1  # no socket has it
FIRST_INCARNATION: Final = 1_000_000


class VirtualServer:
    """Carries messages between the network and the run's engine.

    Attributes:
        engine: what decides.
        is_over: whether the run is, and has left its files.
    """

    def __init__(
        self, world: World, options: ServerOptions, run_dir: RunDir, server_s: float,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Begins a run.

        Args:
            world: in whose time it runs.
            options: of the server.
            run_dir: where the run leaves its files.
            server_s: what the server works on a push of the whole model.
            say: shows a line.
        """
        self.is_over = False
        self._world: Final = world
        self._server_s: Final = server_s
        self._routes: Final[dict[bytes, Connection]] = {}
        self._held: Final[deque[tuple[Connection, Frames]]] = deque()
        self._free_s = 0.0  # when the server has worked on all that has come
        self._turn_s = 0.0  # when the engine has its next turn
        remote = RemoteShards(options, 0, self._no_shard)
        self.engine: Final = RunEngine(
            options, run_dir, remote, DATA_PORT, self._send, say=say, now=world.clock,
            uptime=world.clock, wall_time_us=lambda: FIRST_INCARNATION,
        )  # fmt: skip
        self._remote: Final = remote
        self._take_turns()

    def take_control(self, connection: Connection, frames: Frames) -> None:
        """Answers a control message.

        Args:
            connection: from which it has come.
            frames: of it.
        """
        _, header, payload = self.engine.answer(connection.route, bytes(frames[0]), frames[1:])
        connection.answer([header] if payload is None else [header, payload])
        self._advance()

    def take_data(self, connection: Connection, frames: Frames) -> None:
        """Takes a data message, on which the server works once it is free.

        Args:
            connection: from which it has come.
            frames: of it.
        """
        self._routes[connection.route] = connection
        now_s = self._world.now_s
        self._free_s = max(now_s, self._free_s) + self._work_s(frames)
        self._world.at(self._free_s, lambda: self._on_data(connection, frames))

    def close(self) -> None:
        """Ends the run, wherever it is, and closes all files; a second call does nothing."""
        if not self.is_over:
            self.is_over = True
            self.engine.write_results()
        self.engine.close()
        self._remote.close()

    # How it is done.

    def _work_s(self, frames: Frames) -> float:
        """What the server works on a message: on a push, by its share of the model."""
        model = self.engine.data.model
        if model is None or len(frames) < 2:
            return 0.0
        return self._server_s * min(1.0, len(frames[1]) / model.layout.nbytes)

    def _on_data(self, connection: Connection, frames: Frames) -> None:
        self._held.append((connection, frames))
        self._advance()

    def _send(self, route: bytes, header: bytes, payload: Payload, worker: int) -> None:
        frames: Frames = [header]
        if payload is not None:
            frames.append(bytes(memory_of(payload)))  # the shard goes on with its own memory
        self._routes[route].answer(frames)

    def _advance(self) -> None:
        """Hands the engine what has come, and gives it its turn."""
        engine = self.engine
        if self.is_over:
            return
        while self._held and not engine.is_held:
            connection, frames = self._held.popleft()
            engine.data.receive([connection.route, *frames])
        engine.advance()
        if self._held and not engine.is_held:
            self._world.at(self._world.now_s, self._advance)
        if engine.is_over:
            self.is_over = True
            engine.finish()
            engine.write_results()
            engine.give_up()  # nobody would make room in virtual time
        elif self._world.now_s + engine.wait_s < self._turn_s:
            self._take_turns()

    def _take_turns(self) -> None:
        """Gives the engine its turn after as long as it says, again and again."""
        due_s = self._turn_s = self._world.now_s + self.engine.wait_s

        def turn() -> None:
            if not self.is_over and due_s == self._turn_s:
                self._take_turns()
                self._advance()

        self._world.at(due_s, turn)

    @staticmethod
    def _no_shard(index: int, on_notice: OnNotice) -> RemoteShard:
        raise AssertionError(f"shard {index}: a run in virtual time has one shard")
