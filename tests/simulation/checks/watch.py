"""Stands between a shard and the network, and holds what the shard does against the naive model.

::

    network ──message──▸ Watch ──▸ shard's desk ──answers──▸ Watch ──▸ network
                           └─▸ NaiveChunk ◂── compared ──┘
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgpack
import numpy as np

from leash.ps.policy import Rule
from leash.ps.wire.layout import Chunk
from simulation.checks.oracle import NaiveChunk, Released, Wrong, naive_values
from simulation.checks.permits import REFUSED
from simulation.checks.toy import Values
from simulation.machines.network import Frames

if TYPE_CHECKING:
    from simulation.checks.book import Book
    from simulation.checks.permits import Permits
    from simulation.machines.world import Process

Sent = tuple[bytes, bytes, Any]  # route, header, payload
OUTBOX: Final = -1  # in place of a slab


class Watch:
    """Watches one shard."""

    def __init__(
        self, shard: int, book: "Book", forward: Callable[[bytes, Frames], None],
        process: "Process", user_of: Callable[[bytes], str], permits: "Permits | None" = None,
    ) -> None:  # fmt: skip
        """Args:
        shard: its number.
        book: knows what the workers pushed, and their memory.
        forward: brings an answer to the network.
        process: of the shard.
        user_of: gives the key of who sends over a route; empty without keys.
        permits: knows whose key may do what; None without keys.
        """
        self.shard: Final = shard
        self.process: Final = process
        self.chunks: dict[int, NaiveChunk] = {}
        self._book: Final = book
        self._forward: Final = forward
        self._user_of: Final = user_of
        self._permits: Final = permits
        self._sent: list[Sent] = []
        self.on_start: Callable[[], None] = lambda: None  # called when training begins here
        self._attached: dict[int, bytes] = {}  # worker ▸ the route that its segment came over
        self._has: dict[tuple[int, int], int] = {}  # 1 more than the version that it said to have
        self._slabs: dict[tuple[int, int], int] = {}  # (worker, chunk) ▸ slab of its newest push
        self._rule: Rule = book.scenario_rule
        self._desk: Any = None
        self._members: Any = None
        self._metrics: Any = None
        self._stopping = False
        self._heals = False  # whether it takes what workers offer
        self._newest_offer: tuple[bytes, Frames] | None = None

    def send(self, route: bytes, header: bytes, payload: Any, _: int) -> None:
        """What the desk sends through."""
        self._sent.append((route, header, payload))

    def go_by(self, rule: Rule) -> None:
        """Goes by this rule from the beginning on."""
        self._rule = rule

    @property
    def rule(self) -> Rule:
        """The rule that the shard goes by."""
        return self._rule

    def bind(self, desk: Any, members: Any, metrics: Any) -> None:
        """Begins to watch this desk."""
        self._desk, self._members, self._metrics = desk, members, metrics
        for name in (
            "admit", "join", "leave", "set_rule", "give_up_rounds", "stop", "begin_healing",
            "skip_healed", "start",
        ):  # fmt: skip
            setattr(desk, name, self._around(getattr(desk, name), getattr(self, f"_{name}")))
        if desk.model is not None:  # of a checkpoint
            self._adopt()
        self._heals = desk._healing is not None

    # Messages.

    def receive(self, route: bytes, frames: Frames) -> None:
        """Hands a worker's message to the shard, and what the shard answers to the network."""
        header = msgpack.unpackb(frames[0])
        verb = header["t"]
        if self._permits is not None and self._is_refused(self._permits, route, header, frames):
            return
        if verb == "push_pull":
            self._on_push(route, header, frames)
            return
        payload = frames[1] if len(frames) > 1 else None
        self._hand(route, frames)
        touched: list[NaiveChunk] = []
        if verb == "pull":
            touched = self._on_pull(header)
        elif verb == "init":
            self._on_init(header, payload)
        elif verb == "offer":
            self._newest_offer = route, frames
            self._on_offer(header, payload)
        elif verb == "attach":
            self._on_attach(route, header)
        self._settle(touched)

    def _is_refused(
        self, permits: "Permits", route: bytes, header: dict[str, Any], frames: Frames
    ) -> bool:
        """Whether the message of a worker was not allowed, by its key, and so was refused."""
        may = permits.may(header, self._user_of(route))
        if may is None and not self._is_current(header["worker"], header["incarnation"]):
            may = False
        if may is False:
            self.receive_strange(route, frames, REFUSED)
        return may is False

    def receive_strange(self, route: bytes, frames: Frames, code: str = "") -> None:
        """Hands a message to the shard that it has to refuse; nothing may change.

        Args:
            route: over which it comes.
            frames: of it.
            code: with which it has to be refused; empty for any.
        """
        before = self.digest()
        header, *payloads = frames
        self._hand(route, [header, *map(bytearray, payloads)])
        if self.digest() != before:
            raise Wrong(f"a message that is not honest changed something: {frames[0]!r}")
        sent, self._sent = self._sent, []
        answers = [_decoded(header) for _, header, _ in sent]
        verbs = [answer["t"] for answer in answers]
        if verbs != ["error"]:
            raise Wrong(f"answered {verbs} to a message that is to be refused: {frames[0]!r}")
        if code and answers[0]["code"] != code:
            raise Wrong(f"refused with {answers[0]['code']} instead of {code}: {frames[0]!r}")
        self._send(sent)

    def digest(self) -> Any:
        """Everything that a message may change, as the shard itself tells it."""
        model = self._desk.model
        if model is None:
            return None
        shard, found = model.shard, []
        workers = shard.workers()
        for chunk in model.own:
            values = bytearray(chunk.nbytes)
            if shard.initialized(chunk.index):
                shard.pull(chunk.index, None, values)
            clocks = [shard.clock(chunk.index, worker) for worker in workers]
            found.append((values, shard.version(chunk.index), shard.minimum(chunk.index), clocks))
        return workers, found, shard.parked(), self._desk.parked

    def _hand(self, route: bytes, frames: Frames) -> None:
        self._desk.receive([route, *frames], self._user_of(route))

    def _on_push(self, route: bytes, header: dict[str, Any], frames: Frames) -> None:
        worker, incarnation, step = header["worker"], header["incarnation"], header["step"]
        last, count = header["chunk"], header.get("chunks", 1)
        is_ours = self._is_current(worker, incarnation) and not self._stopping
        payload = frames[1] if len(frames) > 1 else None
        is_nothing = payload is None and "absent" in header
        if payload is None and (not is_nothing or worker in self._attached):
            is_ours = is_ours and self._attached.get(worker) == route
        is_ours = is_ours and self._metrics.started
        new: list[tuple[NaiveChunk, Values | None]] = []
        touched: list[NaiveChunk] = []
        refused: list[int] = []
        for index in range(last, last - count, -1):
            naive = self.chunks.get(index)
            if naive is None or not is_ours or naive.why_refused(worker, step):
                refused.append(index)
            elif naive.clocks[worker] + 1 == step:
                new.append((naive, self._gradient(naive, header, payload, is_nothing)))
            else:
                touched.append(naive)
            if payload is None and is_ours:
                self._slabs[worker, index] = header.get("slab", 0)
                self._has[worker, index] = header.get("has", 0)
        self._hand(route, frames)
        if refused:
            self._require_refused(refused, header)
        for naive in touched:
            naive.push_again(worker, step)
        for naive, gradient in new:
            naive.push(worker, step, header["samples"], gradient)
            touched.append(naive)
            if naive.chunk.index == 0:
                self._book.note_taken(worker, incarnation, step)
        self._settle(touched)

    def _gradient(
        self, naive: NaiveChunk, header: dict[str, Any], payload: Any, is_nothing: bool
    ) -> Values | None:
        """Reads the gradient of a new push; Wrong if it is not what its worker has computed."""
        chunk, codec, worker = naive.chunk, header["codec"], header["worker"]
        gradients = self._book.gradients_of(worker, header["incarnation"], header["step"])
        if is_nothing != (gradients.values[chunk.index] is None):
            raise Wrong(f"chunk {chunk.index}, worker {worker}, step {header['step']}: pushed "
                        "a gradient that there is not, or none where there is one")  # fmt: skip
        if is_nothing:
            return None
        if payload is None:
            nbytes = header.get("nbytes", 0)
            payload = self._memory_at(
                worker, chunk, header.get("slab", 0) if not nbytes else OUTBOX, nbytes
            )
        if codec == "topk":
            return naive_values(codec, payload, chunk)
        intended = gradients.values[chunk.index]
        assert intended is not None
        if codec == chunk.dtype:
            is_right = payload == gradients.raw[chunk.index]
        else:
            is_right = np.array_equal(naive_values(codec, payload, chunk), intended)
        if not is_right:
            raise Wrong(
                f"chunk {chunk.index}, worker {worker}, step {header['step']}: pushed\n"
                f"  {naive_values(codec, payload, chunk).tolist()}\nbut computed\n"
                f"  {intended.tolist()}"
            )
        return intended

    def _memory_at(self, worker: int, chunk: Chunk, slab: int, nbytes: int = 0) -> bytes:
        """What lies in a worker's memory: a chunk in a slab, or its payload in the outbox."""
        memory = self._book.memory_of(worker)
        if slab == OUTBOX:
            at = memory.places.outbox(chunk.index, chunk.start)
        else:
            at, nbytes = memory.places.slab(slab) + chunk.start, chunk.nbytes
        return memory.bytes[at : at + nbytes].tobytes()

    def _require_refused(self, chunks: list[int], header: dict[str, Any]) -> None:
        worker, step = header["worker"], header["step"]
        for _, sent, _ in self._sent if chunks else ():
            answer = _decoded(sent)
            about = (answer.get("worker"), answer.get("step"))
            if answer["t"] == "params" and about == (worker, step) and answer["chunk"] in chunks:
                raise Wrong(f"answered a push that is to be refused: {header}")

    def _on_pull(self, header: dict[str, Any]) -> list[NaiveChunk]:
        worker, index = header["worker"], header["chunk"]
        naive = self.chunks.get(index)
        answers = [
            (answer, payload) for _, sent, payload in self._sent
            if (answer := _decoded(sent))["t"] == "params" and answer["step"] == 0
        ]  # fmt: skip
        if not answers or naive is None:
            return []
        answer, payload = answers[0]
        if answer["version"] != naive.version:
            raise Wrong(f"chunk {index}: pulled version {answer['version']}, "
                        f"should be {naive.version}")  # fmt: skip
        naive.check(payload, answer["codec"])
        self._book.note_answer(worker, 0, index, naive.version, bytes(payload))
        naive.pull(worker)
        return [naive]

    def _on_init(self, header: dict[str, Any], payload: bytes | None) -> None:
        answer = _decoded(self._sent[0][1])
        naive = self.chunks.get(header["chunk"])
        if answer["t"] != "ok" or naive is None:
            return
        if answer["taken"] != (naive.values is None):
            raise Wrong(f"chunk {naive.chunk.index}: an init was taken, or not, wrongly")
        if answer["taken"]:
            naive.values = naive_values(naive.chunk.dtype, payload, naive.chunk).copy()

    def _on_offer(self, header: dict[str, Any], payload: Any) -> None:
        answer, worker = _decoded(self._sent[0][1]), header["worker"]
        is_taken = answer["t"] == "ok"
        if is_taken != self._is_current(worker, header["incarnation"]):
            raise Wrong(f"worker {worker}: an offer was answered {answer}")
        if not is_taken:
            return
        naive = self.chunks[header["chunk"]]
        label = header["generation"], header["version"], header["step"]
        self._book.check_offer(worker, naive.chunk.index, label, bytes(payload))
        values = naive_values(naive.chunk.dtype, payload, naive.chunk).copy()
        if answer["taken"] != (self._heals and naive.heal(*label, values)):
            raise Wrong(f"chunk {naive.chunk.index} has version {naive.version} of generation "
                        f"{naive.generation}, and {label} was taken, or not, wrongly")  # fmt: skip

    def _on_attach(self, route: bytes, header: dict[str, Any]) -> None:
        if _decoded(self._sent[0][1])["t"] == "attached":
            self._attached[header["worker"]] = route

    def _is_current(self, worker: int, incarnation: int) -> bool:
        member = self._members.workers.get(worker)
        return member is not None and member.incarnation == incarnation and member.state == "live"

    # What the coordinator decides.

    def _around(self, method: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            done = method(*arguments)
            note(*arguments)
            return done

        return watched

    def _admit(self, _: int) -> None:
        if not self.chunks:
            self._adopt()

    def _begin_healing(self, _: int) -> None:
        self._heals = True

    def _skip_healed(self) -> None:
        for naive in self.chunks.values():
            naive.skip_healed()

    def _start(self) -> None:
        self._heals = False
        self.on_start()
        for naive in self.chunks.values():
            naive.generation = self._book.generation
        if self._newest_offer is not None:
            self._receive_late(*self._newest_offer)

    def _receive_late(self, route: bytes, frames: Frames) -> None:
        """Hands an offer to the shard that was long on its way; nothing may change."""
        before, sent = self.digest(), self._sent
        self._sent = []
        header = msgpack.unpackb(frames[0])
        header["version"] += 1  # which nobody else had
        member = self._members.workers[header["worker"]]
        heard_s = member.heard_s
        self._hand(route, [msgpack.packb(header), *map(bytearray, frames[1:])])
        member.heard_s = heard_s  # it is no sign of life
        answers, self._sent = [_decoded(header) for _, header, _ in self._sent], sent
        if self.digest() != before or any(answer.get("taken") for answer in answers):
            raise Wrong(f"an offer that came after the recovery was answered {answers}")

    def _join(self, worker: int, first_step: int) -> None:
        if not self.chunks:
            self._adopt()
        for naive in self.chunks.values():
            naive.join(worker, first_step - 1)
        self._settle([*self.chunks.values()])

    def _leave(self, worker: int) -> None:
        self._attached.pop(worker, None)
        self._book.note_left(worker)
        if 0 in self.chunks:
            for request in self.chunks[0].requests:
                if request.worker == worker and request.contributes:
                    self._book.note_left_out(worker, request.step)
        for naive in self.chunks.values():
            naive.leave(worker)
        self._settle([*self.chunks.values()])

    def _set_rule(self, rule: Rule) -> None:
        self._rule = rule
        for naive in self.chunks.values():
            naive.set_rule(rule)
        self._settle([*self.chunks.values()])

    def _give_up_rounds(self) -> None:
        clocks: dict[int, int] = {}
        for naive in self.chunks.values():
            for worker, clock in naive.clocks.items():
                clocks[worker] = max(clock, clocks.get(worker, 0))
        for naive in self.chunks.values():
            naive.give_up_rounds(clocks)
        self._settle([*self.chunks.values()])

    def _stop(self, _: str) -> None:
        self._stopping = True
        answers = [_decoded(header) for _, header, _ in self._sent]
        told = {
            (answer["chunk"], answer["worker"], answer["step"]) for answer in answers
            if answer["t"] == "error" and answer["code"] == "stopping"
        }  # fmt: skip
        for index, naive in self.chunks.items():
            for request in naive.requests:
                if request.awaits and (index, request.worker, request.step) not in told:
                    raise Wrong(f"chunk {index}: worker {request.worker} is not told that the run "
                                f"is stopping, though it waits at step {request.step}")  # fmt: skip
            naive.stop()
        self._settle([])

    def _adopt(self) -> None:
        """Begins with the chunks as they are."""
        model = self._desk.model
        for chunk in model.own:
            naive = NaiveChunk(chunk, self._rule)
            if model.shard.initialized(chunk.index):
                naive.is_rounded, naive.generation = True, self._book.resumed.get(chunk.index, 0)
                out = bytearray(chunk.nbytes)
                naive.version = model.shard.pull(chunk.index, None, out)[0]
                naive.values = naive_values(chunk.dtype, out, chunk).copy()
            naive.floor = model.shard.minimum(chunk.index)
            self.chunks[chunk.index] = naive

    # What follows.

    def _settle(self, touched: list[NaiveChunk]) -> None:
        """Checks what the shard has sent about these chunks, and sends it on."""
        sent, self._sent = self._sent, []
        released: dict[int, list[Released]] = {}
        noted: list[tuple[int, int, int, bytes | None]] = []
        for _, header, payload in sent:
            answer = _decoded(header)
            if answer["t"] == "params" and answer["step"]:
                self._note_released(answer, payload, released, noted)
        for naive in touched:
            naive.settle(released.pop(naive.chunk.index, []))
        for index, answers in released.items():
            self.chunks[index].settle(answers)
        for worker, step, index, plain in noted:
            self._book.note_answer(worker, step, index, self.chunks[index].version, plain)
        self._send(sent)

    def _note_released(
        self, answer: dict[str, Any], payload: Any, released: dict[int, list[Released]],
        noted: list[tuple[int, int, int, bytes | None]],
    ) -> None:  # fmt: skip
        worker, step, last = answer["worker"], answer["step"], answer["chunk"]
        count, codec = answer.get("chunks", 1), answer["codec"]
        for index in range(last, last - count, -1):
            chunk = self.chunks[index].chunk
            if answer.get("unchanged"):
                raw, plain = None, None
                if self._has.get((worker, index), 0) != answer["version"] + 1:
                    raise Wrong(f"chunk {index}, worker {worker}: unchanged at version "
                                f"{answer['version']}, but it had another one")  # fmt: skip
            elif payload is not None:
                raw = bytes(payload)
            else:
                raw = self._memory_at(worker, chunk, self._slabs[worker, index])
            if raw is not None:
                plain = raw if codec == chunk.dtype else naive_values(codec, raw, chunk).tobytes()
            noted.append((worker, step, index, plain))
            answers = released.get(index)
            if answers is None:
                answers = released[index] = []
            answers.append(
                Released(worker, step, answer["version"], answer["lag"], answer["staleness"],
                         count > 1, raw, codec)
            )  # fmt: skip

    def _send(self, sent: list[Sent]) -> None:
        for route, header, payload in sent:
            self._forward(route, [header] if payload is None else [header, payload])


def _decoded(header: bytes) -> dict[str, Any]:
    decoded: dict[str, Any] = msgpack.unpackb(header)
    return decoded
