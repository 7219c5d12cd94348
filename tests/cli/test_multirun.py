"""``run --multirun``: several studies from one command, which goes on where it was stopped."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from bayes_merger.cli import main
from bayes_merger.cli.multirun import plan_studies
from bayes_merger.compose import compose_run, swept_values
from bayes_merger.errors import ConfigError
from tests.user_folder import command, make_workplace, start


@pytest.fixture
def workplace(tmp_path: Path, tiny_sd1_config: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_workplace(tmp_path, tiny_sd1_config)


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("seed=0,1,2", ["0", "1", "2"]),
        ("seed=range(0,3)", ["0", "1", "2"]),
        ("optimiser=structured,bayes", ["structured", "bayes"]),
        ("optimiser=choice(bayes,tpe)", ["bayes", "tpe"]),
        ("payloads=[a],[b,c]", ["[a]", "[b,c]"]),
        ("space.frozen.IN00=0.1,0.5", ["0.1", "0.5"]),
        ("model_b=choice(B.safetensors,C.safetensors)", ["B.safetensors", "C.safetensors"]),
        ("seed=0", None),
        ("payloads=[a,b]", None),
        ("space.ranges.IN00=[0.1,0.5]", None),
        ("model_b=mix, of two.safetensors", None),
        ("model_d=a,b.safetensors", None),
        ("models.d=a,b.safetensors", None),
        ("elements=OUT05:attn2:0.5,OUT06::1", None),
        ("anchors=0,1,0.9", None),
        ("payloads.tiny.prompt=a cat, a dog", None),
        ("payloads.tiny.prompt='a cat', 'a dog'", None),
        ("name='a,b'", None),
    ],
)
def test_a_comma_is_a_sweep_only_where_values_are(override: str, values: list[str] | None) -> None:
    assert swept_values(override) == values


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seed=1"], "no setting has several values"),
        (["seed=interval(0,1)"], "seed: interval(0,1) is for sweepers that learn"),
        (["hydra/sweeper=optuna", "seed=0,1"], "hydra/sweeper: Hydra's own sweepers"),
        (["hydra.sweeper.n_trials=3", "seed=0,1"], "hydra.sweeper.n_trials: Hydra's own sweepers"),
        (["name=a,b"], "name: is the same for all studies"),
        (["runs=choice(a,b)"], "runs: is the same for all studies"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", r"\(").replace(")", r"\)")):
        plan_studies(overrides)


def test_studies_are_named_by_what_is_swept(workplace: Path) -> None:
    studies = plan_studies(
        ["experiment=tiny", "model_a=A.safetensors", "model_b=choice(B.safetensors,long/C x.safetensors)",
         "seed=0,1", "space.frozen.IN00=0.5,0.25"]
    )  # fmt: skip
    names = [study.folder.name for study in studies]
    assert names[:3] == [
        "A-B-model_b-B-seed-0-IN00-0.5",
        "A-B-model_b-B-seed-0-IN00-0.25",
        "A-B-model_b-B-seed-1-IN00-0.5",
    ]
    assert names[-1] == "A-B-model_b-C-x-seed-1-IN00-0.25"
    assert studies[1].settings["space"]["frozen"] == {"IN00": 0.25}
    assert [study.settings["name"] for study in studies] == names


def test_a_prompt_with_commas_stays_one_prompt(workplace: Path) -> None:
    settings = compose_run(["experiment=tiny", "model_a=A", "model_b=B", "payloads.tiny.prompt=a cat, (a dog:1.2), 3"])
    assert settings["payloads"]["tiny"]["prompt"] == "a cat, (a dog:1.2), 3"


def test_values_that_read_alike_are_studies_of_their_own(workplace: Path) -> None:
    models = "model_b=choice(x/B.safetensors,y/B.safetensors)"
    names = [s.folder.name for s in plan_studies(["experiment=tiny", "model_a=A.safetensors", models])]
    assert names[0] == "A-B-model_b-B"
    assert names[1].startswith("A-B-model_b-B-")
    assert len(set(names)) == 2


def test_a_mistake_in_one_study_is_found_before_the_first_begins(
    workplace: Path, tiny_a: Path, tiny_b: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    models = [f"model_a={tiny_a}", f"model_b={tiny_b}"]
    assert main(["run", "-m", "experiment=tiny", *models, "optimiser=lhs,bays"]) == 2
    assert main(["run", "-m", "experiment=tiny", *models, "optimiser=lhs", "optimiser.rows=5,-1"]) == 2
    assert main(["run", "-m", "experiment=tiny", models[0], f"model_b=choice({tiny_b},none.safetensors)"]) == 2
    errors = capfd.readouterr().err.splitlines()
    assert errors[0] == "error: optimiser=bays: optimiser: no 'bays'; did you mean bayes?"
    assert "a-b-rows--1: optimiser: rows = -1 must be at least 1" in errors[1].replace("a-b-rows-1", "a-b-rows--1")
    assert "model_b: none.safetensors: there is no such file" in errors[2]
    assert len(errors) == 3
    assert not (workplace / "runs").exists()


def test_without_multirun_several_values_are_an_error_that_names_it(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "experiment=tiny", "model_a=a", "model_b=b", "seed=0,1"]) == 2
    assert capfd.readouterr().err == ("error: seed=0,1: several values; run a study with each by  --multirun\n")


@pytest.fixture
def two_studies(tiny_a: Path, tiny_b: Path) -> list[str]:
    models = [f"model_a={tiny_a}", f"model_b={tiny_b}"]
    return ["run", "--multirun", "experiment=tiny", *models, "name=both",
            "init_points=2", "n_iters=1", "final.images=0", "optimiser=lhs,random"]  # fmt: skip


@pytest.mark.slow
def test_the_same_command_goes_on_after_a_kill(workplace: Path, two_studies: list[str]) -> None:
    arguments = two_studies
    process = start(workplace, *arguments)
    second = workplace / "runs" / "both-optimiser-random" / "images" / "0001"
    deadline = time.monotonic() + 120
    while not second.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert second.exists()
    first = (workplace / "runs" / "both-optimiser-lhs" / "study.db").read_bytes()

    result = command(workplace, *arguments)
    assert result.returncode == 0, result.stderr
    assert "[1/2] both-optimiser-lhs: done" in result.stdout
    assert (workplace / "runs" / "both-optimiser-lhs" / "study.db").read_bytes() == first
    assert "study both-optimiser-random: " in result.stdout
    assert "the studies of this multirun" in result.stdout
    for name in ("both-optimiser-lhs", "both-optimiser-random"):
        shown = json.loads(command(workplace, "show", name, "--json").stdout)
        assert shown["trials"]["finished"] == 3
        assert shown["state"] == "done"

    other = command(workplace, *arguments, "seed=7")
    assert other.returncode == 2
    assert other.stderr == "error: both-optimiser-lhs: exists with seed=0, not 7; choose another name=\n"


@pytest.mark.slow
def test_the_same_command_with_more_pictures_spends_them_in_each(workplace: Path, two_studies: list[str]) -> None:
    arguments = [*(one for one in two_studies if not one.startswith("n_iters")), "images_per_prompt=null"]
    assert command(workplace, *arguments, "images_budget=3").returncode == 0
    again = command(workplace, *arguments, "images_budget=3")
    assert (again.returncode, again.stdout.count(": done\n")) == (0, 2), again.stderr
    more = command(workplace, *arguments, "images_budget=4")
    assert more.returncode == 0, more.stderr
    assert more.stdout.count("3 of 4 trials finished, going on") == 2
    other = command(workplace, *arguments, "images_budget=4", "images_per_prompt=2")
    assert (other.returncode, other.stderr) == (
        2, "error: both-optimiser-lhs: exists with images_per_prompt=1, not 2; choose another name=\n",
    )  # fmt: skip


@pytest.mark.slow
def test_the_same_command_with_more_trials_adds_them_to_each(workplace: Path, two_studies: list[str]) -> None:
    assert command(workplace, *two_studies).returncode == 0
    more = command(workplace, *two_studies, "n_iters=2")
    assert more.returncode == 0, more.stderr
    assert more.stdout.count("3 of 4 trials finished, going on") == 2
