"""What people see in MLflow's own pages when they compare an SP, a CPT and a searched run, in a real browser.

The record is written by the project's tracker, as the jobs write it, so the test needs no training.  With
``QALOF_SCREENSHOTS=FOLDER`` it leaves the pictures that docs/mlflow.md shows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrate.jobs.shared.scores import log_at, record_bitmap
from orchestrate.runs.mlflow_store import ui_command
from orchestrate.runs.mlflow_tracker import Tracker
from qalof.bitmap import Bitmap

SITES = [f"h.{block}.{kind}" for block in range(2) for kind in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
MIXED = Bitmap.parse("8,4,8,4x4,8", SITES)
SCORED = {
    "sp": {"8": 84.25, "4": 79.5},
    "cpt": {"8": 85.5, "4": 76.75},
    "search": {"8": 84.25, "4": 79.5, str(MIXED): 83.5},
}
SETTINGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "sp": ({"objective": {"name": "spnet", "bitmaps": [8, 4]}, "training": {"steps": 1000}}, "train", "spnet"),
    "cpt": ({"objective": {"name": "cpt", "cycles": 32}, "training": {"steps": 1000}}, "train", "cpt"),
    "search": ({"strategy": "guided", "max_evaluations": 32}, "search", "guided"),
}
PATIENCE = 60
ARGUMENTS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync", "window-size=1300,760",
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def record(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """A record with an SP, a CPT and a searched run, and their bitmaps below them."""
    root = tmp_path_factory.mktemp("runs")
    shutil.copy(empty_store, root / "mlflow.db")
    tracker = Tracker.open(root)
    for name, (settings, command, method) in SETTINGS.items():
        with tracker.parent(name, settings, {"command": command, "method": method, "model": "gpt2"}) as run:
            for number, (text, f1) in enumerate(SCORED[name].items(), start=1):
                bitmap = Bitmap.parse(text, SITES)
                called = f"trial {number}" if command == "search" else f"bitmap {bitmap}"
                metrics = {"f1": f1, "average_bits": sum(bits.weight for bits in bitmap.values()) / len(bitmap)}
                record_bitmap(run, called, bitmap, metrics, "search" if command == "search" else "evaluate")
                log_at(run, bitmap, {"f1": f1})
    tracker.flush(time.monotonic() + 60)
    return tracker


@pytest.fixture(scope="module")
def address(record: Tracker) -> Iterator[str]:
    """Where `qalof ui` serves the record."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = record.place.root
    with (root / "log").open("w") as log:
        server = subprocess.Popen(ui_command(root, port), stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(2 * PATIENCE):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                assert server.poll() is None, (root / "log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Debian's chromium, without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the library that drives a browser is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("there is no chromium with its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*ARGUMENTS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{argument}")
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def found(browser: Any, selector: str, least: int = 1) -> list[Any]:
    """Wait until the page has as many elements of a CSS selector, and return them."""
    from selenium.webdriver.support.ui import WebDriverWait

    def there(page: Any) -> list[Any] | None:
        elements = page.find_elements("css selector", selector)
        return elements if len(elements) >= least else None

    return WebDriverWait(browser, PATIENCE, 0.2).until(there, f"{least} of {selector}")


def press(browser: Any, selector: str, text: str = "") -> None:
    """Press what a selector names and what has the text; the page may be drawn anew in between."""
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.support.ui import WebDriverWait

    def pressed(page: Any) -> bool:
        wanted = [one for one in page.find_elements("css selector", selector) if text in one.text]
        if wanted:
            wanted[0].click()
        return bool(wanted)

    waiting = WebDriverWait(browser, PATIENCE, 0.2, ignored_exceptions=[WebDriverException])
    waiting.until(pressed, f"{selector} with {text!r} to press")


def show(browser: Any, address: str) -> None:
    """Open an address anew: MLflow's pages differ behind the #, where a browser would stay on the page."""
    browser.get("about:blank")
    browser.get(address)


def table(browser: Any) -> dict[str, list[str]]:
    """The rows of the comparison: what stands before them, and a text per run."""
    rows = browser.execute_script(
        "return [...document.querySelectorAll('table tr')].map(r => [...r.cells].map(c => c.textContent.trim()))"
    )
    return {cells[0].rstrip(":"): cells[1:] for cells in rows if cells}


def metrics(browser: Any, runs: int) -> dict[str, list[float]]:
    """The metrics of the comparison, which stand in a grid of their own: the names first, then a row of values each."""
    text = browser.execute_script("return document.body.innerText")
    lines = text.split("\nMetrics\n")[1].split("\nArtifacts\n")[0].split("\n")
    names = [line for line in lines if re.match("[a-z]", line)]
    values = [float(line) for line in lines if re.fullmatch(r"[\d.]+", line)]
    return {name: values[runs * row : runs * (row + 1)] for row, name in enumerate(names)}


def picture(browser: Any, name: str) -> None:
    """Leave a picture for the documentation, if one is asked for."""
    if folder := os.environ.get("QALOF_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / name))


def test_sp_cpt_and_searched_runs_that_are_selected_are_compared_by_method_and_by_score_at_each_width(
    browser, address, record
):
    show(browser, f"{address}/#/experiments/{record.experiment_id}/runs?workflowType=machine_learning")
    found(browser, "[data-testid='experiment-view-table-run-color']", 3)
    for close in browser.find_elements("css selector", "[aria-label='Close']"):  # MLflow's assistant takes a third
        close.click()
    press(browser, "[aria-label='Select all runs']")
    picture(browser, "mlflow_runs.png")
    press(browser, "button", "Compare")
    found(browser, ".axis-title")
    shown, scores = table(browser), metrics(browser, 3)
    order = [shown["Run Name"].index(name) for name in SETTINGS]
    rows = {name: [cells[place] for place in order] for name, cells in shown.items() if len(cells) == 3}
    assert rows["command"] == ["train", "train", "search"]
    assert rows["method"] == ["spnet", "cpt", "guided"]
    assert rows["objective.name"] == ["spnet", "cpt", ""]
    assert rows["objective.cycles"] == ["", "32", ""]
    for width in ("8", "4"):
        assert [scores[f"f1.at.{width}"][place] for place in order] == [SCORED[name][width] for name in SETTINGS]


def test_bitmaps_are_compared_along_an_axis_per_site_the_average_bits_and_the_score(browser, address, record):
    from selenium.webdriver.common.keys import Keys

    found_runs = record.client.search_runs([record.experiment_id], "tags.bitmap_id LIKE '%'")
    chosen = [one for one in found_runs if one.info.run_name in ("bitmap 8", "trial 3")]
    assert len(chosen) == 3  # SP and CPT at 8 bits, and what the search found
    # the address to which Compare leads; the list keeps bitmaps folded in below their commands
    ids, place = (json.dumps(value) for value in ([one.info.run_id for one in chosen], [record.experiment_id]))
    show(browser, f"{address}/#/compare-runs?runs={urllib.parse.quote(ids)}&experiments={urllib.parse.quote(place)}")
    found(browser, ".axis-title")
    shown = table(browser)
    assert sorted(shown["summary.average_bits"]) == ["5.5", "8.0", "8.0"]
    assert sorted(shown["command"]) == ["evaluate", "evaluate", "search"]
    press(browser, "button", "Clear All")
    axes = ["bits.weight.h.0.attn.c_proj", "bits.weight.h.1.attn.c_attn", "summary.average_bits", "f1"]
    for number, names in enumerate((axes[:-1], axes[-1:])):
        box = found(browser, "input[role=combobox]", 2)[number]
        for name in names:
            box.send_keys(name)
            found(browser, f".du-bois-light-select-item-option-active[title='{name}']")
            box.send_keys(Keys.ENTER)
        box.send_keys(Keys.ESCAPE)
    found(browser, ".parcoords .y-axis", len(axes))
    titles = [title.text for title in browser.find_elements("css selector", ".axis-title")]
    assert titles == axes
    ends = []
    for axis in browser.find_elements("css selector", ".parcoords .y-axis"):
        ticks = [float(line) for line in axis.text.split("\n") if line not in axes]
        ends.append((min(ticks), max(ticks)))
    assert ends == [(4.0, 8.0), (4.0, 8.0), (5.5, 8.0), (83.5, 85.5)]
    picture(browser, "mlflow_parallel.png")
