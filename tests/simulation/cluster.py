"""Puts a simulated run together, lets it go to its end, and says whether all was right."""

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from leash.ps.errors import NotAllowedError
from leash.ps.policy import message_fields, rule_from_message
from leash.ps.shard.members import Member
from leash.ps.wire.frames import encode
from leash.ps.wire.messages import Dismiss, PushPull, Save, Set, Stop
from simulation.checks.book import Book
from simulation.checks.oracle import Wrong
from simulation.checks.permits import REFUSED
from simulation.checks.toy import LAYOUTS
from simulation.endings import require_right, waits_for_others
from simulation.faults import Fault, draw_faults
from simulation.machines.disk import MemoryDisk
from simulation.machines.keys import ADMIN, AS, NOBODY, Keys
from simulation.machines.network import DELAYS, Frames, Wire
from simulation.machines.server import SimulatedServer
from simulation.machines.strangers import (
    push_in_the_name_of,
    request_in_the_name_of,
    strange_message,
    strange_request,
)
from simulation.machines.worker import CONTROL, SimulatedWorker
from simulation.machines.world import Process, World
from simulation.scenario import KILLED, Scenario, draw, stream
from simulation.trace import Trace

LATE_S: Final = 10.0  # so long after the last fault nobody who is missing will come any more
LIMIT_S: Final = 700.0  # of virtual time in which a run ends once nothing goes wrong any more
LINGER_S: Final = 0.2  # the last answers have so long to leave
AGAIN_S: Final = 0.2  # a server that is killed as soon as it is back is started once more
GONE_S: Final = 30.0  # whoever still tries that long after the server has ended will try in vain
START_S: Final = 0.25  # so often somebody looks whether training has begun
SLACK_S: Final = 1.0  # eviction may take so much longer than the time that is set for it
SPOILING: Final = frozenset(("disk lost", "disk torn", "disk flipped"))
# What costs no worker its part, and no step.
HARMLESS: Final = frozenset(
    ("kill server", "kill shard", "cut", "slow", "save", "disk slow", "strange", "strange control")
)
CONSOLE: Final = b"console"  # the route of whoever sets the policy
REASONS: Final = ("", "too dear")
POLICIES: Final = ("bsp", "ssp", "asp", "dssp", "backup", "drop", "ssp")


