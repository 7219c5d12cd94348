"""What a page may ask for: no file, no program, no place, whatever it is wrapped in."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_merger.compose.asked import check_asked, split_line
from bayes_merger.compose.schema import fields
from bayes_merger.errors import ConfigError

MODELS = ["dreamshaper_8", "anime"]
ACTIVATIONS = ["anime.act"]


@pytest.mark.parametrize(
    "setting",
    [
        "model_a=dreamshaper_8", "model_d=anime", "vae=merge", "scorers=laion,clip", "payloads=[portrait,street]",
        "n_iters=3", "name=mine", "experiment=demo", "anchors=[GRAD_V]", "elements=OUT05:attn1:0.5",
        "space.frozen.OUT11=0.5", "scorers.clip.importance=2", "optimiser=tpe", "final.images=0",
        "payloads.portrait.prompt=and/or ${this} ~ ..",
        "rebasin.b=a", "model_b={rebasin: anime, to: a}", "model_b.rebasin=anime", "models.d={rebasin: anime, to: a}",
        "saliency=anime.act", "saliency.a=anime.act", "saliency.centre=none", "act.alpha=anime.act", "saliency.b=",
    ],
)  # fmt: skip
def test_what_makes_a_run_may_be_asked_for(setting: str) -> None:
    check_asked([setting], MODELS, ACTIVATIONS)


@pytest.mark.parametrize(
    "setting",
    [
        # places
        "runs=elsewhere", "storage=postgresql://x", "recipe=steps.yaml", "recipe.steps=[]", "blocks=b.yaml",
        "wildcards=w", "loras=l", "styles=s.csv", "embeddings=e", "models_dir=m", "saliency.a=x", "act.alpha=x",
        "generator.config=c", "generator.address=http://x", "generator.models_folder=m", "out=x", "web.host=0.0.0.0",
        "notify.webhook=http://x", "hydra.run.dir=x", "hydra/launcher=x",
        # what is not there
        "model_a=/etc/passwd", "model_a=../x", "model_z=x", "models={d: x}", "models.d=x", "vae=/x", "vae=x.pt",
        "payloads=../../secret", "payloads=[portrait,/x]", "scorers=/x", "optimiser=x", "experiment=../x", "space=x",
        "model_b={rebasin: x, to: a}", "model_b={rebasin: anime, to: a, config: f}", "model_b.rebasin=/x",
        "model_b={to: a}", "model_b={rebasin: [anime]}", "rebasin.b.config=f", "rebasin={b: {to: a, config: f}}",
        "rebasin.b.to=../x", "models={d: {rebasin: anime, to: a}}",
        "model_b=anime.act", "saliency.a=anime", "saliency.a=/etc/passwd", "saliency={a: anime.act}", "act=anime.act",
        "saliency.a.path=anime.act", "saliency.centre=../x", "act.alpha.path=x",
        # programs
        "scorers.x._target_=os.system", "scorers={x: {_target_: os.system}}", "optimiser._target_=x",
        "scorers.manual.viewer=xterm", "scorers.manual.ledger=x", "scorers.laion.weights=x", "scorers.laion=x",
        # what is filled in
        "name=${oc.env:HOME}", "name=a/b", "name=..", "anchors=[secret.json]", "anchors=[/x]", "options.x=~/y",
        # what is no setting
        "+name=x", "++name=x", "~scorers.laion", "name@x=y", "name", "", "=", "--multirun", "-m", "'name=x'", "a b=c",
    ],
)  # fmt: skip
def test_what_reaches_further_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError):
        check_asked(["n_iters=3", setting], MODELS, ACTIVATIONS)


def test_settings_on_a_line_are_split_as_a_shell_does() -> None:
    assert split_line("n_iters=3 'payloads.portrait.prompt=a fox; rm -rf $HOME'") == [
        "n_iters=3", "payloads.portrait.prompt=a fox; rm -rf $HOME",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="close the quote"):
        split_line("name='x")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_anything_is_fine_or_refused(key: str, value: str) -> None:
    with suppress(ConfigError):
        check_asked([f"{key}={value}"], MODELS)


def test_the_form_has_every_setting_that_a_page_may_give_with_its_default_and_its_words() -> None:
    found = {field.name: field for field in fields()}
    assert (found["n_iters"].kind, found["n_iters"].default) == ("whole number", "70")
    assert found["n_iters"].about == "trials the optimiser chooses after that"
    assert (found["final.save"].kind, found["final.save"].default) == ("yes or no", "true")
    assert found["pruning.p"].kind == "number"
    assert "structured" in found["optimiser"].choices
    assert all(field.about for field in found.values() if not field.choices)
    assert not {"runs", "storage", "recipe", "generator.address", "wildcards", "models_dir"} & found.keys()
    for field in found.values():
        if field.default and not field.name.startswith("model_"):
            check_asked([f"{field.name}={field.default}"], MODELS)
