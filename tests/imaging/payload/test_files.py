"""Payload files as users of the original, of A1111's API and of this program have them."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload, payload_from_mapping
from bayes_merger.imaging.payload.files import known_payloads, read_payloads
from bayes_merger.imaging.payload.imports import import_file

TEMPLATE = "payloadname:\n  prompt: {}\n  steps: 2\n"
CARGO = """\
defaults:
  - cargo:
    - ring
    - disc
    - ...

prompt: ""
neg_prompt: "blurry"

n_iter: 1
batch_size: 1
steps: 20
cfg_scale: 7
width: 64
height: 64
sampler_name: Euler
sampler_index: Euler

seed: -1
subseed: -1
subseed_strength: 0
seed_resize_from_h: -1
seed_resize_from_w: -1

enable_hr: false
denoising_strength: 0.45
firstphase_width: 0
firstphase_height: 0
hr_scale: 2
hr_upscaler: "4x"
hr_second_pass_steps: 0
hr_resize_x: 0
hr_resize_y: 0

styles: []

restore_faces: false
tiling: false

eta: 0
s_churn: 0
s_tmax: 0
s_tmin: 0
s_noise: 1
"""


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def read(folder: Path, *names: str) -> dict[str, Payload]:
    return {name: payload_from_mapping(name, fields) for name, fields in read_payloads(names, [[folder]]).items()}


def test_two_files_with_one_key_are_two_payloads(tmp_path: Path) -> None:
    write(tmp_path, first_dot_yaml=TEMPLATE.format("a ring"), second_dot_yaml=TEMPLATE.format("a disc"))
    found = read(tmp_path, "first", "second")
    assert {name: payload.prompt for name, payload in found.items()} == {"first": "a ring", "second": "a disc"}
    assert list(read(tmp_path, "first")) == ["payloadname"]


def test_a_name_keeps_its_dots_and_its_script(tmp_path: Path) -> None:
    names = ["noob.v1", "noob.v2", "портрет", "my own (2)", "肖像", unicodedata.normalize("NFC", "größe")]
    for name in names:
        (tmp_path / f"{name}.yaml").write_text(f"prompt: {name}\n", encoding="utf-8")
    assert list(read(tmp_path, *names)) == names


def test_a_name_is_found_however_the_system_writes_its_marks(tmp_path: Path) -> None:
    (tmp_path / f"{unicodedata.normalize('NFD', 'größe')}.yaml").write_text("prompt: a\n")
    assert list(read(tmp_path, unicodedata.normalize("NFC", "größe"))) == [unicodedata.normalize("NFC", "größe")]


def test_two_payloads_that_cannot_be_told_apart_name_both_files(tmp_path: Path) -> None:
    write(tmp_path, a_dot_yaml="prompt: a\n", a_dot_json='{"prompt": "a"}', sub__b_dot_yaml="prompt: a\n", b_dot_yaml="prompt: b\n")  # fmt: skip
    with pytest.raises(ConfigError, match=r"'a' is .*a\.yaml and .*a\.json"):
        read(tmp_path, "a")
    assert read(tmp_path, "a.json")["a"].prompt == "a"
    with pytest.raises(ConfigError, match=r"sub/b\.yaml and .*b\.yaml both hold 'b'"):
        read(tmp_path, "sub/b", "b")
    with pytest.raises(ConfigError, match="chosen twice: 'b'"):
        read(tmp_path, "b", "b")


def test_json_and_yml_are_found_and_listed(tmp_path: Path) -> None:
    write(tmp_path, j_dot_json=json.dumps({"prompt": "a 😀"}), y_dot_yml="prompt: b", sub__x_dot_yaml="prompt: c")
    assert known_payloads([[tmp_path]]) == ["j", "sub/x", "y"]
    assert [payload.prompt for payload in read(tmp_path, "j", "y", "sub/x").values()] == ["a 😀", "b", "c"]


def test_the_original_s_set_is_its_members_with_what_they_share(tmp_path: Path) -> None:
    write(
        tmp_path,
        cargo_dot_yaml=CARGO,
        cargo__ring_dot_yaml=TEMPLATE.format("a ring"),
        cargo__disc_dot_yaml="payloadname:\n  score_weight: 0.5\n  prompt: a disc\n  negative_prompt: ''\n  cfg: 5\n",
    )
    ring, disc = read(tmp_path, "cargo").values()
    assert (ring.name, ring.prompt, ring.negative_prompt, ring.steps, ring.cfg_scale) == (
        "ring",
        "a ring",
        "blurry",
        2,
        7,
    )
    assert (disc.name, disc.prompt, disc.negative_prompt, disc.steps, disc.cfg_scale) == ("disc", "a disc", "", 20, 5)
    assert (ring.sampler_name, ring.width, disc.importance) == ("Euler", 64, 0.5)


def test_an_infotext_is_a_payload(tmp_path: Path) -> None:
    text = 'a cat, (b:1.2)\nNegative prompt: bad\nSteps: 20, Sampler: Euler a, Seed: 1, Size: 512x768, Model: "x, y"'
    write(tmp_path, pasted_dot_txt=text)
    (payload,) = read(tmp_path, "pasted").values()
    assert (payload.prompt, payload.negative_prompt, payload.width, payload.height) == (
        "a cat, (b:1.2)",
        "bad",
        512,
        768,
    )


def test_a_payload_reaches_nothing_but_its_fields(tmp_path: Path) -> None:
    evil = "# @package _global_\nscorers:\n  x:\n    _target_: os.system\n    command: touch hacked\nprompt: a\n"
    write(tmp_path, evil_dot_yaml=evil, target_dot_yaml="prompt: a\n_target_: os.system\n", env_dot_yaml="prompt: ${oc.env:HOME} \\${x} ${y=!{a|b}}\n")  # fmt: skip
    for name, field in (("evil", "scorers"), ("target", "_target_")):
        with pytest.raises(ConfigError, match=f"unknown field '{field}'"):
            read(tmp_path, name)
    assert read(tmp_path, "env")["env"].prompt == "${oc.env:HOME} \\${x} ${y=!{a|b}}"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("list", "- a\n- b\n", "list.yaml: holds a list, not the fields"),
        ("empty", "", "empty.yaml: holds nothing"),
        ("word", "a cat", "word.yaml: holds a text or number"),
        ("out", "defaults: [../../etc/passwd]\n", "no '../../etc/passwd'"),
        ("absolute", "defaults: [{/etc: passwd}]\n", "no '/etc/passwd'"),
        ("nest", "defaults: [nest]\n", "a set in a set"),
        ("number", "defaults: [1]\n", "1 is no payload's name"),
        ("typo", "promt: a\nsteps: 2\n", "unknown field 'promt'"),
        ("table", "a:\n  b\n", "unknown field 'a'"),
        ("path", "../../up:\n  prompt: a\n", "cannot be the name of a payload"),
        ("bidi", "prompt: a\n'\u202egnp': 1\n", "unknown field"),
        ("long", f"prompt: a\n{'k' * 900}: 1\n", "unknown field"),
        ("control", 'prompt: "a\\e[31m"\n', "control character"),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line(name: str, text: str, words: str, tmp_path: Path) -> None:
    write(tmp_path, **{f"{name}_dot_yaml": text})
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, name)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_what_is_no_file_is_refused_or_not_there(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "ring.yaml").symlink_to(tmp_path / "ring.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name, words in (
        ("pipe", "not a regular file"),
        ("ring", "no 'ring'"),
        ("folder", "no 'folder'"),
        ("x" * 30_000, "no 'x"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            read(tmp_path, name)
        assert len(str(caught.value)) < 300


def test_the_user_s_files_come_before_ours(tmp_path: Path) -> None:
    write(tmp_path, own__p_dot_yaml="prompt: own", ours__p_dot_yaml="prompt: ours", ours__q_dot_yaml="prompt: q")
    found = read_payloads(["p", "q"], [[tmp_path / "own"], [tmp_path / "ours"]])
    assert found == {"p": {"prompt": "own"}, "q": {"prompt": "q"}}


@pytest.mark.parametrize(
    ("text", "payloads"),
    [
        ("a ring\nNegative prompt: blurry", {"x": {"prompt": "a ring", "negative_prompt": "blurry"}}),
        ("a ring\n\nNegative prompt: blurry\nugly\n", {"x": {"prompt": "a ring", "negative_prompt": "blurry\nugly"}}),
        (
            "a ring,\nred\nNegative prompt: bad\n\na disc",
            {"x-1": {"prompt": "a ring,\nred", "negative_prompt": "bad"}, "x-2": {"prompt": "a disc"}},
        ),
        (
            '--prompt "a ring" --negative_prompt bad thing --steps 20 --outpath_samples x\n--prompt "a disc"',
            {"x-1": {"prompt": "a ring", "negative_prompt": "bad thing", "steps": "20"}, "x-2": {"prompt": "a disc"}},
        ),
        ("--- a ring", {"x-1": {"prompt": "--- a ring"}}),
    ],
)
def test_texts_of_prompts(text: str, payloads: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(text)
    assert read_payloads(["x"], [[tmp_path]]) == payloads
    assert [one.fields for one in import_file(tmp_path / "x.txt")] == list(payloads.values())


def test_a_line_of_fields_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text('--prompt "a ring\n')
    with pytest.raises(ConfigError, match=r"x\.txt: '--prompt \"a ring': No closing quotation"):
        read_payloads(["x"], [[tmp_path]])
