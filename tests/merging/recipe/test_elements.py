"""Elemental rules hold literally as supermerger's documents have them, on every key of Stable Diffusion 1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bayes_merger.checkpoints.architectures import SDXL
from bayes_merger.errors import ConfigError
from bayes_merger.merging import (
    SD1,
    Checkpoint,
    LiveMerge,
    MergeRecipe,
    MergeSettings,
    merge,
    open_checkpoint,
    save_merge,
)
from bayes_merger.merging.engine.merge import plan
from bayes_merger.merging.plan.planning import numbers_of
from bayes_merger.merging.recipe.elements import parse_rules, rules_of_keys
from tests.merging.tiny_models import UNET, even, recipe_of
from tests.real_keys import facts, needs_facts

Models = dict[str, Checkpoint]
KEY = UNET + "output_blocks.6.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture(scope="module")
def models(tiny_a: Path, tiny_b: Path) -> Iterator[Models]:
    with open_checkpoint(tiny_a) as a, open_checkpoint(tiny_b) as b:
        yield {"a": a, "b": b}


def ruled(models: Models, *rules: str, alpha: str = "0", compat: str = "", vae: str = "a") -> MergeRecipe:
    return replace(recipe_of(models, even(alpha), vae=vae), elements=rules, compat=compat)


def alphas(recipe: MergeRecipe, models: Models) -> dict[str, float]:
    return {s.key: numbers_of(s, recipe.weights)["alpha"] for s in plan(recipe, models).items if s.action == "merge"}


def block_of(key: str) -> str:
    return SD1.place(key).block or ""


def test_examples_of_supermerger_s_documents_hold_literally(models: Models) -> None:
    def expect(rules: str, wanted: dict[str, float]) -> None:
        assert alphas(ruled(models, rules), models) == wanted, rules

    keys = list(alphas(ruled(models), models))
    expect(
        "OUT03 OUT04 OUT05:attn2 attn1.to_out:0.5",
        {
            k: 0.5 if block_of(k) in ("OUT03", "OUT04", "OUT05") and ("attn2" in k or "attn1.to_out" in k) else 0
            for k in keys
        },
    )
    expect(
        "OUT06:attn:0.5,OUT06:attn2.to_k:0.2",
        {k: 0 if block_of(k) != "OUT06" or "attn" not in k else 0.2 if "attn2.to_k" in k else 0.5 for k in keys},
    )
    expect(
        "OUT06:attn2.to_k:0.2\nOUT06:attn:0.5",  # order decides, not which is finer
        {k: 0.5 if block_of(k) == "OUT06" and "attn" in k else 0 for k in keys},
    )
    expect("NOT OUT04:attn:1", {k: 1.0 if block_of(k) != "OUT04" and "attn" in k else 0 for k in keys})
    expect(
        "OUT05:NOT attn proj:0.2",
        {k: 0.2 if block_of(k) == "OUT05" and "attn" not in k and "proj" not in k else 0 for k in keys},
    )
    expect(
        "IN07 OUT03-OUT05:attn2:0.3",
        {k: 0.3 if block_of(k) in ("IN07", "OUT03", "OUT04", "OUT05") and "attn2" in k else 0 for k in keys},
    )


@pytest.mark.parametrize(
    ("rules", "alpha"),
    [
        ("OUT06::0.7", 0.7),
        ("::0.7", 0.7),
        ("*:*:0.7", 0.7),
        (":attn:0.4", 0.4),
        ("OUT06:NOT ff:0.2", 0.2),
        ("OUT06:to_k :0.9", 0.9),
        (" OUT06 : to_k : 0.9 ,", 0.9),
        ("OUT06\t OUT07:attn2.to_k\r\n:0.9".replace("\n", ""), 0.9),
        ("OUT03-OUT08:to_k:0.3", 0.3),
        ("OUT08 - OUT03:to_k:0.3", 0.3),
        ("NOT OUT03-OUT05:attn:0.6", 0.6),
        ("NOT OUT03-OUT06:attn:0.6", 0),
        ("out06:attn:0.3", 0.3),
        ("block_19:attn:0.3", 0.3),
        ("not out05:not ff:0.3", 0.3),
        ("M00:attn:0.3", 0),
        ("OUT06:out:0.9", 0),  # to_out, but not "output_blocks"
        ("OUT06:attn:-0.5", -0.5),
    ],
)
def test_what_a_rule_selects(models: Models, rules: str, alpha: float) -> None:
    assert alphas(ruled(models, rules), models)[KEY] == alpha


def test_supermerger_s_own_way_matches_whole_keys(models: Models) -> None:
    assert alphas(ruled(models, "OUT06:ff:0.5"), models)[KEY] == 0
    assert alphas(ruled(models, "OUT06:ff:0.5", compat="supermerger"), models)[KEY] == 0.5  # di-ff-usion
    assert alphas(ruled(models, "OUT06:out:0.9", compat="supermerger"), models)[KEY] == 0.9
    time = UNET + "time_embed.0.weight"
    assert alphas(ruled(models, "IN00:time:0.5", compat="supermerger"), models)[time] == 0.5
    with pytest.raises(ConfigError, match="compat: 'supermeger' is unknown; give supermerger, or leave it out"):
        plan(ruled(models, "OUT06:ff:0.5", compat="supermeger"), models)


def test_slots_follow_their_block_and_have_a_name_of_their_own(models: Models) -> None:
    head, time, text = (
        UNET + "out.2.bias",
        UNET + "time_embed.0.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    )
    at = alphas(ruled(models, "OUT11::0.1,BASE::0.2,TIME::0.3"), models)
    assert (at[head], at[time], at[text], at[KEY]) == (0.1, 0.3, 0.2, 0)
    at = alphas(ruled(models, "OUT::0.4,TE:final_layer_norm:0.6,:time_embed:0.7"), models)
    assert (at[head], at[time], at[text], at[UNET + "output_blocks.11.0.in_layers.0.bias"]) == (0.4, 0.7, 0.6, 0)
    merged = alphas(ruled(models, "VAE:decoder:0.5", vae="merge"), models)
    assert merged["first_stage_model.decoder.conv_in.bias"] == 0.5


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("OUT06:attn", "1 colons where 2 are wanted; write BLOCKS:ELEMENTS:RATIO"),
        ("OUT06:attn:0.5:1", "3 colons"),
        ("OUT06", "0 colons"),
        ("OUT06:attn:", "there is no ratio"),
        ("OUT06:attn:;", "2 ratios"),
        ("OUT06:attn:0.5;0.2", "2 ratios, and the method has 1"),
        ("OUT06:attn:x y", "neither a number nor a name"),
        ("OUT06:attn:nan", "not finite"),
        ("OUT06:attn:-inf", "not finite"),
        ("OUT06:attn:R", "random ratios are not drawn here"),
        ("OUT06:attn:in03", "name of a block"),
        ("OUT06:attn:alpha", "name of a block or weight"),
        ("OUT12:attn:0.5", "'OUT12' is not a block of sd1: did you mean OUT11|OUT12"),
        ("IN05-FOO:attn:0.5", "'FOO' is not a block"),
        ("IN03-TIME:attn:0.5", "TIME stands in no row"),
        ("NOT:attn:0.5", "NOT which blocks"),
        ("OUT06:NOT:0.5", "NOT which elements"),
        ("OUT06:attn NOT proj:0.5", "NOT stands before all elements"),
        ("NOT NOT OUT06:attn:0.5", "NOT stands before all blocks"),
        ("* OUT06:attn:0.5", "\\* already means all"),
        ("OUT06:atn2:0.5", "no tensor has 'atn2' in its name; did you mean attn2"),
        ("OUT06:NOT atn2:0.5", "no tensor has 'atn2'"),
        ("OUT06:ATTN:0.5", "no tensor has 'ATTN' in its name; did you mean attn"),
        ("IN00:attn:0.5", "matches no tensor: none of its blocks has 'attn'"),
        ("IN00:NOT weight bias:0.5", "matches no tensor: all of its blocks have"),
        ("OUT06:attn\x1b[31m:0.5", "cannot be seen"),
        ("OUT06:a.*b:0.5", "no tensor has 'a"),
        ("VAE::0.5", "none of its blocks is merged"),
    ],
)
def test_a_rule_that_makes_no_sense_is_one_line(models: Models, rule: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        plan(ruled(models, "OUT05::0.5", rule), models)
    assert "\n" not in str(error.value)
    assert repr(rule.strip())[1:-1] in str(error.value)


def test_nothing_between_the_commas_is_no_rule(models: Models) -> None:
    assert plan(ruled(models, "", " ,\n", "OUT05::0.5,\n"), models).rules == parse_rules(["OUT05::0.5"], SD1, ["alpha"])


def test_several_weights_are_given_by_semicolons(models: Models, tiny_a: Path) -> None:
    with open_checkpoint(tiny_a) as c:
        three = models | {"c": c}
        recipe = replace(recipe_of(three, method="sum_twice"), elements=("OUT06:attn:0.1;0.2", "OUT06:to_k:;0.3"))
        step = next(step for step in plan(recipe, three).items if step.key == KEY)
        assert numbers_of(step, recipe.weights) == {"alpha": 0.1, "beta": 0.3}
        assert [rule.text for rule in step.rules] == ["OUT06:attn:0.1;0.2", "OUT06:to_k:;0.3"]


def test_a_name_in_the_place_of_a_ratio_has_its_number_among_the_weights(models: Models) -> None:
    recipe = ruled(models, "OUT06:to_k:face")
    with pytest.raises(ConfigError, match=r"no number for face.alpha; an elemental rule names it"):
        plan(recipe, models)
    named = recipe.with_weights({"alpha": even("0")["alpha"] | {"face": 0.25}})
    assert alphas(named, models)[KEY] == 0.25
    with pytest.raises(ConfigError, match="'fcae' is not a block of sd1; did you mean face"):
        plan(recipe.with_weights({"alpha": even("0")["alpha"] | {"fcae": 0.25}}), models)
    again = MergeRecipe.from_json(json.loads(json.dumps(named.to_json())))
    assert again == named


def test_a_rule_keeps_to_the_bounds_of_the_method(models: Models, tiny_a: Path) -> None:
    recipe = replace(
        recipe_of(models, even("0.5", "weighted_subtraction"), "weighted_subtraction"), elements=("OUT06::1;1",)
    )
    with pytest.raises(ConfigError, match="weights of 'OUT06::1;1': weighted_subtraction"):
        plan(recipe, models)
    assert any("'OUT06::1.5'" in note for note in plan(ruled(models, "OUT06::1.5"), models).notes)


def test_an_old_recipe_has_no_elements(models: Models) -> None:
    data = recipe_of(models).to_json()
    for name in ("elements", "compat", "blocks"):
        del data[name]
    assert MergeRecipe.from_json(data) == recipe_of(models)
    with pytest.raises(ConfigError, match="elements is not a list"):
        MergeRecipe.from_json(data | {"elements": {"OUT06": 0.5}})


@pytest.mark.parametrize("method", ["weighted_sum", "sum_twice"])
def test_stream_file_and_live_model_agree_bit_for_bit(
    models: Models, tiny_a: Path, tmp_path: Path, method: str
) -> None:
    with open_checkpoint(tiny_a) as c:
        given = models if method == "weighted_sum" else models | {"c": c}
        weights = {name: row | ({"face": 0.7} if name == "alpha" else {}) for name, row in even("0.3", method).items()}
        rules = ("IN01-OUT11:attn:0.5", "OUT06:NOT attn:face", "TE:mlp:0")
        recipe = replace(recipe_of(given, weights, method), elements=rules)
        streamed = dict(merge(recipe, given))
        save_merge(recipe, given, tmp_path / "out.safetensors")
        saved = load_file(tmp_path / "out.safetensors")
        live = LiveMerge(given, MergeSettings(method, elements=tuple(rules)))
        destinations = {k: torch.full(t.shape, 9.0) for k, t in streamed.items() if t.is_floating_point()}
        live.apply(even("1", method) | {"alpha": even("1")["alpha"] | {"face": 0.1}}, destinations)
        live.apply(weights, destinations)
        assert all(torch.equal(saved[key], tensor) for key, tensor in streamed.items())
        assert all(torch.equal(saved[key].float(), tensor) for key, tensor in destinations.items())
        plain = dict(merge(replace(recipe, elements=(), weights=even("0.3", method)), given))
        changed = {key for key in plain if not torch.equal(plain[key], streamed[key])}
        assert changed <= {step.key for step in plan(recipe, given).items if step.rules}
        assert KEY in changed


@needs_facts
def test_sdxl_rules_mean_sdxl_s_blocks() -> None:
    keys = [key for key in facts("sdxl") if SDXL.place(key).role == "block"]
    rules = parse_rules(["M00:attn1:0.1, OUT00:attn1:0.2, CLIP_G:attn:0.3, LABEL::0.4"], SDXL, ["alpha"])
    held = rules_of_keys(rules, keys, SDXL)
    assert held[UNET + "middle_block.1.transformer_blocks.9.attn1.to_q.weight"] == (rules[0],)
    assert held[UNET + "output_blocks.0.1.transformer_blocks.9.attn1.to_q.weight"] == (rules[1],)
    assert held["conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight"] == (rules[2],)
    assert held[UNET + "label_emb.0.0.weight"] == (rules[3],)
    assert len(held) == 50 + 50 + 32 * 4 + 4
