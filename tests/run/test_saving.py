"""Pictures are written and judged while the next ones are drawn, and what goes wrong there is told as if they were not."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from bayes_merger.errors import TrialFailed
from bayes_merger.imaging.payload import Payload
from bayes_merger.imaging.pipelines.pipeline import DrawnImage, OnDrawn
from bayes_merger.run.baselines import Baseline
from bayes_merger.run.evaluator import Evaluation, Weights, evaluate
from bayes_merger.run.judging import Judging
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.saving import Saving
from bayes_merger.run.setup import RunSetup
from bayes_merger.scoring.scorer import ImageToScore, Score
from bayes_merger.testing.evaluator import FakeEvaluator
from bayes_merger.testing.progress import RecordingReporter
from bayes_merger.timing import Stopwatch, seconds_so_far
from tests.run.fake_run import evaluator_of, make_setup


def picture(index: int, payload: str = "p") -> DrawnImage:
    return DrawnImage(payload, index, index, "a ring", Image.new("RGB", (8, 8)))


class Waiting(FakeEvaluator):
    """One that draws a picture, and the next only when the first is written."""

    def __init__(self) -> None:
        super().__init__({"one": lambda weights, payload, seed: float(seed)})
        self.written = threading.Event()
        self.threads: set[str] = set()
        self.waited: list[bool] = []

    def draw(self, payloads: Sequence[Payload], on_drawn: OnDrawn | None = None) -> tuple[DrawnImage, ...]:
        def keep(images: Sequence[DrawnImage]) -> None:
            assert on_drawn is not None
            on_drawn(images)
            self.waited.append(self.written.wait(60))

        return super().draw(payloads, keep)

    def save(self, folder: Path, images: Sequence[DrawnImage], payloads: Sequence[Payload]) -> tuple[Path, ...]:
        paths = super().save(folder, images, payloads)
        self.threads.add(threading.current_thread().name)
        self.written.set()
        return paths

    def score(
        self, weights: Weights, images: Sequence[DrawnImage], paths: Sequence[Path], known: Sequence[Score] = ()
    ) -> list[Score]:
        assert all(path.is_file() for path in paths)
        self.threads.add(threading.current_thread().name)
        return super().score(weights, images, paths)


def test_a_picture_is_written_before_the_next_is_drawn_and_all_before_they_are_scored(tmp_path: Path) -> None:
    evaluator = Waiting()
    found = evaluate(make_setup(pictures=4), evaluator, {"alpha": {"BASE": 0.5}}, tmp_path)
    assert isinstance(found, Evaluation)
    assert evaluator.waited == [True] * 4
    assert evaluator.threads == {"saving_0", "MainThread"}
    assert [path.name for path in found.paths] == ["p0-0.png", "p0-1.png", "p1-0.png", "p1-1.png"]
    assert [(image.payload, image.index) for image in found.images] == [("p0", 0), ("p0", 1), ("p1", 0), ("p1", 1)]


def test_a_merge_that_fails_half_way_leaves_no_picture(tmp_path: Path) -> None:
    setup = make_setup(pictures=4)
    evaluator = evaluator_of(setup, dies_after=3)
    with pytest.raises(KeyboardInterrupt):
        evaluate(setup, evaluator, {"alpha": {"BASE": 0.5}}, tmp_path)
    assert len(evaluator.drawn) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_ends_the_merge_as_it_always_did(tmp_path: Path) -> None:
    def save(images: Sequence[DrawnImage]) -> tuple[Path, ...]:
        if images[0].index == 1:
            raise OSError(28, "No space left on device")
        path = tmp_path / f"{images[0].index}.png"
        path.touch()
        return (path,)

    def drawn() -> None:
        with Saving(save) as saving:
            for index in range(3):
                saving.begin([picture(index)])
            saving.paths([picture(0), picture(1), picture(2)])

    with pytest.raises(OSError, match="No space left"):
        drawn()
    assert list(tmp_path.iterdir()) == []


def test_what_the_one_who_draws_has_not_given_on_is_written_too(tmp_path: Path) -> None:
    def save(images: Sequence[DrawnImage]) -> tuple[Path, ...]:
        return tuple(tmp_path / f"{image.payload}-{image.index}" for image in images)

    with Saving(save) as saving:
        saving.begin([picture(1), picture(0)])
        found = saving.paths([picture(0, "other"), picture(0), picture(1)])
    assert [path.name for path in found] == ["other-0", "p-0", "p-1"]


def test_an_error_of_the_one_who_draws_is_told_though_saving_fails_as_well() -> None:
    def save(images: Sequence[DrawnImage]) -> tuple[Path, ...]:
        raise OSError(28, "No space left on device")

    def drawn() -> None:
        with Saving(save) as saving:
            saving.begin([picture(0)])
            raise TrialFailed("black")

    with pytest.raises(TrialFailed, match="black"):
        drawn()


class Hue:
    """A scorer that judges each picture for itself, and says in which thread and with how many others."""

    scale, importance, interactive = (0.0, 255.0), 1.0, False

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[tuple[str, int]] = []
        self.has_judged = threading.Event()

    def prepare(self, folder: Path | None = None) -> None: ...

    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        assert all(image.path is not None and image.path.is_file() for image in images)
        self.asked.append((threading.current_thread().name, len(images)))
        self.has_judged.set()
        return [float(image.seed) for image in images]


class Spread(Hue):
    """One that must see the whole trial."""

    def score_trial(self, images: Sequence[ImageToScore]) -> float:
        return sum(self.score(images))


class Elsewhere(Judging):
    """Draws without this process's cores, a picture at a time, the next one only when the first is judged."""

    def __init__(self, setup: RunSetup, first: Hue) -> None:
        notes = RecordingReporter()
        super().__init__(setup, notes, StopSignal(notes))
        self.first, self.waited = first, list[bool]()

    def load_weights(self, weights: Weights, baseline: Baseline | None = None) -> None: ...

    def draw(self, payloads: Sequence[Payload], on_drawn: OnDrawn | None = None) -> tuple[DrawnImage, ...]:
        assert on_drawn is not None
        images = [picture(i, payload.name) for payload in reversed(payloads) for i in range(payload.batch_size)]
        for image in images:
            on_drawn([image])
            self.waited.append(self.first.has_judged.wait(60))
        return tuple(images[2:] + images[:2])


