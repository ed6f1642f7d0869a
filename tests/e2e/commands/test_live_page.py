"""The live page and a report in a real browser, and the page's metrics in a real Prometheus."""

import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from support.processes import LEASH, Child
from support.runs import simulate, write_run

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PROMETHEUS = shutil.which("prometheus")
WIDE, PHONE = (1200, 1600), (390, 844)
LONG_S = 60.0  # on a machine that others use too
HOLD_ON = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking"
BROWSER = f"--headless {HOLD_ON} --disable-component-update --disable-sync"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in BROWSER.split():
        options.add_argument(word)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(DRIVER))
    chrome.set_window_size(*WIDE)
    yield chrome
    chrome.quit()


def wait_for(what: Callable[[], Any], about: str) -> Any:
    deadline_s = time.monotonic() + LONG_S
    while not (found := what()):
        assert time.monotonic() < deadline_s, about
        time.sleep(0.1)
    return found


def updates(browser: webdriver.Chrome) -> int:
    return int(browser.execute_script("return document.body.dataset.updates || 0"))


def status(browser: webdriver.Chrome) -> str:
    return str(browser.execute_script("return document.getElementById('status').textContent"))


def words(browser: webdriver.Chrome) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def titles(browser: webdriver.Chrome) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('figure h3')].map(h => h.textContent)"
    )
    return found


def painted(browser: webdriver.Chrome) -> int:
    """How many pixels of the lanes have a colour."""
    return int(browser.execute_script(
        "const c = document.querySelector('figure[aria-label=\"What each worker did\"] canvas');"
        "return c ? c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
        ".filter((v, i) => i % 4 === 3 && v).length : 0"
    ))  # fmt: skip


def is_too_wide(browser: webdriver.Chrome) -> bool:
    return bool(browser.execute_script("return document.documentElement.scrollWidth > innerWidth"))


def errors(browser: webdriver.Chrome) -> list[str]:
    log = browser.get_log("browser")
    return [entry["message"] for entry in log if entry["level"] == "SEVERE"]


def told_under_the_pointer(browser: webdriver.Chrome, title: str) -> str:
    """What a picture says when the pointer is in its middle."""
    plot = browser.find_element(By.CSS_SELECTOR, f'figure[aria-label="{title}"] .u-over')
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    ActionChains(browser).move_to_element(plot).perform()
    told = ".readout:not([hidden]), .histogram .value"
    found = browser.find_elements(By.CSS_SELECTOR, f'figure[aria-label="{title}"] :is({told})')
    return " ".join(" ".join(element.text for element in found).split())


def steady(seconds: float) -> Callable[[int], float]:
    return lambda _: seconds


def server_of(launch: Child) -> psutil.Process:
    children = psutil.Process(launch.process.pid).children()
    return next(child for child in children if "server" in child.cmdline())


@pytest.mark.timeout(300)
def test_the_page_loads_moves_and_survives_the_servers_restart(
    tmp_path: Path, browser: webdriver.Chrome
) -> None:
    argv = [
        *LEASH, "launch", f"--run-dir={tmp_path / 'run'}", "--page-at=127.0.0.1:0", "--workers=3",
        "--policy=ssp", "--bound=2", "--dataset=digits", "--epochs=100000", "--batch-size=16",
        "--slow=0,0,0.02",
    ]  # fmt: skip
    with Child(argv) as launch:
        address = launch.read_until("live page: ", LONG_S).rpartition(" ")[2]
        browser.set_window_size(*WIDE)
        browser.get(address)
        wait_for(lambda: status(browser) == "live", "the run has not begun")
        expected_titles = {"What each worker did", "A closer look", "Staleness", "Lag"}
        wait_for(lambda: expected_titles <= set(titles(browser)), "pictures are missing")
        for expected in ("ssp, bound 2", "3 workers", "Messages of the run", "started, ssp(2)"):
            assert expected in words(browser)
        before, pixels = updates(browser), painted(browser)
        wait_for(lambda: updates(browser) > before + 3, "the page does not move")
        wait_for(lambda: painted(browser) > pixels, "the lanes do not grow")

        browser.set_window_size(*PHONE)
        wait_for(lambda: not is_too_wide(browser), "the page is too wide for a phone")
        browser.set_window_size(*WIDE)

        server_of(launch).kill()
        wait_for(lambda: "trying again" in status(browser), "nobody noticed that the server died")
        before = updates(browser)
        wait_for(lambda: updates(browser) > before + 2, "the page has not come back")
        wait_for(lambda: status(browser) == "live", "the run does not go on")

        scraped(address, tmp_path)
        launch.process.send_signal(signal.SIGINT)
        launch.wait(LONG_S)
    wait_for(lambda: "ended" in status(browser), "the end was not shown")
    assert [error for error in errors(browser) if "net::ERR" not in error] == []


