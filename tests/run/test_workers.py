"""Several workers on one machine: where they compute, and what they tell their parent."""

from __future__ import annotations

import io
import json

from bayes_merger.run.progress import TrialReport
from bayes_merger.run.workers import PipeReporter, heed, places

REPORT = TrialReport(3, 4, 10, 5.5, 6.0, False, {"laion": 5.5}, None, 12.5, "worker 2")


def test_every_worker_has_a_gpu_of_its_own_and_its_share_of_the_processor() -> None:
    assert places(2, "auto", ["0", "1", "2"], 16, {}) == [
        {"OMP_NUM_THREADS": "8", "BAYES_MERGER_SHARING": "1", "CUDA_VISIBLE_DEVICES": "0"},
        {"OMP_NUM_THREADS": "8", "BAYES_MERGER_SHARING": "1", "CUDA_VISIBLE_DEVICES": "1"},
    ]


def test_more_workers_than_gpus_share_them_evenly() -> None:
    found = places(3, "cuda", ["4", "GPU-7f"], 2, {})
    assert [place["CUDA_VISIBLE_DEVICES"] for place in found] == ["4", "GPU-7f", "4"]
    assert {place["OMP_NUM_THREADS"] for place in found} == {"1"}
    assert [place["BAYES_MERGER_SHARING"] for place in found] == ["2", "1", "2"]


def test_a_device_chosen_by_the_user_is_everyone_s() -> None:
    assert places(2, "cuda:1", ["0", "1"], 4, {}) == [{"OMP_NUM_THREADS": "2", "BAYES_MERGER_SHARING": "2"}] * 2
    assert places(2, "cpu", ["0", "1"], 4, {"OMP_NUM_THREADS": "3", "BAYES_MERGER_SHARING": "9"}) == [{}, {}]


def test_a_report_comes_over_the_pipe_as_it_was() -> None:
    stream = io.StringIO()
    reporter = PipeReporter(stream, pause=60)
    reporter.trial(REPORT)
    reporter.note("a word")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert TrialReport(**events[0]["trial"]) == REPORT
    assert events[1] == {"note": "a word"}


def test_not_every_step_of_a_sampler_is_reported() -> None:
    stream = io.StringIO()
    reporter = PipeReporter(stream, pause=60)
    for done in range(30):
        reporter.step("drawing", done, 30)
    reporter.step("scoring", 0, 0)
    steps = [json.loads(line)["step"] for line in stream.getvalue().splitlines()]
    assert steps == [["drawing", 0, 30], ["scoring", 0, 0]]


def test_a_parent_asks_to_stop_by_lines_and_at_once_by_its_end() -> None:
    said, asked = iter([b"\n", b"odd", b"\n\n", b""]), []
    heed(lambda: next(said), lambda: asked.append("stop"))
    assert len(asked) == 3 + 2
