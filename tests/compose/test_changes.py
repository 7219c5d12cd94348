"""What of a study may change when it goes on: how much is done, and where its files lie."""

from __future__ import annotations

from typing import Any

import pytest

from bayes_merger.compose.changes import check_changeable
from bayes_merger.errors import ConfigError

STORED: dict[str, Any] = {"vae": "V.safetensors", "wildcards": "words", "saliency": {"b": "B.act.safetensors"}}


@pytest.mark.parametrize(
    "override",
    [
        "n_iters=9", "model_a=m/A.safetensors", "vae=m/V.safetensors", "wildcards=m/words", "loras=m/loras",
        "embeddings=null", "saliency.b=m/B.act.safetensors",
    ],
)  # fmt: skip
def test_places_and_budgets_may_change(override: str) -> None:
    check_changeable("x", STORED, [override])


@pytest.mark.parametrize(
    ("stored", "override", "said"),
    [
        (STORED, "vae=a", "vae: 'V.safetensors' cannot become 'a'"),
        ({"vae": "a"}, "vae=V.safetensors", "vae: 'a' cannot become 'V.safetensors'"),
        ({"vae": "merge"}, "vae=V.safetensors", "vae: 'merge' cannot become 'V.safetensors'"),
        (STORED, "saliency.a=A.act.safetensors", "saliency.a: None cannot become 'A.act.safetensors'"),
        (STORED, "method=slerp", "method: None cannot become 'slerp'"),
    ],
)
def test_another_merge_is_refused(stored: dict[str, Any], override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said} on resume; with another no score would compare"):
        check_changeable("x", stored, [override])


def test_what_a_study_has_already_may_be_said_again() -> None:
    stored = {"seed": 4, "name": "x", "final": {"save": True}, "payloads": {"p": {"prompt": "a, b", "cfg_scale": 7.0}}}
    check_changeable("x", stored, ["seed=4", "name=x", "payloads.p.prompt=a, b", "payloads.p.cfg_scale=7.0"])
    for override, said in (("seed=5", "seed: 4"), ("payloads.p.prompt=a", "payloads.p.prompt: 'a, b'")):
        with pytest.raises(ConfigError, match=f"^{said} cannot become"):
            check_changeable("x", stored, [override])
