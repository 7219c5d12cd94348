"""A study's pictures judged again: a new study, nothing drawn, killed and gone on with, ratings taken over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bayes_merger.cli import main
from bayes_merger.run.fingerprint import candidate_id
from bayes_merger.run.folder import RunFolder, load
from bayes_merger.scoring.people.ledger import Ledger

BLUE = '''\
"""How blue a picture is; it writes down what it was asked and dies where a file says so."""

from pathlib import Path

from bayes_merger.scoring import ScorerBase


class Blueness(ScorerBase):
    def score(self, images):
        with Path("asked.txt").open("a") as file:
            file.writelines(f"{image.candidate} {image.payload} {image.index} {image.seed} {image.prompt}\\n" for image in images)
        if Path("die").exists():
            raise KeyboardInterrupt
        return [image.image.resize((1, 1), 4).getpixel((0, 0))[2] / 25.5 for image in images]
'''


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, six_trials: Path) -> Path:
    folder = shutil.copytree(six_trials, tmp_path_factory.mktemp("workplace"), dirs_exist_ok=True)
    (folder / "scorers" / "blueness.py").write_text(BLUE)
    (folder / "scorers" / "blueness.yaml").write_text("blueness:\n  _target_: blueness.Blueness\n")
    return folder


@pytest.fixture
def workplace(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the study `old` has six finished trials of two pictures."""
    monkeypatch.chdir(made)
    (made / "asked.txt").write_text("")
    return made


def study(name: str) -> Any:
    return load(RunFolder(Path("runs", name)))


def trials(name: str) -> list[Any]:
    return [t for t in study(name).get_trials(deepcopy=False) if t.state.name == "COMPLETE"]


def asked() -> list[str]:
    return Path("asked.txt").read_text().splitlines()


def test_other_scorers_make_a_new_study_of_the_same_pictures(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["rescore", "old", "scorers=[redness,blueness]", "scorers.blueness.importance=3"]) == 0
    out, _ = capfd.readouterr()
    assert "study old@2 in runs/old@2: 6 trials of old" in out
    assert len(asked()) == 12
    for before, after in zip(trials("old"), trials("old@2"), strict=True):
        assert after.params == before.params
        assert after.user_attrs["weights"] == before.user_attrs["weights"]
        assert after.user_attrs["forked_from"] == {"study": "old", "trial": before.number}
        assert after.user_attrs["phase"] == before.user_attrs["phase"]
        assert after.user_attrs["images"] == [f"../old/{name}" for name in before.user_attrs["images"]]
        red = [score for score in after.user_attrs["scores"] if score["scorer"] == "redness"]
        assert red == before.user_attrs["scores"]
        blue = [score["value"] for score in after.user_attrs["scores"] if score["scorer"] == "blueness"]
        assert after.value == pytest.approx((before.value + 3 * sum(blue) / 2) / 4)
    first = trials("old")[0]
    seed = first.user_attrs["scores"][0]["seed"]
    assert asked()[0] == f"{candidate_id(first.user_attrs['weights'])} tiny 0 {seed} a red ring"
    new = study("old@2").user_attrs
    assert (new["config"]["init_points"], new["config"]["n_iters"], new["final"]["images"]) == (6, 0, 0)
    assert sorted(path.name for path in Path("runs/old@2/best").glob("tiny-*.png")) == ["tiny-0.png", "tiny-1.png"]
    assert not Path("runs/old@2/images").exists()
    assert not Path("runs/old@2/rescored.jsonl").exists()