def scraped(address: str, folder: Path) -> None:
    """Has a real Prometheus scrape the page, and asks it what it has found."""
    if PROMETHEUS is None:
        return
    target = address.removeprefix("http://").rstrip("/")
    (folder / "prometheus.yml").write_text(json.dumps({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "leash", "static_configs": [{"targets": [target]}]}],
    }))  # fmt: skip
    log = folder / "prometheus.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [PROMETHEUS, f"--config.file={folder / 'prometheus.yml'}",
             f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0"],
            stdout=file, stderr=file,
        )  # fmt: skip
    try:
        port = wait_for(lambda: port_of(process.pid), "prometheus does not listen")

        def found() -> list[Any]:
            try:
                url = f"http://127.0.0.1:{port}/api/v1/query?query=leash_worker_steps_total"
                with urllib.request.urlopen(url, timeout=5) as answer:
                    results: list[Any] = json.load(answer)["data"]["result"]
                    return results
            except OSError:
                return []

        results = wait_for(lambda: len(found()) == 3 and found(), "nothing was scraped")
        assert {result["metric"]["worker"] for result in results} == {"1", "2", "3"}
    finally:
        process.terminate()
        process.wait(LONG_S)


def port_of(pid: int) -> int:
    listening = [
        connection.laddr.port
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    return listening[0] if listening else 0


def asked(address: str) -> tuple[int, str]:
    """The status and the text of an answer."""
    try:
        with urllib.request.urlopen(address, timeout=LONG_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()


def test_a_run_that_has_ended_is_shown_from_its_files(
    tmp_path: Path, browser: webdriver.Chrome
) -> None:
    run = tmp_path / "runs" / "only"
    with Child([
        *LEASH, "launch", f"--run-dir={run}", "--workers=2", "--dataset=digits", "--epochs=2",
        "--batch-size=64",
    ]) as launch:  # fmt: skip
        assert launch.wait(LONG_S) == 0
    with Child([*LEASH, "page", "--page-at=127.0.0.1:0"], cwd=tmp_path) as page:  # the newest
        address = page.read_until("page   ", LONG_S).rpartition(" ")[2]
        assert any(line.endswith("runs/only") for line in page.lines)
        assert asked(f"{address}metrics") == (200, "")  # there are no snapshots of a server
        assert asked(f"{address}healthz") == (503, "the server of the run does not answer\n")
        browser.set_window_size(*WIDE)
        browser.get(address)
        wait_for(lambda: status(browser) == "the run has ended", "it is not shown")
        assert "How long a step takes each worker" in titles(browser)
        page.process.send_signal(signal.SIGINT)
        assert page.wait(LONG_S) == 0


def test_several_runs_are_drawn_side_by_side_with_values_under_the_pointer(
    tmp_path: Path, browser: webdriver.Chrome
) -> None:
    runs = []
    for name, slow, ended in (("whole", 0.1, "done"), ("early", 0.3, "SIGINT")):
        events = simulate([steady(0.1), steady(slow)], steps=30, bound=2)
        reached = {"t": 2.5, "event": "evaluated", "epoch": 1, "accuracy": slow + 0.5, "loss": 1.0}
        events = sorted([*events, reached], key=lambda event: float(event["t"]))
        runs.append(write_run(tmp_path / name, events, {"lr": slow}, {"steps": 60, "ended": ended}))
    with Child([*LEASH, "report", *map(str, runs), f"--out={tmp_path / 'both.html'}"]) as report:
        assert report.wait(LONG_S) == 0
    browser.set_window_size(*WIDE)
    browser.get((tmp_path / "both.html").as_uri())
    expected_titles = {
        "Test accuracy over time", "Loss over steps", "Steps a second, of all workers",
        "How each run's time was divided", "Workers of whole",
        "Workers of early, which ended early", "Staleness", "Lag",
    }  # fmt: skip
    assert expected_titles <= set(titles(browser))
    legend = browser.find_element(By.CLASS_NAME, "legend").text
    assert legend.split("\n") == ["whole", "early ended early"]
    speed = told_under_the_pointer(browser, "Steps a second, of all workers")
    assert speed.startswith("at ")
    assert "early" in speed
    assert "steps/s" in speed
    assert told_under_the_pointer(browser, "Lag").count("1: ") == 2  # of both runs
    assert told_under_the_pointer(browser, "Workers of whole").startswith("worker ")
    browser.set_window_size(*PHONE)
    wait_for(lambda: not is_too_wide(browser), "the page is too wide for a phone")
    assert errors(browser) == []


def test_a_place_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    for words_given, expected in (
        (["server", "--page-at=nowhere"], "--page-at nowhere: give HOST:PORT"),
        (["page"], "no run in runs: give a run directory: leash page runs/NAME"),
        (["page", "--page-at=nowhere"], "--page-at nowhere: give HOST:PORT"),
        (["page", str(tmp_path)], "holds no run"),
    ):
        with Child([*LEASH, *words_given], cwd=tmp_path) as child:
            assert child.wait(LONG_S) == 2
        assert len(child.lines) == 1
        assert expected in child.lines[0]
