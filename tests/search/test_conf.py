"""Every file of conf/optimiser and conf/space composes into something that works."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bayes_merger.checkpoints.architectures import SD1
from bayes_merger.run.spaces import rules_for
from bayes_merger.search import build_space, space_from_guide
from bayes_merger.testing.samplers import ask
from tests.search.optimiser_configs import EXTRA, factory
from tests.search.optimiser_configs import NAMES as OPTIMISERS

CONF = Path(__file__).parents[2] / "conf"
BLOCKS = ("BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12)))
ALPHA = {"alpha": (0.0, 1.0)}


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base=None):
        yield


def composed(*overrides: str) -> Any:
    return compose(None, overrides=["+n_iters=7", *overrides])


def test_the_optimisers_are_there() -> None:
    assert {"bayes", "bayes_classic", "cma", "gp", "lhs", "random", "sobol", "tpe"} <= set(OPTIMISERS)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimiser_suggests_a_point_of_the_space(name: str) -> None:
    if name in EXTRA:
        pytest.importorskip(EXTRA[name])
    space = build_space(BLOCKS[:3], ALPHA, ranges={"IN00": [0.25, 0.5]})
    sampler = instantiate(composed(f"+optimiser={name}").optimiser)(space.distributions(), 3)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for score in (1.0, 2.0, 3.0):
        trial = ask(study, space.distributions())
        space.check(trial.params)
        study.tell(trial, score)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimisers_file_lists_every_option_with_the_default_of_the_function(name: str) -> None:
    written = OmegaConf.to_container(composed(f"+optimiser={name}").optimiser)
    assert isinstance(written, dict)
    options = {key: value for key, value in written.items() if not str(key).startswith("_")}
    signature = inspect.signature(factory(name))
    defaults = {key: p.default for key, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert options.keys() == defaults.keys()
    same = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    not_the_same = {key for key in same if options[key] != same[key]}
    # A hypercube has as many rows as the run draws; no transformer is written as false, so that it can be set to true.
    assert not_the_same <= {"rows", "bounds_transformer"}


def test_the_hypercube_of_a_run_has_a_row_for_every_iteration() -> None:
    assert composed("+optimiser=lhs").optimiser.rows == 7


def test_the_shrinking_space_of_the_original_can_be_asked_for() -> None:
    for wanted in ("true", "{minimum_window: 0.05, eta: 0.8}"):
        config = composed("+optimiser=bayes_classic", f"optimiser.bounds_transformer={wanted}").optimiser
        assert instantiate(config)(None, 0) is not None


@pytest.mark.parametrize("path", sorted((CONF / "optimiser").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_first_comment_of_an_optimiser_is_the_command_that_uses_it(path: Path) -> None:
    assert path.read_text().startswith(f"# bayes-merger run optimiser={path.stem} ")


@pytest.mark.parametrize("path", sorted((CONF / "space").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_first_comment_of_a_space_is_the_command_that_uses_it(path: Path) -> None:
    assert path.read_text().startswith(f"# bayes-merger run space={path.stem} ")


@pytest.mark.parametrize(("name", "count"), [("default", 26), ("thirds", 10), ("guide", 26 - 2 - 2 - 2)])
def test_a_space_has_as_many_parameters_as_it_says(name: str, count: int) -> None:
    guide = OmegaConf.to_container(composed(f"+space={name}").space)
    assert isinstance(guide, dict)
    assert len(space_from_guide(BLOCKS, ALPHA, rules_for(guide, SD1)).parameters) == count  # type: ignore[arg-type]


def test_a_rule_on_the_command_line_is_understood_though_hydra_splits_its_name() -> None:
    config = composed("+space=default", "+space.frozen.IN00.alpha=0.25", "+space.ranges.block_1_alpha=[0.2,0.8]")
    guide = OmegaConf.to_container(config.space)
    space = space_from_guide(BLOCKS, ALPHA, rules_for(guide, SD1))  # type: ignore[arg-type]
    assert dict(space.fixed) == {"IN00.alpha": 0.25}
    assert [p.low for p in space.parameters if p.name == "IN01.alpha"] == [0.2]
