"""Where a page is, for a browser of this machine or of another."""

import re
from pathlib import Path

import pytest

from leash.ps.live import looker
from leash.ps.live.looker import Looker


@pytest.mark.parametrize(
    ("host", "own", "address"),
    [
        ("127.0.0.1", ["10.0.0.1"], r"http://127\.0\.0\.1:\d+/"),
        # A machine's own name may stand for the loopback in its own files.
        ("0.0.0.0", ["10.0.0.1", "172.17.0.1"], r"http://10\.0\.0\.1:\d+/\?token=[\w-]{24}"),
        ("0.0.0.0", [], r"http://named:\d+/\?token=[\w-]{24}"),
    ],
)
def test_its_address_is_one_that_readers_reach(
    host: str, own: list[str], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "events.jsonl").touch()
    monkeypatch.setattr(looker, "own_hosts", lambda ipv6: own)
    monkeypatch.setattr(looker.socket, "getfqdn", lambda *_: "named")
    page = Looker(tmp_path, host, 0, None, is_live=False, may_move=True)
    try:
        assert re.fullmatch(address, page.address)
    finally:
        page.close()
