"""Gradients in shared memory: what may be attached, what may be pushed, and what is left behind.

The peers know pyzmq and msgpack, and make their segments from docs/wire-format.md, section 14.
"""

import gc
import itertools
import math
import mmap
import signal
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from leash.ps.errors import UsageError
from leash.ps.wire.layout import Layout, Slot
from leash.worker.client import Client
from leash.worker.client.memory import SlabMemory
from support.contract import (
    CHUNK_NBYTES,
    LR,
    NONCE,
    OUTBOX,
    PAGE,
    PAGES,
    PLAIN_NBYTES,
    SEALED,
    SLAB,
    U32,
    Attack,
    Pair,
    Worker,
    joined,
    packed,
    segment,
)
from support.peers import Header, peers
from support.processes import pusher, server_process
from support.servers import serving


def pushed(worker: Worker, step: int, **fields: Any) -> Header:
    return worker.push(0, step, **fields)


def test_the_server_tells_what_it_reads_in_the_segment(attack: Attack) -> None:
    with segment() as (fields, _):
        answer, payload = attack.data.ask(attack.worker.header("attach", **fields))
    assert (answer["t"], answer["nonce"], payload) == ("attached", NONCE.hex(), None)


def test_memory_whose_nonce_the_worker_does_not_know_is_refused(attack: Attack) -> None:
    with segment() as (fields, memory):
        for guess in ("", "00" * 16, NONCE.hex()[:-1], NONCE.hex().upper()):
            request = attack.worker.header("attach", **{**fields, "nonce": guess})
            answer, _ = attack.data.ask(request)
            assert answer["code"] == "bad_segment"
            assert NONCE.hex() not in answer["text"]
        memory[PAGE : PAGE + CHUNK_NBYTES] = packed(0, 3.0)
        push = pushed(attack.worker, attack.worker.step + 1)
        refused = attack.data.error(push)  # an earlier test may have attached over another socket
        assert refused in ("bad_segment", "superseded")
        assert memory[PAGE : PAGE + CHUNK_NBYTES] == packed(0, 3.0)


def test_the_memory_of_one_worker_is_not_attached_for_another(pair: Pair) -> None:
    with segment() as (fields, _):
        pair.first.data.ask(pair.first.header("attach", **fields))
        assert pair.second.data.error(pair.second.header("attach", **fields)) == "bad_segment"
        pair.first.control.ask(pair.first.header("bye", reason="stopped"))
        taken = pair.second.header("attach", **fields)  # it is nobody's any more
        assert pair.second.data.ask(taken)[0]["t"] == "attached"


@pytest.mark.parametrize(
    ("nbytes", "seals"),
    [
        (PLAIN_NBYTES - PAGE, SEALED), (PAGE, SEALED), (PLAIN_NBYTES + PAGE, SEALED),
        (PLAIN_NBYTES, 0), (PLAIN_NBYTES, 1 | 4), (PLAIN_NBYTES, 1 | 2), (PLAIN_NBYTES, 2 | 4),
    ],
)  # fmt: skip
def test_a_segment_too_small_or_not_sealed_is_refused(
    attack: Attack, nbytes: int, seals: int
) -> None:
    with segment(nbytes, seals) as (fields, _):
        for told in (nbytes, PLAIN_NBYTES):
            request = attack.worker.header("attach", **{**fields, "nbytes": told})
            assert attack.data.error(request) == "bad_segment"


def test_a_segment_that_is_gone_or_is_something_else_is_refused(attack: Attack) -> None:
    with segment() as (fields, _):
        places = [{"pid": 2**31 - 1}, {"fd": 2**31 - 1}, {"pid": 0}, {"fd": 0}, {"fd": 1}]
        wrong = [{**fields, **place} for place in places]
    with open("/dev/zero", "rb") as device, open(__file__, "rb") as file:
        wrong += [fields, {**fields, "fd": device.fileno()}, {**fields, "fd": file.fileno()}]
        for place in wrong:
            assert attack.data.error(attack.worker.header("attach", **place)) == "bad_segment"