class Failures(logging.Handler):
    """Keeps what a server logs when it fails at a message."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: Final[list[str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        failure = record.exc_info[1] if record.exc_info else None
        trace = traceback.format_exception(failure) if failure is not None else []
        self.told.append("".join([f"{record.getMessage()}\n", *trace]))


FAILURES: Final = Failures()
logging.getLogger("leash").addHandler(FAILURES)


@dataclass
class Outcome:
    """What one run came to."""

    scenario: Scenario
    faults: list[Fault]
    violation: str = ""
    ended: str = ""  # the server's word for the end of the run; empty if it was killed
    how: str = ""  # which of the right endings it was
    now_s: float = 0.0


class Cluster:
    """A server, workers, and the network between them."""

    def __init__(
        self, scenario: Scenario, faults: list[Fault], *, trace: Trace | None = None
    ) -> None:
        """Args:
        scenario: what runs.
        faults: what goes wrong.
        trace: takes a line for each event.
        """
        self.scenario: Final = scenario
        self.world: Final = World()
        self.trace: Final = trace
        self.faults: Final = faults
        self.happened: Final[set[str]] = set()  # the kinds of fault that did
        self.told_to_stop = False
        self._is_cut_short = False  # it was told to stop while it waited for its disk
        self.failure: Exception | None = None  # what a process of the server raised
        layout = LAYOUTS[scenario.layout]
        options = scenario.options()
        self.book: Final = Book(scenario, options.rule, layout, layout.cut(options.chunk_nbytes))
        self._routes: Final[dict[bytes, Wire]] = {}
        self._wires: Final[dict[int, list[Wire]]] = {}  # of each worker
        self._count = 0
        self._begins_again_s = 0.0  # a server that has lost a shard takes so long
        rng = stream(scenario.seed, "delay")
        self._delays: Final = [
            scenario.delay_s * (0.5 + rng.expovariate(2.0)) for _ in range(DELAYS)
        ]
        self._blocks: Final[dict[int, list[int]]] = {}  # of each worker: partitions up and down
        has_keys = bool(scenario.keys)
        self.keys: Final = (
            Keys(scenario.workers, by_file=scenario.keys == "file") if has_keys else None
        )
        process = Process(self.world, "server", began_s=1000.0)
        self.disk: Final = MemoryDisk(process.busy, process.after)
        self.server: Final = SimulatedServer(
            process, options, self.book, self.disk, self._forward,
            lambda text: self.say("server", text), self._on_server_end, self._on_shard_lost,
            self.keys, self._user_of,
        )  # fmt: skip
        numbers = stream(scenario.seed, "numbers")
        self.workers: Final = [
            SimulatedWorker(
                rank, Process(self.world, f"worker {rank}", rate=scenario.drift[rank - 1],
                              began_s=50.0 * rank),
                layout, scenario, self.book, self._connect,
                lambda: numbers.randrange(1, 1 << 62),
                lambda text, rank=rank: self.say(f"worker {rank}", text),  # type: ignore[misc]
                self._look_for_end,
            )
            for rank in range(1, scenario.workers + 1)
        ]  # fmt: skip

    def run(self) -> Outcome:
        """Lets the run go to its end."""
        outcome = Outcome(self.scenario, self.faults)
        FAILURES.told.clear()
        try:
            self.server.start()
            late = {fault.who for fault in self.faults if fault.kind in ("late", "come")}
            for worker in self.workers:
                if worker.machine not in late:
                    worker.start()
            last_s = self.scenario.span_s
            for fault in self.faults:
                self.world.at(fault.at_s, self._happen, fault)
                last_s = max(last_s, fault.at_s + sum(map(abs, fault.numbers)))
            self.world.at(last_s + LATE_S, self._end_if_nobody_comes)
            self.world.after(START_S, self._look_for_start)
            self.world.run(last_s + LIMIT_S)
            outcome.how = self._check_end()
        except Wrong as wrong:
            outcome.violation = str(wrong)
        except Exception as error:
            self.failure = error
            where = "".join(traceback.format_exception(error))
            outcome.violation = f"an engine raised {error!r}\n{where}"
        outcome.ended = self.server.ended
        outcome.now_s = self.world.now_s
        return outcome

    def say(self, who: str, text: str) -> None:
        """Adds a line to the trace."""
        if self.trace is not None:
            self.trace.tell(self.world.now_s, who, text)

    # The network.

    def _connect(
        self, client: Process, rank: int, port: int, take: Callable[[Frames], None],
        hear: Callable[[str], None],
    ) -> Wire:  # fmt: skip
        """Connects a worker with one of the server's sockets."""
        self._count += 1
        take_up: Callable[[tuple[bytes, Frames]], None]
        if port == CONTROL:
            process, take_up = self.server.process, self.server.take_control
        elif port == 0:
            process, take_up = self.server.process, self.server.take_data
        else:
            shard = self.server.shards[port - 1]
            process, take_up = shard.process, shard.take
        name = "control" if port == CONTROL else f"shard {port}"
        wire = Wire(
            self.world, client, process, name, self._delays, take_up, take, hear, self._count,
            self._routes, self.trace,
        )  # fmt: skip
        up, down = self._blocks.get(rank, (0, 0))
        wire.block(up=up, down=down)
        wire.is_control = port == CONTROL
        wire.user = self.keys.of(rank) if self.keys is not None else NOBODY
        wire.connect()
        wires = self._wires.setdefault(rank, [])
        wires[:] = [known for known in wires if not known.is_closed]
        wires.append(wire)
        return wire

    def _forward(self, route: bytes, frames: Frames) -> None:
        wire = self._routes.get(route)
        if wire is not None:
            wire.send_down(route, frames)

    def _user_of(self, route: bytes) -> str:
        """The key of who sends over this route."""
        if self.keys is None:
            return NOBODY
        if route == CONSOLE:
            return ADMIN
        return route[len(AS) :].decode() if route.startswith(AS) else self._routes[route].user

    def _on_server_end(self) -> None:
        self.world.after(LINGER_S, self._lose_wires, self.server.process)
        for shard in self.server.shards:
            self.world.after(LINGER_S, self._lose_wires, shard.process)
        self.world.after(GONE_S, self._end)
        self._look_for_end()

    def _on_shard_lost(self) -> None:
        self._lose_wires_of_server()
        self.world.after(self._begins_again_s, lambda _: self.server.begin_again())

    def _end(self, _: None) -> None:
        self.world.is_over = True

    def _look_for_start(self, could_before: bool | None = None) -> None:
        """Looks whether training has begun with as many workers as it is to, and no later."""
        run, least = self.server.run, self.scenario.least or self.scenario.workers
        if self.server.status is not None or self.book.generation > 1:
            return  # one that was started again goes on with whoever comes
        if run.metrics.started:
            if len(run.metrics.workers) < least:
                raise Wrong(f"training began with {len(run.metrics.workers)} of {least} workers")
            return
        could = len(run.members.live) >= least
        if could and could_before and not self.server.process.is_held_up:
            raise Wrong(f"{least} workers are here, and training does not begin")
        self.world.after(START_S, self._look_for_start, could)

    def _look_for_end(self) -> None:
        if self.server.status is not None and all(worker.has_ended for worker in self.workers):
            self.world.is_over = True

    def _end_if_nobody_comes(self, _: None) -> None:
        """Spares the wait for a run that waits for a worker which nobody will start again."""
        self.world.is_over = self.world.is_over or waits_for_others(self)

    # What goes wrong.

    def _happen(self, fault: Fault) -> None:
        if self.server.status is not None:
            return
        self.say("fault", str(fault))
        self.happened.add(fault.kind)
        method = fault.kind.replace(" ", "_")
        getattr(self, f"_do_{method}")(fault.who, *fault.numbers)

    def _do_cut(
        self, rank: int, which: float, spared_up: float, spared_down: float, back_s: float,
        late_s: float,
    ) -> None:  # fmt: skip
        wires = [wire for wire in self._wires.get(rank, []) if wire.is_up]
        if wires:
            wire = wires[int(which * len(wires))]
            wire.hears_late_s = late_s
            if wire.is_control:  # its driver has read what came before it hears of the loss
                spared_down = 0
            wire.lose(int(spared_up), int(spared_down), back_s)

    def _do_partition(self, rank: int, up: float, down: float, seconds: float) -> None:
        self._block(rank, int(up), int(down))
        self.world.after(seconds, lambda _: self._block(rank, -int(up), -int(down)))

    def _do_outage(
        self, rank: int, everybody: float, up: float, down: float, seconds: float
    ) -> None:
        ranks = [worker.machine for worker in self.workers] if everybody else [rank]
        for each in ranks:
            self._do_partition(each, up, down, seconds)

    def _block(self, rank: int, up: int, down: int) -> None:
        blocks = self._blocks.setdefault(rank, [0, 0])
        blocks[0] += up
        blocks[1] += down
        for wire in tuple(self._wires.get(rank, ())):  # what arrives now may make others
            wire.block(up=up, down=down)

    def _do_slow(self, rank: int, slow_s: float, seconds: float) -> None:
        for wire in self._wires.get(rank, []):
            wire.slow_s += slow_s
            self.world.after(seconds, lambda _, wire=wire: setattr(wire, "slow_s", 0.0))

    def _do_kill(self, rank: int, back_s: float, spared: float) -> None:
        worker = self.workers[rank - 1]
        if not worker.process.is_alive or worker.has_ended:
            return
        member = self._member_of(worker)
        worker.kill(int(spared))
        if member is not None:
            self._await_eviction(worker.rank, member.incarnation)
        if back_s >= 0:
            self.world.after(back_s, self._restart, worker)

    def _member_of(self, worker: SimulatedWorker) -> Member | None:
        """What the server knows of the newest process of a machine."""
        member = self.server.run.members.workers.get(worker.rank)
        is_its_own = member is not None and member.name == f"worker {worker.machine}"
        return member if is_its_own else None

    def _restart(self, worker: SimulatedWorker) -> None:
        if not worker.process.is_alive:
            self.say(worker.process.name, "is started again")
            worker.process.restart()
            worker.start()

    def _await_eviction(self, rank: int, incarnation: int, limit_s: float | None = None) -> None:
        """Looks, once the time for it has passed, whether a dead worker was evicted.

        Args:
            rank: of the worker.
            incarnation: of its process.
            limit_s: the time; by default that of silence.
        """
        server, began_s = self.server, self.world.now_s
        held_up_s = server.held_up_s
        wait_s = self.scenario.evict_s if limit_s is None else limit_s

        def look(_: None) -> None:
            if server.status is not None or not server.process.is_alive or server.run.is_writing:
                return
            # What comes from the dead in a pause is heard after it, and the pause is excused too.
            more_s = 2 * (server.held_up_s - held_up_s)
            due_s = began_s + wait_s + SLACK_S + more_s + self._slowest_s
            if self.world.now_s < due_s - 1e-6:
                self.world.at(due_s, look)
                return
            member = server.run.members.workers.get(rank)
            if member is not None and (member.incarnation, member.state) == (incarnation, "live"):
                raise Wrong(f"worker {rank} has been dead for {due_s - began_s:.1f} s, and others "
                            "still wait for it")  # fmt: skip

        self.world.after(wait_s + SLACK_S, look)

    @property
    def _slowest_s(self) -> float:
        """How long a message of a dead process may still be on its way."""
        return max(self._delays) + sum(
            abs(number) for fault in self.faults if fault.kind in ("slow", "partition", "outage")
            for number in fault.numbers
        )  # fmt: skip

    def _do_pause(self, rank: int, seconds: float) -> None:
        self._pause(self.workers[rank - 1].process, seconds)

    def _do_pause_server(self, _: int, seconds: float) -> None:
        self._pause(self.server.process, seconds)

    def _do_pause_shard(self, index: int, seconds: float) -> None:
        if index <= len(self.server.shards):
            self._pause(self.server.shards[index - 1].process, seconds)

    def _pause(self, process: Process, seconds: float) -> None:
        process.pause(seconds)

    def _do_go(self, rank: int, back_s: float) -> None:
        worker = self.workers[rank - 1]
        worker.is_told_to_go = True
        if back_s >= 0:
            worker.comes_back_s = back_s

    def _do_leave(self, rank: int, back_s: float) -> None:
        worker = self.workers[rank - 1]
        member = self._member_of(worker)
        if member is None or member.state != "live" or not worker.process.is_alive:
            return
        self._console(Dismiss(worker.rank))
        if back_s >= 0:
            worker.comes_back_s = back_s

    def _do_come(self, rank: int) -> None:
        if rank:
            self._begin(self.workers[rank - 1])

    def _do_late(self, rank: int, seconds: float) -> None:
        worker = self.workers[rank - 1]
        if worker.has_never_begun:
            self.world.after(seconds, self._begin, worker)

    def _begin(self, worker: SimulatedWorker) -> None:
        if worker.has_never_begun:
            worker.start()

    def _do_set(self, _: int, place: float, limit: float, more: float) -> None:
        policy, limit = POLICIES[int(place)], int(limit)
        unit = "versions" if int(place) == 6 and self.scenario.layout == 0 else "clocks"
        message = Set(
            policy,
            limit if policy in ("ssp", "dssp", "drop") else 0,
            limit + int(more) if policy == "dssp" else 0,
            1 if policy == "backup" else 0,
            unit if policy == "ssp" else "clocks",
        )
        self._console(message)

    def _do_save(self, _: int) -> None:
        self._console(Save(1 + self._count))

    def _console(self, message: Any) -> None:
        process = self.server.process
        process.take(self.server.take_control, (CONSOLE, [encode(message)]))

    def _do_strange(self, rank: int, choice: float, number: float, which: float) -> None:
        watches = [self.server.watch, *(shard.watch for shard in self.server.shards)]
        watch = watches[int(which * len(watches))]
        worker = self.workers[rank - 1]
        member, rank = self._member_of(worker), worker.rank
        process = watch.process
        if not watch.chunks or member is None or worker.has_ended or not process.is_alive:
            return
        if not worker.process.is_alive or process.is_held_up:
            return
        chunk = max(watch.chunks.values(), key=lambda naive: naive.chunk.index).chunk
        clock = watch.chunks[chunk.index].clocks.get(rank, 0)
        honest = PushPull(rank, member.incarnation, clock + 1, chunk.index, chunk.dtype, 1)
        route = b"stranger" if self.keys is None else AS + self.keys.of(rank).encode()
        watch.receive_strange(route, strange_message(honest, chunk.nbytes, choice, number))

    def _do_strange_control(self, rank: int, choice: float, number: float, _: float) -> None:
        worker = self.workers[rank - 1]
        member, rank = self._member_of(worker), worker.rank
        process = self.server.process
        if member is None or member.state != "live" or not process.is_idle:
            return
        if not worker.process.is_alive:
            return  # its incarnation would be a sign of life
        layout = self.book.layout
        frames = strange_request(layout, rank, member.incarnation, choice, number)
        self.server.take_strange(frames, NOBODY if self.keys is None else self.keys.of(rank))

    def _do_wrong_key(self, rank: int, choice: float, number: float, which: float) -> None:
        """A message in a worker's name, or to change the run, by each key that is not for it."""
        member, permits = self.server.run.members.workers.get(rank), self.server.permits
        process = self.server.process
        if self.keys is None or permits is None or member is None or not process.is_idle:
            return
        layout, incarnation = self.book.layout, member.incarnation
        header, frames = request_in_the_name_of(layout, rank, incarnation, choice, number)
        for key in self.keys.all:
            if self.server.status is None and permits.may(header, key) is False:
                self.server.take_control((AS + key.encode(), frames))
        watches = [self.server.watch, *(shard.watch for shard in self.server.shards)]
        watch = watches[int(which * len(watches))]
        if not watch.chunks or not watch.process.is_alive or watch.process.is_held_up:
            return
        chunk = max(watch.chunks.values(), key=lambda naive: naive.chunk.index).chunk
        clock = watch.chunks[chunk.index].clocks.get(rank, 0)
        header, frames = push_in_the_name_of(rank, incarnation, clock + 1, chunk, choice)
        for key in self.keys.all:
            if permits.may(header, key) is False:
                watch.receive_strange(AS + key.encode(), frames, REFUSED)

    def _do_revoke_key(self, rank: int, back_s: float) -> None:
        """A worker's key is taken back, and it may get another one and begin anew."""
        worker, keys = self.workers[rank - 1], self.keys
        if keys is None or not keys.is_let_in(rank):
            return
        keys.revoke(rank)
        worker.lacks_key = True
        member = self.server.run.members.workers.get(rank)
        if member is not None:
            self._await_eviction(rank, member.incarnation, limit_s=0.0)
        if back_s >= 0:
            self.world.after(back_s, self._renew_key, worker)

    def _renew_key(self, worker: SimulatedWorker) -> None:
        """Gives a worker another key, and begins it anew unless it has ended for another reason."""
        assert self.keys is not None
        self.keys.renew(worker.rank)
        worker.lacks_key = False
        could_not_tell = worker.is_done and not worker.has_told
        is_refused = could_not_tell or isinstance(worker.failure, NotAllowedError)
        has_left = worker.has_ended and worker.process.is_alive and not is_refused
        if worker.has_never_begun or has_left or self.server.status is not None:
            return
        self.say(worker.process.name, "is started again, with another key")
        if worker.process.is_alive:
            worker.kill(0)
        worker.process.restart()
        worker.start()

    def _do_kill_shard(self, index: int, begins_again_s: float) -> None:
        self._begins_again_s = begins_again_s
        if index <= len(self.server.shards):
            shard = self.server.shards[index - 1]
            shard.process.kill()
            self._lose_wires(shard.process)
            self.server.process.take(self.server.attend, None)

    def _do_kill_server(
        self, rank: int, back_s: float, again_s: float, with_s: float, worker_back_s: float,
        save_s: float,
    ) -> None:  # fmt: skip
        if not self.server.process.is_alive:
            return
        if with_s >= 0:
            self.world.after(with_s, lambda _: self._do_kill(rank, worker_back_s, 0))
        if back_s >= 0 and save_s >= 0:
            self.world.after(back_s + save_s, lambda _: self._do_save(0))
        self._kill_server(back_s, again_s)

    def _kill_server(self, back_s: float, again_s: float) -> None:
        self.server.kill()
        self._lose_wires_of_server()
        if back_s >= 0:
            self.world.after(back_s, self._restart_server, again_s)
        else:
            self.server.status = KILLED

    def _restart_server(self, again_s: float) -> None:
        self.say("server", "is started again")
        self.server.restart()
        if again_s >= 0:
            self.world.after(again_s, self._kill_again, self.server.process.life)

    def _kill_again(self, life: int) -> None:
        server = self.server
        if server.status is None and server.process.is_alive and server.process.life == life:
            self.say("fault", "the server is killed again")
            self._kill_server(again_s=-1.0, back_s=AGAIN_S)

    def _lose_wires_of_server(self) -> None:
        for process in (self.server.process, *(s.process for s in self.server.shards)):
            self._lose_wires(process)

    def _lose_wires(self, process: Process) -> None:
        for wires in self._wires.values():
            for wire in wires:
                if wire.server is process:
                    wire.lose()

    def _do_ask_to_stop(self, _: int, which: float) -> None:
        self._note_told_to_stop()
        self._console(Stop(REASONS[int(which)]))

    def _do_stop_server(self, _: int) -> None:
        if self.server.process.is_alive:
            self._note_told_to_stop()
            self.server.run.stop_soon(15)

    def _note_told_to_stop(self) -> None:
        self.told_to_stop = True
        self._is_cut_short |= self.server.run.is_writing

    def _do_disk_slow(self, _: int, place: float, seconds: float, slow_s: float) -> None:
        self.disk.slow_s = slow_s
        self.world.after(seconds, lambda _: setattr(self.disk, "slow_s", 0.0))

    def _do_disk_full(self, _: int, place: float, seconds: float, __: float) -> None:
        self._spoil("full", place, seconds)

    def _do_disk_lost(self, _: int, place: float, seconds: float, __: float) -> None:
        self._spoil("lost", place, seconds)

    def _do_disk_torn(self, _: int, place: float, seconds: float, __: float) -> None:
        self._spoil("torn", place, seconds)

    def _do_disk_flipped(self, _: int, place: float, seconds: float, __: float) -> None:
        self._spoil("flipped", place, seconds)

    def _spoil(self, fault: str, place: float, seconds: float) -> None:
        self.disk.fault, self.disk.place = fault, place
        self.world.after(seconds, lambda _: setattr(self.disk, "fault", ""))

    # The end.

    @property
    def _has_lost_nothing(self) -> bool:
        """Whether all workers have taken part from the first step to the last."""
        is_whole = all(worker.is_done and not worker.has_lost_steps for worker in self.workers)
        return is_whole and self.happened <= HARMLESS

    def _check_end(self) -> str:
        server = self.server
        if FAILURES.told:
            raise Wrong(FAILURES.told[0])
        how = require_right(self)
        if server.ended and not self.happened & SPOILING and not self._is_cut_short:
            server.check_final()
        if not self.faults:
            self.book.check_samples(exactly_once=True)
            if self.scenario.is_exact:
                self.book.check_bsp()
        elif server.ended == "done":
            self.book.check_samples(exactly_once=False)
            if self.scenario.is_exact and self._has_lost_nothing:
                self.book.check_bsp()
        if self.scenario.adds_up and "set" not in self.happened:
            for naive in server.chunks.values():
                if naive.values is not None and naive.chunk.kind == "parameter":
                    self.book.check_once(naive.chunk, naive.values)
        return how


def simulate(
    seed: int, *, faults: list[Fault] | None = None, trace: Trace | None = None, **fixed: Any
) -> Outcome:
    """Simulates the run of a seed.

    Args:
        seed: of everything.
        faults: what goes wrong, instead of what the seed says.
        trace: takes a line for each event.
        fixed: parts of the scenario that are not drawn; see `scenario.draw`.
    """
    scenario = draw(seed, **fixed)
    happens = draw_faults(scenario) if faults is None else faults
    return Cluster(scenario, happens, trace=trace).run()


__all__ = ["Cluster", "Outcome", "message_fields", "rule_from_message", "simulate"]
