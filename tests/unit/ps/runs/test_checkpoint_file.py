"""A checkpoint's file that is written in parts is whole, and every checksum in it is right."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from leash.ps.runs.checkpoint_file import Bytes, CheckpointFile, Plan, Tensor, header_checksum
from leash.ps.wire.layout import Layout, Slot

LAYOUT = Layout([
    Slot("zeta", "f32", (5, 3)), Slot("none", "f32", (0, 4)), Slot("alpha", "f32", ()),
    Slot("wide", "f64", (3,)), Slot("mean", "f32", (2,), "buffer"),
])  # fmt: skip
STATES = ("exp_avg", "exp_avg_sq")


class Memory:
    """A file in memory."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.writes: list[tuple[int, int]] = []

    def write_at(self, offset: int, piece: Bytes) -> None:
        self.content.extend(bytes(max(0, offset + len(piece) - len(self.content))))
        self.content[offset : offset + len(piece)] = piece
        self.writes.append((offset, len(piece)))


def plan() -> Plan:
    arrays = [
        [
            (Tensor(prefix + slot.name, slot.dtype, slot.shape), start)
            for slot, start in zip(LAYOUT.slots, LAYOUT.offsets, strict=True)
            if not prefix or slot.kind == "parameter"
        ]
        for prefix in ("", *(f"{state}/" for state in STATES))
    ]
    return Plan({"leash_format": "2", "told": 'ä"'}, arrays)


def slabs() -> list[bytes]:
    """Every byte of every array is another one than its neighbours."""
    return [
        bytes((3 * byte + 7 * array) % 251 for byte in range(LAYOUT.nbytes)) for array in range(3)
    ]


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_the_library_reads_what_was_written_in_any_parts(sizes: list[int]) -> None:
    target, contents = Memory(), slabs()
    file, at, turn = CheckpointFile(plan(), target), [0, 0, 0], 0
    while any(place < LAYOUT.nbytes for place in at):
        array, turn = turn % 3, turn + 1
        stop = min(at[array] + sizes[turn % len(sizes)], LAYOUT.nbytes)
        file.write(array, at[array], memoryview(contents[array])[at[array] : stop])
        at[array] = stop
    file.finish()
    tensors = load(bytes(target.content))
    nbytes = int.from_bytes(target.content[:8], "little")
    metadata = json.loads(target.content[8 : 8 + nbytes])["__metadata__"]
    checksums = json.loads(metadata["checksums"])
    assert tensors.keys() == checksums.keys() == {tensor.name for tensor in plan().tensors}
    for array, prefix in enumerate(("", "exp_avg/", "exp_avg_sq/")):
        for slot, start in zip(LAYOUT.slots, LAYOUT.offsets, strict=True):
            if prefix and slot.kind == "buffer":
                assert prefix + slot.name not in tensors
                continue
            expected = contents[array][start : start + slot.nbytes]
            assert tensors[prefix + slot.name].tobytes() == expected
            assert checksums[prefix + slot.name] == hashlib.sha256(expected).hexdigest()
    assert metadata["told"] == 'ä"'
    assert header_checksum(metadata) == metadata["header_checksum"]
    assert target.writes[-1] == (0, 8 + nbytes)  # until then nobody takes the file for a whole one


def test_a_file_that_lacks_bytes_is_not_finished() -> None:
    file = CheckpointFile(plan(), Memory())
    file.write(0, 0, slabs()[0][:20])
    with pytest.raises(AssertionError, match="bytes are missing"):
        file.finish()


def test_a_plan_can_be_handed_to_another_process() -> None:
    again = Plan.from_json(plan().as_json())
    contents, files = slabs(), (Memory(), Memory())
    for told, target in zip((plan(), again), files, strict=True):
        file = CheckpointFile(told, target)
        for array in range(3):
            file.write(array, 0, contents[array])
        file.finish()
    assert files[0].content == files[1].content
    assert np.all(load(bytes(files[1].content))["alpha"].shape == ())