def test_a_push_without_payload_and_without_segment_is_refused() -> None:
    settings: dict[str, Any] = {"workers": 1, "lr": LR, "chunk_kib": 64}
    with serving(**settings) as running, peers(running.address, running.data_address) as sockets:
        worker = joined(running, 1, *sockets)
        worker.init()
        assert worker.data.error(pushed(worker, 1)) == "bad_segment"
        worker.require_unchanged()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"slab": 2}, "bad_segment"),
        ({"chunks": 0}, "bad_header"),
        ({"chunks": 2}, "bad_header"),  # chunk 0 and the one before it
        ({"chunks": 2**62}, "bad_header"),
        ({"nbytes": CHUNK_NBYTES}, "bad_segment"),  # there is no outbox
        ({"codec": "f64"}, "bad_header"),
        ({"codec": "zip"}, "bad_header"),
        ({"chunk": 7}, "unknown_chunk"),
    ],
)
def test_a_push_of_memory_that_is_not_there_is_refused(
    attack: Attack, fields: dict[str, Any], code: str
) -> None:
    with segment() as (place, _):
        attack.data.ask(attack.worker.header("attach", **place))
        push = {**pushed(attack.worker, attack.worker.step + 1), **fields}
        assert attack.data.error(push) == code


def test_a_payload_may_not_name_memory_too(attack: Attack) -> None:
    for fields in ({"slab": 1}, {"chunks": 2}, {"nbytes": 1}):
        push = pushed(attack.worker, attack.worker.step + 1, **fields)
        assert attack.data.error(push, packed(0, 1.0)) == "bad_header"


def test_a_copy_over_another_connection_is_refused_and_writes_nothing(attack: Attack) -> None:
    worker = attack.worker
    with segment() as (fields, memory), peers(attack.running.data_address) as (newer,):
        attack.data.ask(worker.header("attach", **fields))
        newer.ask(worker.header("attach", **fields))
        memory[PAGE : PAGE + CHUNK_NBYTES] = packed(0, 3.0)
        assert attack.data.error(pushed(worker, worker.step + 1)) == "superseded"
        assert memory[PAGE : PAGE + CHUNK_NBYTES] == packed(0, 3.0)


def test_an_attach_that_comes_late_is_refused(attack: Attack) -> None:
    worker = attack.worker
    with segment() as (fields, _), peers(attack.running.data_address) as (newer,):
        newer.ask(worker.header("attach", **fields, number=2))
        late = worker.header("attach", **fields, number=1)
        assert attack.data.error(late) == "superseded"
        assert attack.data.error(pushed(worker, worker.step + 1)) == "superseded"
        assert newer.ask(worker.header("attach", **fields, number=3))[0]["number"] == 3


@pytest.mark.parametrize("slab", [0, 1])
def test_the_parameters_take_the_place_of_the_gradient(slab: int) -> None:
    settings: dict[str, Any] = {"workers": 1, "lr": LR, "chunk_kib": 64}
    with serving(**settings) as running, peers(running.address, running.data_address) as sockets:
        worker = joined(running, 1, *sockets)
        worker.init()
        with segment() as (fields, memory):
            worker.data.ask(worker.header("attach", **fields))
            at = PAGE + slab * PAGES
            memory[at : at + CHUNK_NBYTES] = packed(0, 0.25)
            answer, payload = worker.data.ask(pushed(worker, 1, slab=slab))
            assert (answer["t"], payload) == ("params", None)
            assert memory[at : at + CHUNK_NBYTES] == packed(0, 1.0 - LR * 0.25)
            other = PAGE + (1 - slab) * PAGES
            assert memory[other : other + SLAB] == bytes(SLAB)


