"""What a run searches unless it is told otherwise, and how that is said before."""

from __future__ import annotations

import pytest

from bayes_merger.checkpoints.architectures import ARCHITECTURES
from bayes_merger.compose import compose_run, validate
from bayes_merger.merging.method import method_spec
from bayes_merger.merging.saliency.settings import strengthened
from bayes_merger.run.spaces import make_space, usual_numbers


@pytest.mark.parametrize(
    ("architecture", "method", "saliency", "words"),
    [
        ("sd1", "weighted_sum", {}, "26 numbers, one for each block"),
        ("sd1", "tensor_sum", {}, "52 numbers, alpha and beta for each block"),
        ("sdxl", "weighted_sum", {"b": "B"}, "21 numbers, one for each block, and one strength for all"),
        ("sd3", "weighted_sum", {}, "25 numbers, one for each block"),
        ("sd3-large", "tensor_sum", {}, "40 numbers, alpha and beta for each of BASE, IN00+IN01, IN02+IN03, "),
        ("flux", "weighted_sum", {}, "24 numbers, one for each of BASE, D00+D01, D02+D03, "),
    ],
)
def test_how_many_numbers_are_searched_is_said_as_it_is(
    architecture: str, method: str, saliency: dict[str, str], words: str
) -> None:
    config = validate(compose_run(["model_a=a", "model_b=b"]))
    spec = strengthened(method_spec(method), saliency)
    said = usual_numbers(ARCHITECTURES[architecture], tuple(spec.weights))
    assert said.startswith(words)
    assert int(said.split()[0]) == len(make_space(config, spec, ARCHITECTURES[architecture]).parameters)
