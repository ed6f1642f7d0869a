"""Hosts as people write them, and paths that another machine finds."""

import subprocess
from pathlib import Path

import pytest

from leash.ps.cli import parse
from leash.ps.errors import UsageError
from leash.ps.hosts.places import HostPlaces, parse_hosts, portable, portable_words, shell_word
from leash.ps.options.launch import LaunchOptions


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("gpu1", [("gpu1", 1)]),
        ("gpu1,gpu2:2, box3 ,", [("gpu1", 1), ("gpu2", 2), ("box3", 1)]),
        ("me@10.0.0.1:8", [("me@10.0.0.1", 8)]),
        ("[fd00::1]:2,me@[fd00::2]", [("fd00::1", 2), ("me@fd00::2", 1)]),
    ],
)
def test_hosts_are_read(text: str, hosts: list[tuple[str, int]]) -> None:
    assert parse_hosts(text) == [HostPlaces(*host) for host in hosts]


def test_a_file_has_a_host_a_line(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# mine\ngpu1\n\ngpu2:2  # the large one\nbox3 slots=3\n")
    assert parse_hosts(str(file)) == [
        HostPlaces("gpu1", 1), HostPlaces("gpu2", 2), HostPlaces("box3", 3)
    ]  # fmt: skip
    file.write_text("gpu1\ngpu 2\n")
    with pytest.raises(UsageError, match=r"line 2: gpu 2 is no host; write HOST, or HOST:2"):
        parse_hosts(str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="it is no text"):
        parse_hosts(str(file))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (" , ", "names no host"),
        ("gpu1,gpu1", "gpu1 stands there twice; give it once"),
        ("gpu1:0", "give a number of workers above 0"),
        ("gpu1:x", "gpu1:x is no host"),
        ("-oProxyCommand=x", "is no host"),
        ("gpu1,-F", "-F is no host"),
        ("fd00::1", "fd00::1 is no host"),
        ("./hosts.txt", "there is no such file"),
    ],
)
def test_what_is_no_host_is_refused_with_the_mend(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=rf"^--hosts.*{says}"):
        parse_hosts(text)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--sync=.", "--sync: is for other machines; give --hosts too"),
        ("--python=python3", "--python: is for other machines"),
        ("--address=10.0.0.1", "--address: is for other machines"),
        ("--port=29500", "--port: is for other machines"),
        ("--hosts=a --port=0", "--port 0: a port is a number from 1"),
        ("--hosts=a,b --workers=4", "--workers: --hosts says how many there are"),
        ("--hosts=a,b --workers 2:4", "--workers: --hosts says how many there are"),
        ("--hosts=a,b --resize=60:3", "--resize 60:3: .*"),
        ("--hosts=a,a", "--hosts a,a: a stands there twice"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"^{says}"):
        parse(["launch", "--dataset=digits", *words.split()])[1].check()


@pytest.mark.parametrize("words", ["a, b:2 train.py", "a b:2 train.py", "a ,b:2 train.py"])
def test_a_blank_between_hosts_is_told(words: str) -> None:
    with pytest.raises(UsageError, match=r"^,?b:2: there is no such script here; hosts are written "
                                         r"without blanks: --hosts a,b:2; "):  # fmt: skip
        parse(["launch", "--hosts", *words.split()])[1].check()


def test_the_hosts_say_how_many_workers_there_are() -> None:
    _, options = parse(["launch", "--hosts", "a,b:2", "train.py", "--workers=9"])
    assert isinstance(options, LaunchOptions)
    options.check()
    assert (options.workers, options.script) == (3, "train.py --workers=9")
    assert len(options.slownesses) == 3


# Paths.


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", "/home/me")
    return "/home/me"


def test_what_is_below_the_home_is_below_another_home_too(home: str) -> None:
    assert portable("/home/me/project/x") == "~/project/x"
    assert portable("/home/me") == "~"
    assert portable("/home/melanie/x") == "/home/melanie/x"
    assert portable("train.py") == "train.py"
    words = ["--data-dir=/home/me/data", "--model=/home/me/x", "--data-dir"]
    assert portable_words(words, ["--data-dir"]) == [
        "--data-dir=~/data", "--model=/home/me/x", "--data-dir"
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["~", "~/it's $HOME/x", "/a b/c;d", "python3"])
def test_a_shell_reads_a_path_as_it_was_meant(path: str, home: str) -> None:
    command = f"printf %s {shell_word(path)}"
    told = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert told == path.replace("~", home, 1)
