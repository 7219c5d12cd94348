from __future__ import annotations

import itertools

import torch

from bayes_merger.imaging import LivePipeline
from bayes_merger.imaging.pipelines.layout import lay_side_by_side


def test_parameters_lie_side_by_side_in_the_order_of_the_file(own_pipeline: LivePipeline) -> None:
    views = [view for _, view in sorted(own_pipeline.destinations().items())]
    assert len({view.untyped_storage().data_ptr() for view in views}) == 1
    assert all(view.data_ptr() % 64 == 0 for view in views)
    for one, next_one in itertools.pairwise(views):
        assert 0 <= next_one.data_ptr() - (one.data_ptr() + one.nbytes) < 64


def test_parameters_stay_what_they_are(own_pipeline: LivePipeline) -> None:
    parameters = dict(own_pipeline.pipe.unet.named_parameters())
    before = {key: (view.clone(), view.data_ptr()) for key, view in own_pipeline.destinations().items()}
    lay_side_by_side(own_pipeline.pipe)
    assert all(parameters[name] is parameter for name, parameter in own_pipeline.pipe.unet.named_parameters())
    for key, view in own_pipeline.destinations().items():
        assert torch.equal(view, before[key][0])
        assert view.data_ptr() != before[key][1]
