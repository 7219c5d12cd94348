from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload, payload_from_mapping, resolve

ROOT = Path(__file__).parents[3]


def test_web_ui_fields_become_a_payload() -> None:
    payload = payload_from_mapping(
        "cat",
        {
            "prompt": "a cat",
            "negative_prompt": "dog",
            "cfg_scale": 5,
            "sampler_name": "DPM++ 2M Karras",
            "batch_size": 2,
            "n_iter": 3,
            "score_weight": 0.5,
            "enable_hr": False,
        },
    )
    assert payload == Payload(
        "cat",
        "a cat",
        negative_prompt="dog",
        cfg_scale=5.0,
        sampler_name="DPM++ 2M",
        scheduler="Karras",
        batch_size=6,
        importance=0.5,
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no prompt"),
        ({"prompt": " "}, "no prompt"),
        ({"prompt": ["a"]}, r"prompt: expected text, got \['a'\]"),
        ({"prompt": "a", "promt": "b"}, "unknown field 'promt'; did you mean .*prompt"),
        ({"prompt": "a", "width": 500}, "width: 500 is not a multiple of 8; use 496"),
        ({"prompt": "a", "height": "512px"}, "height: expected a number, got '512px'"),
        ({"prompt": "a", "cfg_scale": "7,5"}, "got '7,5'; decimals are behind a point"),
        ({"prompt": "a", "seed": 2**64}, "seed: 18446744073709551616 is not between -1 and 18446744065119617024"),
        ({"prompt": "a", "steps": 0}, "steps: 0 is not between 1 and 1000"),
        ({"prompt": "a", "steps": 2.5}, "steps: expected a whole number"),
        ({"prompt": "a", "steps": True}, "steps: expected a number, got True"),
        ({"prompt": "a", "cfg_scale": float("nan")}, "cfg_scale: expected a number"),
        ({"prompt": "a", "seed": -2}, "seed: -2 is not between -1"),
        ({"prompt": "a", "score_weight": -1}, "score_weight: -1 is not between 0"),
        ({"prompt": "a", "score_weight": 1, "importance": 2}, "importance is given twice"),
        ({"prompt": "a", "tiling": True}, "tiling is not supported"),
        ({"prompt": "a", "sampler_name": "Euler b"}, "did you mean Euler"),
        ({"prompt": "a", "sampler_name": "DPM fast"}, "the nearest is 'DPM\\+\\+ 2M'"),
        ({"prompt": "a <hypernet:b:1>"}, "<hypernet:b:1>"),
        ({"prompt": "a", "negative_prompt": "<lora:b:1>"}, "does nothing there"),
    ],
)
def test_a_bad_field_is_one_clear_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        payload_from_mapping("cat", fields)
    assert str(caught.value).startswith("payload cat: ")
    assert "\n" not in str(caught.value)


def test_numbers_may_be_written_as_text() -> None:
    payload = payload_from_mapping("p", {"prompt": "a", "steps": "020", "cfg_scale": "7.5", "seed": "-1"})
    assert (payload.steps, payload.cfg_scale, payload.seed) == (20, 7.5, -1)


def test_a_payload_that_is_no_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="payload cat: expected fields"):
        payload_from_mapping("cat", "a cat")  # type: ignore[arg-type]


def test_pictures_of_a_batch_have_consecutive_seeds() -> None:
    (payload,) = resolve([Payload("cat", "a cat", seed=7, batch_size=3)], seed=0)
    assert payload.seeds == (7, 8, 9)
    assert payload.prompts == ("a cat",) * 3


def test_variations_share_the_seed_and_count_the_subseed() -> None:
    (payload,) = resolve([Payload("cat", "a cat", seed=7, subseed=20, subseed_strength=0.3, batch_size=3)], seed=0)
    assert (payload.seeds, payload.subseeds) == ((7, 7, 7), (20, 21, 22))
    (drawn,) = resolve([Payload("cat", "a cat", seed=7, subseed_strength=0.3)], seed=0)
    assert drawn.subseeds[0] >= 0
    assert resolve([drawn], seed=9) == (drawn,)


