from dataclasses import FrozenInstanceError, fields

import pytest

from leash.ps.wire.messages import ANSWERS, CONTROL_REQUESTS, DATA_REQUESTS, Beat, Message

EVERY = (*CONTROL_REQUESTS, *DATA_REQUESTS, *ANSWERS)


def test_every_verb_is_used_once() -> None:
    verbs = [cls.verb for cls in EVERY]
    assert len(set(verbs)) == len(verbs)
    assert "" not in verbs


@pytest.mark.parametrize("cls", EVERY, ids=lambda cls: cls.verb)
def test_no_field_takes_the_name_of_the_version_or_the_verb(cls: type[Message]) -> None:
    assert not {f.name for f in fields(cls)} & {"v", "t"}


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Beat(1, 2).worker = 3  # type: ignore[misc]
