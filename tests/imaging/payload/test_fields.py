"""What of A1111's API changes nothing is no obstacle; what would change the picture is refused by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload, payload_from_mapping, resolve
from bayes_merger.imaging.payload.fields import overlaid, with_distilled_guidance

REQUEST: dict[str, Any] = {
    "alwayson_scripts": {}, "batch_size": 1, "cfg_scale": 7, "comments": {}, "denoising_strength": 0,
    "disable_extra_networks": False, "do_not_save_grid": False, "do_not_save_samples": False, "enable_hr": False,
    "height": 64, "hr_negative_prompt": "", "hr_prompt": "", "hr_resize_x": 0, "hr_resize_y": 0, "hr_scale": 2,
    "hr_second_pass_steps": 0, "hr_upscaler": "Latent", "n_iter": 1, "negative_prompt": "blurry",
    "override_settings": {}, "override_settings_restore_afterwards": True, "prompt": "a ring",
    "restore_faces": False, "s_churn": 0.0, "s_min_uncond": 0, "s_noise": 1.0, "s_tmax": None, "s_tmin": 0.0,
    "sampler_name": "Euler a", "sampler_index": "Euler a", "scheduler": "Automatic", "script_args": [],
    "script_name": None, "seed": 7, "seed_enable_extras": True, "seed_resize_from_h": -1, "seed_resize_from_w": -1,
    "steps": 2, "styles": [], "subseed": 113875680, "subseed_strength": 0, "tiling": False, "width": 64,
}  # fmt: skip


def test_a_request_at_its_defaults_is_a_payload() -> None:
    expected = Payload("x", "a ring", "blurry", steps=2, width=64, height=64, scheduler="Uniform", seed=7)
    assert payload_from_mapping("x", REQUEST) == expected
    assert payload_from_mapping("x", REQUEST | {"save_images": True, "refiner_checkpoint": "", "eta": 0}) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed_resize_from_h", 512),
        ("restore_faces", True),
        ("tiling", True),
        ("eta", 0.5),
        ("s_churn", 1),
        ("s_noise", 1.1),
        ("s_min_uncond", 2),
        ("script_name", "x/y/z plot"),
        ("alwayson_scripts", {"ControlNet": {"args": [{"enabled": True}]}}),
        ("refiner_checkpoint", "sd_xl_refiner"),
        ("override_settings", {"sd_model_checkpoint": "other"}),
        ("override_settings", {"sdxl_refiner_low_aesthetic_score": 2}),
    ],
)
def test_what_would_change_the_picture_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"payload x: {field}\S* is not supported \(it is .*\); remove it"):
        payload_from_mapping("x", REQUEST | {field: value})


def test_clip_skip_is_read_where_the_api_has_it() -> None:
    for given in (
        {"CLIP_stop_at_last_layers": 2},
        {"override_settings": {"CLIP_stop_at_last_layers": 2, "samples_save": 1}},
    ):
        assert payload_from_mapping("x", {"prompt": "a", **given}).clip_skip == 2
    with pytest.raises(ConfigError, match="clip_skip is given twice"):
        payload_from_mapping("x", {"prompt": "a", "clip_skip": 1, "override_settings": {"CLIP_stop_at_last_layers": 2}})


def test_two_names_of_a_field_may_agree() -> None:
    for index in ("Euler a", "k_euler_a", "Euler"):  # the last is what the API has where nobody has set it
        payload = payload_from_mapping("x", {"prompt": "a", "sampler_name": "Euler a", "sampler_index": index})
        assert payload.sampler_name == "Euler a"
    with pytest.raises(ConfigError, match="sampler_name is given twice"):
        payload_from_mapping("x", {"prompt": "a", "sampler_name": "Euler a", "sampler_index": "DDIM"})
    assert payload_from_mapping("x", {"prompt": "a", "cfg": 5, "cfg_scale": 5.0}).cfg_scale == 5


def test_null_is_as_if_it_were_not_there() -> None:
    assert payload_from_mapping("x", {"prompt": "a", "seed": None, "sampler_name": None, "eta": None}) == Payload(
        "x", "a"
    )


def test_fields_are_laid_over_others_by_any_of_their_names() -> None:
    assert overlaid({"cfg_scale": 7, "steps": 2}, {"cfg": 5}) == {"steps": 2, "cfg": 5}
    assert overlaid({"sampler_name": "Euler", "sampler_index": "Euler"}, {"sampler_name": "DDIM"}) == {
        "sampler_name": "DDIM"
    }


@pytest.mark.parametrize(
    "damage",
    [
        {"name": "../../up"}, {"name": 3}, {"steps": "many"}, {"width": 10**9}, {"prompts": ["a"]}, {"prompts": [1, 2]},
        {"seeds": 5}, {"prompt": "\ud800"}, {"negative_prompts": None}, {"batch_size": 3},
    ],
)  # fmt: skip
def test_a_stored_payload_that_is_damaged_is_one_line(damage: dict[str, Any]) -> None:
    from bayes_merger.imaging.payload import resolve

    (whole,) = resolve([Payload("p", "a", batch_size=2)], 0)
    assert Payload.from_json(whole.to_json()) == whole
    with pytest.raises(ConfigError, match="a payload of the study is damaged"):
        Payload.from_json(whole.to_json() | damage)


def test_noise_and_emphasis_are_read_where_the_api_has_them() -> None:
    settings = {"randn_source": "NV", "emphasis": "No norm", "eta_noise_seed_delta": 31337}
    payload = payload_from_mapping("x", {"prompt": "a", "override_settings": settings})
    assert (payload.rng, payload.emphasis, payload.eta_noise_seed_delta) == ("nv", "No norm", 31337)
    assert payload_from_mapping("x", {"prompt": "a", "rng": "GPU"}).rng == "nv"
    for field, words in (("rng", "use one of cpu, nv"), ("emphasis", "use one of Original, No norm, Ignore")):
        with pytest.raises(ConfigError, match=f"{field}: 'None' is not supported; {words}"):
            payload_from_mapping("x", {"prompt": "a", field: "None"})


SECOND = {"prompt": "a", "width": 512, "height": 512, "steps": 20, "enable_hr": True, "denoising_strength": 0.5}


@pytest.mark.parametrize(
    ("fields", "size", "scaled"),
    [
        ({}, (1024, 1024), (1024, 1024)),
        ({"hr_scale": 1.5}, (768, 768), (768, 768)),
        ({"hr_resize_x": 768}, (768, 768), (768, 768)),
        ({"height": 768, "hr_resize_y": 1152}, (768, 1152), (768, 1152)),
        ({"hr_resize_x": 768, "hr_resize_y": 512}, (768, 512), (768, 768)),
        ({"hr_resize_x": 512, "hr_resize_y": 768}, (512, 768), (768, 768)),
        ({"width": 520, "hr_scale": 1.3}, (672, 664), (672, 664)),
    ],
)
def test_the_second_pass_is_as_large_as_in_web_uis(
    fields: dict[str, Any], size: tuple[int, int], scaled: tuple[int, int]
) -> None:
    hires = payload_from_mapping("x", SECOND | fields).hires
    assert hires is not None
    assert (hires.width, hires.height) == size
    assert (hires.scaled_width, hires.scaled_height) == scaled


@pytest.mark.parametrize(("steps", "strength", "whole"), [(0, 0.5, 40), (10, 0.7, 14), (12, 1, 12), (7, 0.3, 23)])
def test_a_second_pass_draws_all_its_steps(steps: int, strength: float, whole: int) -> None:
    fields = {"hr_second_pass_steps": steps, "denoising_strength": strength}
    hires = payload_from_mapping("x", SECOND | fields).hires
    assert hires is not None
    assert (hires.steps, hires.schedule_steps) == (steps or 20, whole)


def test_a_second_pass_has_the_sampler_of_the_first_unless_it_is_given() -> None:
    for fields, expected in (
        ({}, ("DPM++ 2M", "Exponential")),
        ({"hr_sampler_name": "Euler", "hr_scheduler": "Use same scheduler"}, ("Euler", "Exponential")),
        ({"hr_sampler_name": "Use same sampler", "hr_scheduler": "karras"}, ("DPM++ 2M", "Karras")),
    ):
        hires = payload_from_mapping(
            "x", SECOND | {"sampler_name": "DPM++ 2M", "scheduler": "exponential"} | fields
        ).hires
        assert hires is not None
        assert (hires.sampler_name, hires.scheduler) == expected


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hr_upscaler": "4x-UltraSharp"}, "hr_upscaler: '4x-UltraSharp' is a network of its own"),
        ({"denoising_strength": 0}, "denoising_strength: 0 draws nothing"),
        ({"hr_checkpoint_name": "other"}, "hr_checkpoint_name is not supported"),
        ({"hr_sampler_name": "Restart"}, "the nearest is 'Heun'"),
        ({"hr_prompt": "a AND b"}, "AND"),
        ({"hr_scale": 0.1, "width": 16}, "would be 0x"),
        ({"enable_hr": "maybe"}, "enable_hr: expected true or false"),
    ],
)
def test_a_second_pass_that_cannot_be_drawn_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        payload_from_mapping("x", SECOND | fields)


def test_styles_are_put_around_the_prompts(tmp_path: Path) -> None:
    file = tmp_path / "styles.csv"
    file.write_text(
        '\ufeffname,prompt,negative_prompt\nfilm,"{prompt}, grain","cgi, 3d"\nart,"oil, canvas",\nNone,,\n', "utf-8"
    )
    fields = {"prompt": "a cat", "negative_prompt": "blurry", "styles": ["film", "art"]}
    payload = payload_from_mapping("x", fields, file)
    assert payload.prompt == "a cat, grain, oil, canvas"
    assert payload.negative_prompt == "blurry, cgi, 3d"
    with pytest.raises(ConfigError, match=r"no 'fim' in .*styles\.csv; did you mean film"):
        payload_from_mapping("x", fields | {"styles": ["fim"]}, file)
    with pytest.raises(ConfigError, match=r"set  styles=styles\.csv"):
        payload_from_mapping("x", fields)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="its first line is not"):
        payload_from_mapping("x", fields, tmp_path / "other.csv")


def test_values_may_be_text_and_left_empty() -> None:
    fields = {
        "tiling": "False", "s_churn": "0", "s_noise": "1.0", "restore_faces": "false", "enable_hr": "0",
        "seed": "", "scheduler": "None", "sampler_name": "", "width": " 512 ", "styles": "None",
    }  # fmt: skip
    assert payload_from_mapping("p", {"prompt": "a", **fields}) == payload_from_mapping("p", {"prompt": "a"})
    assert payload_from_mapping("p", {"prompt": "a", "enable_hr": "yes"}).hires is not None


def test_the_first_payload_template_is_read() -> None:
    payload = payload_from_mapping("p", {"prompt": "a", "neg_prompt": "b", "cfg": 7, "sampler": "Euler"})
    assert (payload.negative_prompt, payload.cfg_scale, payload.sampler_name) == ("b", 7.0, "Euler")


def test_settings_of_the_page_change_nothing() -> None:
    settings = {
        "eta_ancestral": 1,
        "live_previews_enable": False,
        "show_progress_every_n_steps": 5,
        "upcast_attn": False,
    }
    with_settings = payload_from_mapping("p", {"prompt": "a", "override_settings": settings})
    assert with_settings == payload_from_mapping("p", {"prompt": "a"})


def test_seeds_may_have_64_bits() -> None:
    (payload,) = resolve([payload_from_mapping("p", {"prompt": "a", "seed": 972054013131368, "n_iter": 2})], 0)
    assert payload.seeds == (972054013131368, 972054013131369)
    assert Payload.from_json(payload.to_json()) == payload


def test_distilled_guidance_is_for_models_that_have_it() -> None:
    forge = {"prompt": "a", "cfg_scale": 1.0, "distilled_cfg_scale": 3.5}
    assert payload_from_mapping("p", forge).cfg_scale == 1.0
    assert payload_from_mapping("p", with_distilled_guidance("p", forge)).cfg_scale == 3.5
    assert with_distilled_guidance("p", {"prompt": "a", "cfg": 4}) == {"prompt": "a", "cfg": 4}
    second = with_distilled_guidance("p", {"prompt": "a", "hr_cfg": 1, "hr_distilled_cfg": 3})
    assert second == {"prompt": "a", "hr_distilled_cfg": 3, "hr_cfg": 3}
    with pytest.raises(ConfigError, match="payload p: cfg: is 4 beside Forge's distilled guidance"):
        with_distilled_guidance("p", forge | {"cfg": 4})


def test_regions_are_refused_by_their_word() -> None:
    with pytest.raises(ConfigError, match=r"payload p: prompt: ADDCOMM \(Regional Prompter\) is not supported"):
        payload_from_mapping("p", {"prompt": "a ADDCOMM b"})


@pytest.mark.parametrize(
    ("written", "drawn"),
    [
        ("a ring # my first", "a ring"),
        ("# whole line\na ring", "a ring"),
        ("a ring,\n# not: on sand\nblue # or red\nlarge", "a ring,\nblue \nlarge"),
        ("a #1 ring", "a"),
        ("{red|blue # or green\n|yellow} ring", "{red|blue \n|yellow} ring"),
        ("a ring", "a ring"),
        (" a ring ", " a ring "),
    ],
)
def test_what_is_behind_a_hash_is_a_comment(written: str, drawn: str) -> None:
    payload = payload_from_mapping("x", {"prompt": written, "negative_prompt": written})
    assert payload.prompt == drawn == payload.negative_prompt
    off = {"override_settings": {"enable_prompt_comments": False}}
    assert payload_from_mapping("x", {"prompt": written, **off}).prompt == written


def test_a_prompt_of_comments_alone_is_none() -> None:
    with pytest.raises(ConfigError, match=r"payload x: prompt: is nothing but a comment"):
        payload_from_mapping("x", {"prompt": "#ff0000 ring"})
    with pytest.raises(ConfigError, match=r"override_settings.enable_prompt_comments is not supported \(it is 3\)"):
        payload_from_mapping("x", {"prompt": "a", "override_settings": {"enable_prompt_comments": 3}})


def test_a_comment_holds_no_lora_no_wildcard_and_no_word_that_is_refused() -> None:
    payload = payload_from_mapping("x", {"prompt": "a ring # __colour__ <lora:x:1> AND {a|b}"})
    assert resolve([payload], 1)[0].prompts == ("a ring",)