def test_a_second_pass_has_words_of_its_own(tmp_path: Path) -> None:
    fields = {"prompt": "a", "enable_hr": True, "hr_prompt": "b {c|d}", "batch_size": 9}
    (payload,) = resolve([payload_from_mapping("p", fields)], 0)
    assert payload.hires is not None
    assert set(payload.second_prompts()[0]) == {"b c", "b d"}
    assert payload.second_prompts()[1] == payload.negative_prompts == ("",) * 9
    assert Payload.from_json(payload.to_json()) == payload
    assert payload.picked((2, 4)).hires == dataclasses.replace(
        payload.hires, prompts=(payload.hires.prompts[2], payload.hires.prompts[4])
    )


@pytest.mark.parametrize("second", ["b", "b <lora:fur:0.5>", "b <lora:ink:1>", "b <lora:fur:1> <lora:ink:1>"])
def test_a_second_pass_with_other_loras_is_refused(second: str) -> None:
    fields = {"prompt": "a <lora:fur:1>", "enable_hr": True, "hr_prompt": second}
    with pytest.raises(ConfigError, match="payload x: hr_prompt: names other LoRAs than the prompt"):
        resolve([payload_from_mapping("x", fields)], 0)


@pytest.mark.parametrize("second", ["", "<lora:fur:1> b", "b <lora:fur:1> <lora:ink:0>"])
def test_a_second_pass_with_the_same_loras_is_drawn(second: str) -> None:
    fields = {"prompt": "a <lora:fur:1>", "enable_hr": True, "hr_prompt": second}
    (payload,) = resolve([payload_from_mapping("x", fields)], 0)
    assert payload.second_prompts()[0] == (second or "a <lora:fur:1>",)


def test_what_studies_did_not_have_at_first_is_only_kept_where_it_is_used() -> None:
    (payload,) = resolve([Payload("p", "a")], 0)
    new = {"rng", "emphasis", "subseed", "subseed_strength", "eta_noise_seed_delta", "hires", "subseeds"}
    assert not new & payload.to_json().keys()
    (used,) = resolve([Payload("p", "a", rng="nv", subseed_strength=0.5)], 0)
    assert new & used.to_json().keys() == {"rng", "subseed", "subseed_strength", "subseeds"}


def test_open_seeds_are_drawn_once_from_the_studys_seed() -> None:
    cat, dog = Payload("cat", "a cat"), Payload("dog", "a dog")
    first = resolve([cat, dog], seed=1)
    assert first == resolve([cat, dog], seed=1)
    assert first[0] == resolve([cat], seed=1)[0]
    assert first[0].seeds != first[1].seeds
    assert first[0].seeds != resolve([cat], seed=2)[0].seeds
    assert resolve(first, seed=99) == first


def test_wildcards_are_drawn_per_picture_and_may_nest(tmp_path: Path) -> None:
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "birds.txt").write_text("# comment\nrobin # red\n\n__colour__ owl\n")
    (tmp_path / "colour.txt").write_text("red\nblue\n")
    payload = Payload("p", "a __animals/birds__, __colour__ sky", negative_prompt="__colour__", batch_size=20)
    (resolved,) = resolve([payload], 0, tmp_path)
    assert (resolved,) == resolve([payload], 0, tmp_path)
    assert not any("__" in text for text in (*resolved.prompts, *resolved.negative_prompts))
    assert len(set(resolved.prompts)) > 2
    assert set(resolved.negative_prompts) == {"red", "blue"}
    assert resolved.prompt == payload.prompt


def test_wildcard_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "colour.txt").write_text("red")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "loop.txt").write_text("a __loop__")
    (tmp_path / "net.txt").write_text("<lora:a:x>")
    (tmp_path / "bell.txt").write_text("a \x9b31m cat")
    for prompt, message in [
        ("__color__", "no color.txt in .*; did you mean colour"),
        ("__empty__", "has no lines"),
        ("__loop__", "each other endlessly"),
        ("__net__", "<lora:a:x>: 'x' is no strength"),
        ("__bell__", "control character"),
        ("__x/../colour__", "no x/../colour.txt"),
    ]:
        with pytest.raises(ConfigError, match=message):
            resolve([Payload("p", prompt)], 0, tmp_path)
    with pytest.raises(ConfigError, match="set  wildcards=FOLDER"):
        resolve([Payload("p", "__colour__")], 0)


