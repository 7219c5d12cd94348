"""What a study finds out about the memory of the device it draws on: kept for whoever goes on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from bayes_merger import compose
from bayes_merger.errors import BayesMergerError, ConfigError
from bayes_merger.run.drawing import evaluator_of
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.setup import RunSetup
from bayes_merger.run.stored import check_stored
from bayes_merger.setups import make_setup
from bayes_merger.testing.progress import RecordingReporter
from tests.run.fake_run import make_setup as fake_setup
from tests.run.fake_run import open_study
from tests.user_folder import make_workplace


@pytest.fixture
def setup(
    tmp_path: Path, tiny_sd1_config: Path, tiny_a: Path, tiny_b: Path, monkeypatch: pytest.MonkeyPatch
) -> RunSetup:
    monkeypatch.chdir(make_workplace(tmp_path / "work", tiny_sd1_config))
    models = [f"model_a={tiny_a}", f"model_b={tiny_b}"]
    settings = compose.compose_run(["experiment=tiny", *models, "payloads.tiny.batch_size=5", "generator.max_batch=5"])
    return make_setup(compose.validate(settings), settings, RunFolder(tmp_path / "x"))


def drawn_at_once(setup: RunSetup, study: optuna.study.Study, holds: int) -> list[int]:
    """How many pictures go through the network at once, call by call, on a device that holds so many."""
    notes, sizes = RecordingReporter(), []

    def crowded(unet: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        sizes.append(len(inputs[0]) // 2)  # with and without their prompt
        if sizes[-1] > holds:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with evaluator_of(setup, study, notes, StopSignal(notes), RunFolder(Path("x"))) as evaluator:
        found: Any = evaluator
        found._pipeline.pipe.unet.register_forward_pre_hook(crowded)
        evaluator.load_weights({"alpha": dict.fromkeys(setup.architecture.blocks, 0.5)})
        assert len(evaluator.draw(setup.payloads)) == 5
    return sizes


def test_how_many_pictures_the_memory_holds_is_found_once_per_study(setup: RunSetup) -> None:
    study = optuna.create_study()
    assert drawn_at_once(setup, study, holds=2) == [5, 2, 2, 1, 1, 2, 2]
    assert study.user_attrs == {"max_batch": 2}
    assert max(drawn_at_once(setup, study, holds=5)) == 2
    assert study.user_attrs == {"max_batch": 2}


def test_where_one_picture_has_no_room_the_models_leave_it_theirs(setup: RunSetup) -> None:
    notes, alone = RecordingReporter(), list[bool]()

    def crowded(unet: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        """A device that holds one picture, once it holds nothing else."""
        alone.append(len(inputs[0]) == 2)
        if alone.count(True) <= 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with evaluator_of(setup, optuna.create_study(), notes, StopSignal(notes), RunFolder(Path("x"))) as evaluator:
        found: Any = evaluator
        handle = found._pipeline.pipe.unet.register_forward_pre_hook(crowded)
        for share in (0.5, 0.25):
            evaluator.load_weights({"alpha": dict.fromkeys(setup.architecture.blocks, share)})
            assert len(evaluator.draw(setup.payloads)) == 5
        assert alone.count(True) > 5
        handle.remove()
        handle = found._pipeline.pipe.unet.register_forward_pre_hook(no_room)
        with pytest.raises(BayesMergerError, match="out of memory while drawing one picture"):  # nothing else can leave
            evaluator.draw(setup.payloads)


def no_room(unet: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_study_whose_memory_holds_all_stores_nothing(setup: RunSetup) -> None:
    study = optuna.create_study()
    assert set(drawn_at_once(setup, study, holds=5)) == {5}
    assert study.user_attrs == {}


@pytest.mark.parametrize("odd", [0, -3, 2.5, "2", True, [2]])
def test_a_number_of_pictures_that_no_run_has_written_is_refused(odd: object, tmp_path: Path) -> None:
    study = open_study(fake_setup(), RunFolder(tmp_path / "x"))
    study.set_user_attr("max_batch", 2)
    check_stored(study)
    study.set_user_attr("max_batch", odd)
    with pytest.raises(ConfigError, match="its 'max_batch' is not what a run writes"):
        check_stored(study)
