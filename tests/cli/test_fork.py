"""A fork takes over what compares, and says what does not; what workers cannot do is one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bayes_merger.cli import main
from bayes_merger.run.folder import RunFolder, load

RUN = ["run", "experiment=tiny", "model_a=a.safetensors", "model_b=b.safetensors", "final.images=0", "final.save=false"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, six_trials: Path) -> Path:
    folder = shutil.copytree(six_trials, tmp_path_factory.mktemp("workplace"), dirs_exist_ok=True)
    return folder


@pytest.fixture
def workplace(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the study `old` has six finished trials."""
    monkeypatch.chdir(made)
    return made


def trials(name: str) -> list[Any]:
    return [t for t in load(RunFolder(Path("runs", name))).get_trials(deepcopy=False) if t.state.name == "COMPLETE"]


def test_what_was_drawn_is_taken_over(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fork", "old", "child", "optimiser=random", "n_iters=1"]) == 0
    out, _ = capfd.readouterr()
    assert "6 of 6 trials of old taken over" in out
    assert out.count(" points (") == 1
    old, new = trials("old"), trials("child")
    assert len(new) == 7
    for before, after in zip(old, new, strict=False):
        assert (after.params, after.values) == (before.params, before.values)
        assert after.user_attrs["scores"] == before.user_attrs["scores"]
        assert after.user_attrs["images"] == [f"../old/{name}" for name in before.user_attrs["images"]]
        assert after.user_attrs["forked_from"] == {"study": "old", "trial": before.number}
    assert len(list(Path("runs/child/best").glob("tiny-*.png"))) == 2
    config = load(RunFolder(Path("runs/child"))).user_attrs["config"]
    assert (config["init_points"], config["n_iters"], config["name"]) == (6, 1, "child")


@pytest.mark.slow
def test_a_smaller_space_takes_what_fits_and_draws_the_rest_of_its_design(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["fork", "old", "frozen", "space.frozen.IN00=1", "n_iters=0", "init_points=2"]) == 0
    out, _ = capfd.readouterr()
    assert "1 of 6 trials of old taken over" in out
    assert "IN00.alpha = 0 cannot be reached: it is frozen at 1" in out
    assert [t.user_attrs["weights"]["alpha"]["IN00"] for t in trials("frozen")] == [1.0, 1.0]
    assert [set(t.user_attrs["weights"]["alpha"].values()) for t in trials("frozen")] == [{1.0}, {0.0, 1.0}]


def listing(folder: Path) -> list[Path]:
    """All but what SQLite and the locks keep beside a study that is there."""
    return sorted(path for path in folder.rglob("*") if not path.name.startswith(("study.db", ".lock")))


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fork", "old", "new", "method=slerp"], "method: 'weighted_sum' is now 'slerp'"),
        (["fork", "old", "new", "payloads.tiny.steps=3"], "payloads.0.steps: 2 is now 3"),
        (["fork", "old", "new", "model_b=a.safetensors"], "models.b"),
        (["fork", "old", "new", "space.ranges.IN00=[0.001,0.002]"], "no trial of 'old' can be taken over"),
        (["fork", "old", "old"], "exists: choose another name"),
        (["fork", "old", "a/b"], "cannot be a folder"),
        (["fork", "odl", "new"], "did you mean old"),
        (["fork", "old"], "the new study has no name"),
        (["fork", "old", "optimiser=tpe"], "the new study has no name"),
        (["fork", "old", "new", "optimiser=bays"], "did you mean bayes"),
        (["fork", "old", "new", "n_iter=2"], "did you mean n_iters"),
        (["resume", "old", "method=slerp"], "method: 'weighted_sum' cannot become 'slerp' on resume"),
        (["resume", "old", "payloads.tiny.steps=3"], "payloads.tiny.steps: 2 cannot become '3' on resume"),
        (["resume", "old", "space.frozen.IN00=0.5"], "bayes-merger fork old NEW space.frozen.IN00=0.5"),
        (["resume", "old", "model_a=b.safetensors"], "models.a"),
        (["resume", "old", "images_per_prompt=3"], "images_per_prompt: None cannot become '3' on resume"),
        (["fork", "old", "new", "images_per_prompt=3"], "payloads.0.batch_size: 2 is now 3"),
        ([*RUN, "name=new", "images_per_prompt=0"], "images_per_prompt: 0 is too small; give 1 or more"),
        ([*RUN, "name=new", "images_per_prompt=1001"], "images_per_prompt: 1001 is too large; give 1000 or less"),
        ([*RUN, "name=new", "images_per_prompt=1.5"], "images_per_prompt: '1.5' is not a whole number"),
        (
            [*RUN, "name=new", "images_per_prompt=8", "images_budget=50", "init_points=10"],
            "give 80 or more, or lower init_points or images",
        ),
        (["resume", "old", "workers=0"], "workers: 0 is too small"),
        ([*RUN, "name=new", "workers=0"], "workers: 0 is too small"),
        ([*RUN, "name=new", "workers=2", "scorers=[manual]"], "scorer 'manual' asks a person"),
        ([*RUN, "name=new", "storage=mysql://host/name"], "storage: mysql://host/name is not a study's storage"),
        ([*RUN, "name=new", "storage=postgresql://u:hunter2@127.0.0.1:1/d"], "postgresql://u@127.0.0.1:1/d"),
        (["worker", "nobody"], "no study 'nobody'"),
        (["worker", "old", "model_a=b.safetensors"], "models.a"),
        (["worker", "old", "model_a=nothing.safetensors"], "model_a=FILE"),
        (["worker", "old", "n_iters=9"], "n_iters: is the study's, not the worker's"),
        (["worker", "old", "--storage", "mysql://host/name"], "mysql://host/name"),
        (["worker"], "required: name"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    workplace: Path, arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = listing(workplace)
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert "hunter2" not in out + err
    assert listing(workplace) == before


def test_a_password_in_the_settings_is_not_shown(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "storage=postgresql://u:hunter2@h/d", "--cfg"]) == 0
    out, _ = capfd.readouterr()
    assert "postgresql://u@h/d" in out
    assert "hunter2" not in out