def test_each_prompt_has_as_many_pictures_as_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "mood.txt").write_text("at dawn\nat night\n")
    plain, moody, varied = resolve(
        [
            Payload("plain", "a fox", batch_size=2, seed=5),
            Payload("moody", "a fox, __mood__", batch_size=6, seed=5),
            Payload("varied", "a fox", batch_size=2, seed=7, subseed=3, subseed_strength=0.2),
        ],
        0,
        tmp_path,
    )
    assert plain.each_prompt(2) == plain
    assert plain.each_prompt(1).seeds == (5,)
    assert plain.each_prompt(4) == resolve([Payload("plain", "a fox", batch_size=4, seed=5)], 0)[0]
    dawn, night = "a fox, at dawn", "a fox, at night"
    assert moody.prompts == (night, dawn, dawn, dawn, night, dawn)
    one, three = moody.each_prompt(1), moody.each_prompt(3)
    assert (one.prompts, one.seeds, one.batch_size) == ((night, dawn), (5, 6), 2)
    assert (three.prompts, three.seeds) == ((night,) * 3 + (dawn,) * 3, (5, 9, 11, 6, 7, 8))
    assert moody.each_prompt(5).seeds == (5, 9, 11, 12, 13, 6, 7, 8, 10, 14)
    assert (varied.each_prompt(4).seeds, varied.each_prompt(4).subseeds) == ((7,) * 4, (3, 4, 5, 6))


def test_words_of_a_second_pass_are_prompts_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "mood.txt").write_text("at dawn\nat night\n")
    fields = {"prompt": "a fox", "seed": 5, "batch_size": 6, "enable_hr": True, "hr_prompt": "a fox, __mood__"}
    payload = resolve([payload_from_mapping("moody", fields)], 0, tmp_path)[0]
    dawn, night = "a fox, at dawn", "a fox, at night"
    assert payload.hires
    assert set(payload.hires.prompts) == {dawn, night}
    two = payload.each_prompt(2)
    assert two.hires
    assert (two.prompts, sorted(two.hires.prompts)) == (("a fox",) * 4, [dawn, dawn, night, night])


def test_more_pictures_than_a_payload_may_have_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mood.txt").write_text("\n".join(map(str, range(999))))
    payload = resolve([Payload("moody", "a fox, __mood__", batch_size=40)], 0, tmp_path)[0]
    assert payload.each_prompt(250).batch_size <= 10_000
    with pytest.raises(ConfigError, match=r"1000 pictures of each of its \d\d prompts are \d\d000; 10000 is the most"):
        payload.each_prompt(1000)


def test_the_largest_seed_has_pictures_behind_it() -> None:
    largest = 2**64 - 2**33
    seeds = Payload("p", "a fox", batch_size=2, seed=largest, subseed=largest)
    for payload in resolve([seeds, dataclasses.replace(seeds, name="varied", subseed_strength=0.2)], 0):
        for drawn in (payload, payload.each_prompt(3)):
            assert max(*drawn.seeds, *drawn.subseeds) == largest + len(drawn.seeds) - 1
            assert Payload.from_json(drawn.to_json()) == drawn


def test_two_payloads_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two are called 'p'"):
        resolve([Payload("p", "a"), Payload("p", "b")], 0)


def test_json_round_trip_is_exact() -> None:
    (payload,) = resolve([Payload("p", "a", cfg_scale=6.5, batch_size=2)], 3)
    assert Payload.from_json(payload.to_json()) == payload


@pytest.mark.parametrize("name", ["portrait", "street", "landscape", "still_life"])
def test_the_starter_payloads_are_valid_and_wrapped_by_their_name(name: str) -> None:
    content = OmegaConf.to_container(OmegaConf.load(ROOT / "payloads" / f"{name}.yaml"))
    assert isinstance(content, dict)
    assert list(content) == [name]
    assert resolve([payload_from_mapping(name, content[name])], 0)[0].seeds


def test_the_room_is_light_to_enter() -> None:
    code = "import sys, bayes_merger.imaging; print([m for m in ('torch', 'diffusers', 'PIL') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"