def test_neighbours_are_pushed_and_answered_together() -> None:
    layout = Layout([Slot("w", "f32", (5 * CHUNK_NBYTES // 4,))])
    with serving(lr=1.0, chunk_kib=64, policy="asp") as running:
        client = Client(running.address, layout, rank=1, transport="shm")
        client.begin(client.slabs[1])
        client.slabs[0].view("<f4")[:] = np.arange(layout.nbytes // 4)
        info = client.push_pull(client.slabs[0], client.slabs[0], samples=1)
        np.testing.assert_array_equal(
            client.slabs[0].view("<f4"), -np.arange(layout.nbytes // 4, dtype="<f4")
        )
        assert (info.step, info.version) == (1, 1)
        assert running.settled().summary()["refused_messages"] == 0
        client.close()


def test_memory_that_changes_meanwhile_gives_other_numbers_and_nothing_worse(
    attack: Attack,
) -> None:
    """A worker writes to its gradient while the server reads it."""
    settings: dict[str, Any] = {"workers": 1, "lr": LR, "chunk_kib": 64, "nonfinite": "skip"}
    with serving(**settings) as running, peers(running.address, running.data_address) as sockets:
        worker = joined(running, 1, *sockets)
        worker.init()
        with segment() as (fields, memory):
            worker.data.ask(worker.header("attach", **fields))
            for step in range(1, 50):
                worker.data.send(pushed(worker, step))
                memory[PAGE : PAGE + CHUNK_NBYTES] = struct.pack("<f", float(step)) * 16384
                assert worker.data.receive()[0]["t"] == "params"
        assert running.settled().summary()["refused_messages"] == 0


def _flipping(
    memory: mmap.mmap, places: list[int], rows: list[tuple[int, ...]]
) -> Callable[[], None]:
    """Writes each row of words to the places, in turn, from a thread. Returns what ends that."""
    ended = threading.Event()

    def flip() -> None:
        for row in itertools.cycle(rows):
            for at, word in zip(places, row, strict=True):
                struct.pack_into("<I", memory, at, word)
            if ended.is_set():
                return

    thread = threading.Thread(target=flip)
    thread.start()

    def end() -> None:
        ended.set()
        thread.join()

    return end


NAN = 0x7FC00000
TOPK = struct.pack("<2I2f", 3, 5, math.nan, math.nan)
INT8 = struct.pack("<I256f", 64, *[1.0] * 256) + bytes(16384)


@pytest.mark.parametrize(
    ("codec", "payload", "places", "rows"),
    [
        # Indices, while their values are NaN, so that the server looks for their slot.
        ("topk", TOPK, [0], [(3,), (U32 - 1,), (4,), (CHUNK_NBYTES,)]),
        ("topk", TOPK, [0, 4], [(3, 5), (U32 - 2, U32 - 1), (5, 3), (6, 7)]),
        # The block that says where everything else lies, and scales.
        ("int8", INT8, [0], [(64,), (128,), (1,), (0,)]),
        ("int8", INT8, [4, 8], [(NAN, 0), (0, NAN)]),
        ("bf16", bytes(2 * 16384), [0, 32764], [(NAN, 0), (0, 1)]),
        ("f16", bytes(2 * 16384), [0, 32764], [(NAN, 0), (0, 1)]),
    ],
    ids=["topk, an index", "topk, both", "int8, its block", "int8, scales", "bf16", "f16"],
)
@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_a_payload_that_flips_while_it_is_read_ends_no_server(
    codec: str,
    payload: bytes,
    places: list[int],
    rows: list[tuple[int, ...]],
    nonfinite: str,
) -> None:
    settings: dict[str, Any] = {"workers": 1, "lr": LR, "chunk_kib": 64, "nonfinite": nonfinite}
    outbox_nbytes = -(-(SLAB + 64 * (SLAB // CHUNK_NBYTES + 4)) // PAGE) * PAGE
    with serving(**settings) as running, peers(running.address, running.data_address) as sockets:
        worker = joined(running, 1, *sockets)
        worker.init()
        with segment(PLAIN_NBYTES + outbox_nbytes) as (fields, memory):
            worker.data.ask(worker.header("attach", **fields))
            at = OUTBOX  # the outbox begins with chunk 0's payload
            memory[at : at + len(payload)] = payload
            end = _flipping(memory, [at + place for place in places], rows)
            try:
                step = 1
                for _ in range(100):
                    push = {**pushed(worker, step, nbytes=len(payload)), "codec": codec}
                    answer, _ = worker.data.ask(push)
                    code = answer.get("code")
                    assert (answer["t"], code) in [
                        ("params", None), ("error", "bad_payload"), ("error", "nonfinite"),
                    ]  # fmt: skip
                    step += code != "bad_payload"
            finally:
                end()
            # However often the sender's changes were met, the server takes what is written now.
            memory[at : at + len(payload)] = payload
            push = {**pushed(worker, step, nbytes=len(payload)), "codec": codec}
            assert worker.data.ask(push)[0].get("code") in (None, "nonfinite")
        assert running.settled().summary()["failed_messages"] == 0


def test_without_shared_memory_auto_says_so_in_one_line_and_shm_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout, said = Layout([Slot("w", "f32", (4,))]), []  # type: Layout, list[str]
    with serving() as running:
        memory = SlabMemory(layout.nbytes)
        memory.close()  # its descriptor is gone, as in another container
        monkeypatch.setattr(memory, "fd", 2**30)
        with pytest.raises(UsageError, match=r"transport='shm': .*; take auto or tcp"):
            Client(running.address, layout, rank=1, transport="shm", memory=memory)
        client = Client(running.address, layout, rank=1, memory=memory, say=said.append)
        monkeypatch.setattr(memory, "fd", None)
        client.begin(np.zeros(layout.nbytes, np.uint8))
        gradients = np.ones(4, "<f4").view(np.uint8)
        assert client.push_pull(gradients, gradients, samples=1).step == 1
        assert client.transport.name == "tcp"
        assert len(said) == 1
        assert said[0].startswith("no shared memory with this server, so TCP: ")
        client.close()


def test_memory_of_another_process_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server finds a segment of the right size under that number, but not this one."""
    layout, said = Layout([Slot("w", "f32", (4,))]), []  # type: Layout, list[str]
    memory, other = SlabMemory(layout.nbytes), SlabMemory(layout.nbytes)
    with serving() as running:
        mine = memory.fd
        monkeypatch.setattr(memory, "fd", other.fd)
        client = Client(running.address, layout, rank=1, memory=memory, say=said.append)
        assert client.transport.name == "tcp"
        assert "other memory" in said[0]
        client.close()
        monkeypatch.setattr(memory, "fd", mine)
    memory.close()
    other.close()


def test_a_worker_killed_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    before = names_in_shm()
    with (
        server_process(
            tmp_path / "run", "--workers=2", "--policy=asp", "--evict-s=1", "--rejoin-s=1"
        ) as (server, address),
        pusher(address, 1, steps=10**6, step_s=0.001) as first,
        pusher(address, 2, steps=50, step_s=0.001) as second,
    ):  # fmt: skip
        first.read_until("step 5 ")
        assert names_in_shm() <= before
        first.process.send_signal(signal.SIGKILL)
        assert second.wait() == 0, second.lines
        server.read_until("ended")
        assert server.wait() == 1  # what the first had still to do is missing
    assert names_in_shm() <= before


def names_in_shm() -> set[Path]:
    """But for those of data loaders, which other tests may use at the same time."""
    return {
        path for path in Path("/dev/shm").iterdir() if not path.name.startswith(("sem.", "torch_"))
    }


def test_memory_goes_with_the_worker_that_left() -> None:
    layout = Layout([Slot("w", "f32", (CHUNK_NBYTES,))])

    def mapped() -> int:
        maps = psutil.Process().memory_maps(grouped=False)
        return sum("memfd:leash" in place.path for place in maps)

    gc.collect()  # what other tests left behind, so that no collection comes between the counts
    gc.disable()  # both sides let go at once, not when the interpreter looks for circles
    try:
        start = mapped()
        with serving(workers=2) as running:
            for rank in (1, 2, 1, 2):  # each later one takes the place of an earlier one
                client = Client(running.address, layout, rank=rank, transport="shm")
                assert mapped() == start + 2
                client.close("stopped")
                assert mapped() == start + 1  # the client's, still to be read
                del client
                assert mapped() == start
    finally:
        gc.enable()
