from __future__ import annotations

import itertools

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from bayes_merger.imaging import LivePipeline

PARTS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")


def test_parameters_of_a_part_lie_side_by_side_in_the_order_of_the_file(own_pipeline: LivePipeline) -> None:
    found = sorted(own_pipeline.destinations().items())
    for part in PARTS:
        views = [view for key, view in found if key.startswith(part)]
        assert len({view.untyped_storage().data_ptr() for view in views}) == 1
        assert all(view.data_ptr() % 64 == 0 for view in views)
        for one, next_one in itertools.pairwise(views):
            assert 0 <= next_one.data_ptr() - (one.data_ptr() + one.nbytes) < 64


def test_a_part_that_moves_keeps_its_parameters_and_their_numbers(own_pipeline: LivePipeline) -> None:
    parameters = dict(own_pipeline.pipe.vae.named_parameters())
    before = {key: (view.clone(), view.data_ptr()) for key, view in own_pipeline.destinations().items()}
    own_pipeline.architecture.model.move("vae", "cpu")
    assert all(parameters[name] is parameter for name, parameter in own_pipeline.pipe.vae.named_parameters())
    for key, view in own_pipeline.destinations().items():
        assert torch.equal(view, before[key][0])
        assert (view.data_ptr() != before[key][1]) == key.startswith("first_stage_model.")


def test_the_memory_of_a_part_that_moved_is_free(own_pipeline: LivePipeline) -> None:
    """Else a GPU would have no more room for pictures once the text encoders have left it."""
    assert own_pipeline.destinations()
    before = StorageWeakRef(next(own_pipeline.pipe.text_encoder.parameters()).untyped_storage())
    own_pipeline.architecture.model.move("text_encoder", "cpu")
    assert before.expired()
