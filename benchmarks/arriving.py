"""Whether the page of a large study stutters while trials arrive, five a second, as many workers tell them.

    python benchmarks/arriving.py [TRIALS]

Needs Chromium. Server, browser and the program that tells the trials share the machine. So beside what a person would
see, frames and long tasks by the clock, stands the CPU time of the page's tasks, which other programs change less.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import sync_playwright

from bayes_merger.testing.studies import make_study, more_trials

if TYPE_CHECKING:
    from playwright.sync_api import Page

ARRIVING, PACE = 60, 0.2
WATCH = """
window.gaps = [], window.tasks = [];
const noted = (list) => tasks.push(...list.getEntries().map((one) => one.duration));
new PerformanceObserver(noted).observe({type: "longtask"});
let last = performance.now();
requestAnimationFrame(function frame(now) { gaps.push(now - last); last = now; requestAnimationFrame(frame); });
"""
ROWS = "document.querySelectorAll('#trials tbody tr').length"


@contextmanager
def served(runs: Path) -> Iterator[str]:
    """The link to the study browser."""
    command = [sys.executable, "-m", "bayes_merger", "serve", "--no-browser", "--port", "0", "--runs", str(runs)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield next(word for line in server.stdout for word in line.split() if word.startswith("http"))
    finally:
        server.terminate()
        server.wait()


def cpu_of_tasks(trace: bytes) -> list[float]:
    """CPU of each task of the page's main thread, in milliseconds."""
    events: list[dict[str, Any]] = json.loads(trace)["traceEvents"]
    names = {(one["pid"], one["tid"]): one["args"]["name"] for one in events if one["name"] == "thread_name"}
    main = [one for one in events if names.get((one["pid"], one["tid"])) == "CrRendererMain"]
    return [one["tdur"] / 1000 for one in main if one["name"].endswith("::RunTask") and "tdur" in one]


def settled(tab: Page, rows: int) -> None:
    """Wait until so many rows are there, seldom asking: what asks is work for the page, too."""
    while tab.evaluate(ROWS) < rows:
        tab.wait_for_timeout(2000)
    tab.wait_for_timeout(2000)


def main(trials: int) -> None:
    """Print the figures."""
    os.environ["OMP_NUM_THREADS"] = "1"
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as driver:
        folder = make_study(Path(place) / "s", trials, budget=trials + ARRIVING, final=False, drawn=40)
        with folder.locked(), served(folder.path.parent) as link:
            browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(link)
            tab.goto(link.split("?")[0].rstrip("/").removesuffix("/studies") + "/studies/s")
            settled(tab, trials)
            browser.start_tracing(page=tab, categories=["toplevel", "devtools.timeline"])
            tab.evaluate(WATCH)
            for _ in more_trials(folder, ARRIVING):
                time.sleep(PACE)
            settled(tab, trials + ARRIVING)
            cpu = cpu_of_tasks(browser.stop_tracing())
            gaps, tasks = tab.evaluate("gaps"), tab.evaluate("tasks")
    print(f"{ARRIVING} trials arrive at {trials}, {1 / PACE:.0f} a second")
    print(f"CPU of the page's tasks: {sum(cpu):.0f} ms in all, the longest {longest(cpu)} ms")
    print(f"long tasks by the clock (over 50 ms): {len(tasks)}, the longest {longest(tasks)} ms")
    print(f"frames: {len(gaps)}, the longest gaps {longest(gaps)} ms")


def longest(durations: Sequence[float]) -> str:
    """The five longest of some."""
    return ", ".join(f"{one:.0f}" for one in sorted(durations, reverse=True)[:5])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