def test_what_is_only_combined_otherwise_needs_no_picture(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    moved = Path("runs/old/images").rename("runs/old/elsewhere")
    try:
        assert main(["rescore", "old", "again", "scorers.redness.importance=5", "scoring.standardise=true"]) == 0
    finally:
        moved.rename("runs/old/images")
    values = [trial.value for trial in trials("again") if trial.user_attrs["phase"] == "design"]
    assert sum(values) / len(values) == pytest.approx(5.0)
    assert set(study("again").user_attrs["standards"]) == {"redness"}
    assert main(["resume", "again", "n_iters=1"]) == 0
    assert len(trials("again")) == 7
    assert "1 points (" not in capfd.readouterr().out


@pytest.mark.slow
def test_a_study_that_dies_goes_on_with_the_same_command(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["rescore", "old", "killed", "scorers=[blueness]"]
    Path("die").touch()
    assert main(command) == 130
    Path("die").unlink()
    assert "the same command goes on" in capfd.readouterr().err
    journal = Path("runs/killed/rescored.jsonl")
    assert main(command) == 0
    assert len(trials("killed")) == 6
    assert len(asked()) == 2 + 12, "only the trial that was under way is judged twice"
    assert not journal.exists()


@pytest.mark.slow
def test_what_was_judged_before_a_kill_is_not_judged_again(workplace: Path) -> None:
    assert main(["rescore", "old", "whole", "scorers=[blueness]"]) == 0
    kept = {t.user_attrs["forked_from"]["trial"]: t.user_attrs["scores"] for t in trials("whole")}
    shutil.rmtree("runs/whole")
    Path("asked.txt").write_text("")
    Path("die").touch()
    command = ["rescore", "old", "half", "scorers=[blueness]"]
    assert main(command) == 130
    Path("die").unlink()
    journal = Path("runs/half/rescored.jsonl")
    mark = journal.read_text().splitlines()[0]
    lines = [json.dumps([number, kept[number]]) for number in (0, 1, 2)]
    journal.write_text("\n".join([mark, *lines, lines[0][:40]]))  # the last one is cut off
    assert main(command) == 0
    assert len(asked()) == 2 + 3 * 2
    assert {t.user_attrs["forked_from"]["trial"]: t.user_attrs["scores"] for t in trials("half")} == kept


@pytest.mark.slow
def test_a_trial_whose_pictures_are_gone_is_named_and_left_out(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("runs/old", "runs/holes")
    Path("runs/holes/images/0001/tiny-1.png").unlink()
    Path("runs/holes/images/0003/tiny-0.png").write_bytes(b"no picture")
    assert main(["rescore", "holes", "scorers=[blueness]"]) == 0
    out, _ = capfd.readouterr()
    assert "left out: trial 1: tiny-1.png is not in runs/holes/images/0001" in out
    assert "left out: trial 3: " in out
    assert [t.user_attrs["forked_from"]["trial"] for t in trials("holes@2")] == [0, 2, 4, 5]
    shutil.rmtree("runs/holes/images")
    assert main(["rescore", "holes", "none", "scorers=[blueness]"]) == 2
    assert "no trial of 'holes' can be judged" in capfd.readouterr().err


@pytest.mark.slow
def test_ratings_by_hand_come_from_the_ledger_as_they_are_now(workplace: Path) -> None:
    shutil.copytree("runs/old", "runs/rated")
    ledger = Ledger("runs/rated/ratings.jsonl")
    for number, trial in enumerate(trials("old")):
        for score in trial.user_attrs["scores"]:
            candidate = candidate_id(trial.user_attrs["weights"])
            ledger.record(candidate, "tiny", score["index"], number + 3 * score["index"], seed=score["seed"])
    assert main(["rescore", "rated", "scorers=[manual,redness]", "scorers.redness.importance=0"]) == 0
    assert [trial.value for trial in trials("rated@2")] == [1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
    first = candidate_id(trials("old")[0].user_attrs["weights"])
    Ledger("runs/rated@2/ratings.jsonl").record(first, "tiny", 0, 10)
    assert main(["rescore", "rated@2", "corrected"]) == 0
    assert trials("corrected")[0].value == 6.5


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rescore"], ""),
        (["rescore", "scorers=[blueness]"], "takes the study and what changes"),
        (["rescore", "odl", "scorers=[blueness]"], "no study 'odl'"),
        (["rescore", "old", "old", "scorers=[blueness]"], "study 'old' exists: choose another name"),
        (["rescore", "old", "new", "other", "scorers=[blueness]"], "not 'other' too"),
        (["rescore", "old", "payloads.tiny.steps=3"], "another 'payloads.tiny.steps' would need other pictures"),
        (["rescore", "old", "method=slerp"], "another 'method' would need other pictures"),
        (["rescore", "old", "scorers=[nope]"], "nope"),
        (["rescore", "old", "scoring.mean=median"], "scoring.mean: 'median' is not one of arithmetic"),
        (["rescore", "old", "scoring.payloads.redness=[tiyn]"], "did you mean tiny?"),
        (["rescore", "old", "scoring.penalties.redness=1"], "every scorer only takes points off"),
        (
            ["rescore", "old", "scorers.rednes.importance=1"],
            "scorers.rednes: no such scorer is chosen; did you mean redness?",
        ),
        (["rescore", "old", "scoring.penalties.blueness=1"], "no such scorer is chosen"),
        (["rescore", "old", "scoring.payloads.redness={tiny:-1}"], "importance -1 is not valid"),
    ],
)
def test_what_cannot_be_is_one_line(
    workplace: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    before = sorted(path for path in Path("runs").rglob("*") if path.suffix in (".db", ".jsonl"))
    assert main(arguments) == (2 if words else 0)
    err = capfd.readouterr().err
    assert words in err
    assert len(err.splitlines()) == bool(words)
    assert sorted(path for path in Path("runs").rglob("*") if path.suffix in (".db", ".jsonl")) == before
