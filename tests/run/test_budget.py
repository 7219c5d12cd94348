"""A number of pictures instead of a number of trials: how it is split, said and kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bayes_merger import compose, setups
from bayes_merger.config import FinalConfig
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload, resolve
from bayes_merger.run.budget import about_few_pictures, budget_line, settled, with_budget, with_given
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.setup import RunSetup
from tests.run.fake_run import make_setup


def setup_of(pictures: int, payloads: int = 4, final: FinalConfig | None = None, **settings: Any) -> RunSetup:
    final = final or FinalConfig(rescore=5, images=None, predicted=True)
    return make_setup(
        max(8, payloads), payloads=payloads, images_budget=pictures, init_points=10, final=final, **settings
    )


def test_there_are_some_forty_trials_and_the_final_round_has_a_quarter() -> None:
    """Ten merges are drawn again: five and the prediction, the winner, A, B and the even mix."""
    setup = with_budget(setup_of(400), new=True)
    assert [len(payload.seeds) for payload in setup.payloads] == [2, 2, 2, 2]
    assert setup.config.final.images == 2
    assert setup.config.init_points + setup.config.n_iters == (400 - 10 * 4 * 2) // 8 == 40
    assert budget_line(setup) == (
        "images_budget: 320 pictures for 40 trials, 80 for the final round; a trial has 8, 2 of each prompt whatever the "
        "payloads' batch_size says"
    )


@pytest.mark.parametrize(
    ("pictures", "payloads", "fresh", "each", "trials"),
    [
        (400, 1, 8, 8, 40),
        (2000, 4, 4, 11, 41),
        (200, 4, 2, 1, 30),  # less than it takes
        (400, 8, 1, 1, 40),
        (20_000, 4, 4, 16, 310),  # a trial has 64 at most
        (20_000, 100, 4, 1, 160),  # but for more prompts
    ],
)
def test_a_trial_has_as_many_pictures_as_leave_enough_trials(
    pictures: int, payloads: int, fresh: int, each: int, trials: int
) -> None:
    setup = with_budget(setup_of(pictures, payloads), new=True)
    assert {len(payload.seeds) for payload in setup.payloads} == {each}
    assert (setup.config.final.images, setup.config.init_points + setup.config.n_iters) == (fresh, trials)


def test_pictures_of_each_prompt_that_are_given_are_kept() -> None:
    setup = with_budget(setup_of(400, images_per_prompt=3), new=True)
    assert [len(payload.seeds) for payload in setup.payloads] == [2, 2, 2, 2]  # as they are made, before this
    assert setup.config.init_points + setup.config.n_iters == (400 - 80) // 8


def test_what_is_given_for_the_final_round_is_kept_and_without_one_all_is_for_trials() -> None:
    setup = with_budget(setup_of(400, final=FinalConfig(rescore=2, images=5)), new=True)
    assert setup.config.final.images == 5
    assert setup.config.n_iters == (400 - 6 * 4 * 5) // 4 - 10
    setup = with_budget(setup_of(400, final=FinalConfig(images=0)), new=True)
    assert setup.config.n_iters == 400 // 8 - 10
    assert "final round" not in budget_line(setup)


def test_a_budget_below_the_start_design_is_refused_with_what_it_takes() -> None:
    with pytest.raises(ConfigError) as caught:
        with_budget(setup_of(100), new=True)
    assert str(caught.value) == (
        "images_budget: 100 pictures are 5 trials of 4 beside the final round's 80, and the start design has 10; "
        "give 120 or more, or lower init_points"
    )
    assert with_budget(setup_of(120), new=True).config.n_iters == 0


def begun(tmp_path: Path, *overrides: str) -> RunSetup:
    settings = compose.compose_run(["experiment=demo", "images_per_prompt=null", *overrides])
    only = {"demo_ring": {**settings["payloads"]["demo_ring"], "batch_size": 2}}
    settings |= {"payloads": only}
    return setups.make_setup(compose.validate(settings), settings, RunFolder(tmp_path / "new"))


def test_pruning_is_checked_with_the_pictures_that_a_trial_has_of_the_budget(tmp_path: Path) -> None:
    pruned = ("pruning.test=wilcoxon", "pruning.p=0.1", "generator.max_batch=2", "final.images=0")
    setup = begun(tmp_path, *pruned, "images_budget=400")
    assert [len(payload.seeds) for payload in setup.payloads] == [10]
    for few in ("images_budget=100", "seed=0"):
        with pytest.raises(ConfigError, match=r"pruning\.test: 2 pictures per trial are too few.*images_per_prompt"):
            begun(tmp_path, *pruned, few)


def test_a_study_remembers_how_many_pictures_of_each_prompt_its_budget_gave(tmp_path: Path) -> None:
    setup = begun(tmp_path, "images_budget=400", "final.images=0")
    assert settled({"final": {"images": 0}}, setup)["images_per_prompt"] == 10


def test_a_budget_that_is_given_later_says_of_each_prompt_only_what_is_true() -> None:
    setup = with_budget(setup_of(400), new=False)
    line = budget_line(setup)
    assert line.endswith("a trial has 8, 2 of each prompt whatever the payloads' batch_size says")
    more = resolve([Payload("p0", "a ring", batch_size=4), Payload("p1", "a ring", batch_size=8)], 0)
    line = budget_line(with_budget(replace(setup_of(800), payloads=more), new=False))
    assert line.endswith("for the final round; a trial has 12")
    with pytest.raises(ConfigError, match=r"give \d+ or more$"):
        with_budget(replace(setup_of(100), payloads=more), new=False)


def test_a_study_that_goes_on_keeps_its_pictures() -> None:
    new = with_budget(setup_of(400), new=True)
    kept = settled({"n_iters": 60, "final": {"images": None, "rescore": 5}, "seed": 3}, new)
    assert kept == {"n_iters": 30, "images_per_prompt": 2, "final": {"images": 2, "rescore": 5}, "seed": 3}
    more = replace(new, config=replace(new.config, images_budget=600))
    assert with_budget(more, new=False).config.n_iters == (600 - 80) // 8 - 10
    assert with_budget(more, new=False).payloads == new.payloads
    without = setup_of(400)
    without = replace(without, config=replace(without.config, images_budget=None))
    assert with_budget(without, new=True) is without
    assert settled({"n_iters": 60}, without) == {"n_iters": 60}
    assert budget_line(without) == ""


def test_trials_that_were_given_while_a_run_waited_are_kept() -> None:
    settings = {"n_iters": 20, "images_budget": 300, "workers": 2}
    assert with_given(settings, {"n_iters": 20}, {"n_iters": 20}) == settings
    assert with_given(settings, {"n_iters": 20}, {"n_iters": 50}) == {
        "n_iters": 50,
        "images_budget": None,
        "workers": 2,
    }
    assert with_given({"n_iters": 80}, {"n_iters": 20}, {"n_iters": 50})["n_iters"] == 80
    assert with_given({"n_iters": 5}, {"n_iters": 20}, {"n_iters": 20}) == {"n_iters": 5}


def test_trials_and_pictures_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="images_budget: says how many trials there are, as n_iters does"):
        compose.compose_run(["experiment=demo", "images_budget=400", "n_iters=20"])


def test_few_pictures_are_told_unless_a_person_judges_them() -> None:
    assert about_few_pictures(make_setup(2)) == (
        "a trial of 2 pictures says little of a merge: with more payloads, or images_per_prompt=8, better ones are found"
    )
    assert about_few_pictures(make_setup(1, payloads=1)).startswith("a trial of 1 picture says")
    assert "or a larger images_budget, better" in about_few_pictures(with_budget(setup_of(200), new=True))
    assert about_few_pictures(make_setup(8)) == ""