def judged(tmp_path: Path, hue: Hue, spread: Hue) -> tuple[Evaluation, Elsewhere]:
    """Four pictures of two payloads, judged by both."""
    setup = dataclasses.replace(make_setup(pictures=4), scorers={"spread": spread, "hue": hue})
    evaluator = Elsewhere(setup, hue)
    found = evaluate(setup, evaluator, {"alpha": {"BASE": 0.5}}, tmp_path)
    assert isinstance(found, Evaluation)
    return found, evaluator


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's memory is first looked at for one merge")
def test_pictures_are_judged_while_the_next_are_drawn_but_by_scorers_that_want_them_all(tmp_path: Path) -> None:
    hue, spread = Hue("hue"), Spread("spread")
    with Stopwatch().running():
        found, evaluator = judged(tmp_path, hue, spread)
        assert {"beside save", "beside score", "score"} <= seconds_so_far().keys()
    assert evaluator.waited == [True] * 4
    assert hue.asked == [("saving_0", 1)] * 4
    assert spread.asked == [("MainThread", 4)]
    assert [(score.scorer, score.payload, score.index, score.value) for score in found.scores] == [
        *(("spread", payload, index, 2.0) for payload in ("p0", "p1") for index in (0, 1)),
        *(("hue", payload, index, float(index)) for payload in ("p0", "p1") for index in (0, 1)),
    ]


class Failing(Hue):
    def score(self, images: Sequence[ImageToScore]) -> list[float]:
        self.has_judged.set()
        raise ValueError("no colour")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's memory is first looked at for one merge")
def test_a_scorer_that_fails_in_its_thread_fails_the_trial_and_no_picture_stays(tmp_path: Path) -> None:
    with pytest.raises(TrialFailed, match="scorer hue raised ValueError: no colour"):
        judged(tmp_path, Failing("hue"), Spread("spread"))
    assert list(tmp_path.iterdir()) == []
