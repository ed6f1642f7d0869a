"""Checks control messages for what depends on more than one field, or on what the server is."""

from typing import Final

from leash.ps.errors import HeaderError, LayoutError, PayloadSizeError, UsageError, shown
from leash.ps.options.optimizer import optimizer_on_server
from leash.ps.options.rule import check_softens
from leash.ps.options.server import ServerOptions
from leash.ps.policy import Rule, rule_from_message
from leash.ps.wire.codecs import CODECS
from leash.ps.wire.messages import STACK_MAX_NBYTES, Hello, Report, Set

REPORT_KINDS: Final = ("plan", "training", "epoch", "evaluation")


def require_role(msg: Hello, payload: bytes | None) -> None:
    """Checks that a hello is a worker's with a rank and a layout, or an observer's.

    Raises HeaderError, LayoutError.
    """
    is_right = (msg.worker == 0) if msg.role == "observer" else bool(msg.worker or msg.any_rank)
    if msg.role not in ("worker", "observer") or not is_right:
        raise HeaderError(
            "hello: expected role worker with a rank from 1, or role observer with worker 0, "
            f"got {msg.role!r} and {msg.worker}"
        )
    if msg.any_rank and msg.role == "observer":
        raise HeaderError("hello.any_rank: an observer has no rank")
    if msg.role == "worker" and payload is None:
        raise LayoutError("hello: expected the worker's layout as payload")


def agreed_codec(offered: list[str]) -> str:
    """Chooses the first offered codec for gradients that this server knows, or HeaderError."""
    known = [name for name, codec in CODECS.items() if codec.dtype == "f32"]
    for name in offered:
        if name in known:
            return name
    raise HeaderError(f"hello.codecs: expected one of {', '.join(known)}, got {shown(offered)}")


def checked_stack(payload: bytes | None) -> str:
    """Reads the payload of a `beat`, which may have none. Raises PayloadSizeError."""
    if payload is None:
        return ""
    if len(payload) > STACK_MAX_NBYTES:
        raise PayloadSizeError(
            f"beat: expected at most {STACK_MAX_NBYTES} bytes of a stack, got {len(payload)}"
        )
    return payload.decode(errors="replace")


def require_kind(msg: Report, *, is_observer: bool) -> None:
    """Checks that a report is of a kind that its sender may tell. Raises HeaderError."""
    if msg.kind not in REPORT_KINDS or (msg.kind == "evaluation") != is_observer:
        raise HeaderError(f"report.kind: not for this process: {msg.kind!r}")


def checked_rule(msg: Set, options: ServerOptions) -> Rule:
    """The rule that somebody sets, if this run can go by it. Raises HeaderError."""
    try:
        rule = rule_from_message(
            msg.policy, msg.staleness, msg.staleness_max, msg.backup_workers, msg.bound_unit
        )
        rule.require_workers(options.least)
        check_softens(options, optimizer_on_server(options), rule)
    except UsageError as error:
        raise HeaderError(f"set: {error}") from error
    return rule
