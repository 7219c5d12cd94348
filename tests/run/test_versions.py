"""What a study was drawn with, and who may draw for it."""

from __future__ import annotations

from typing import Any

import pytest

from bayes_merger import __version__
from bayes_merger.errors import ConfigError
from bayes_merger.imaging.payload import Payload, payload_from_mapping
from bayes_merger.run.versions import about_upgrade, are_versions, check_versions, versions_here

STUDY = {"bayes_merger": "1.2", "diffusers": "0.42.1", "transformers": "5.24.0", "torch": "2.15.0", "device": "cuda"}


def test_here_are_the_libraries_that_draw_and_score() -> None:
    here = versions_here("cpu")
    assert here["bayes_merger"] == __version__
    assert here["device"] == "cpu"
    assert {"diffusers", "transformers", "torch"} <= here.keys()
    assert are_versions(here)


def test_the_same_versions_are_no_news() -> None:
    assert check_versions(STUDY, STUDY) == []
    assert about_upgrade(STUDY, STUDY) == ""


def test_a_study_from_before_versions_were_stored_says_nothing() -> None:
    assert check_versions({}, STUDY) == []
    assert about_upgrade({}, STUDY) == ""


def test_what_changes_pictures_is_refused_with_what_to_install() -> None:
    with pytest.raises(ConfigError) as refused:
        check_versions(STUDY, STUDY | {"bayes_merger": "1.3", "diffusers": "0.41.0", "torch": "2.14"})
    assert str(refused.value) == (
        "versions: bayes_merger is 1.3 here and was 1.2 in the study, diffusers is 0.41.0 here and was 0.42.1 in the "
        "study, so pictures from here would not compare with the study's; "
        "pip install bayes-merger==1.2 diffusers==0.42.1"
    )


def test_what_changes_the_last_digits_is_a_note() -> None:
    assert check_versions(STUDY, STUDY | {"torch": "2.14", "device": "cpu"}) == [
        "torch is 2.14 here and was 2.15.0 in the study, device is cpu here and was cuda in the study: "
        "scores may differ in their last digits"
    ]


def test_a_library_that_one_side_does_not_have_is_not_compared() -> None:
    """open_clip is installed where a scorer needs it, which says so itself."""
    assert check_versions(STUDY | {"open_clip": "3.3.0"}, STUDY) == []
    assert check_versions(STUDY, STUDY | {"open_clip": "3.3.0"}) == []


def test_an_upgrade_is_said_to_who_goes_on() -> None:
    assert about_upgrade(STUDY, STUDY | {"diffusers": "0.43.0"}) == (
        "diffusers is 0.43.0 here and was 0.42.1 in the study: new scores may not compare exactly with earlier ones"
    )


def test_samplers_that_draw_another_picture_now_are_named() -> None:
    payloads = [Payload("a", "x", sampler_name=name) for name in ("Euler a", "UniPC", "DDIM")]
    said = (
        "drawn as A1111 draws since bayes_merger {}, which the study's first pictures are not: "
        "new scores do not compare with earlier ones; a new study's do"
    )
    for first in ({}, {"bayes_merger": "0.1.0"}):
        assert about_upgrade(first, {"bayes_merger": "0.2.0"}, payloads) == f"DDIM: {said.format('0.2.0')}"
        assert about_upgrade(first, {"bayes_merger": "0.10.0"}, payloads) == f"DDIM, UniPC: {said.format('0.3.0')}"
    between = about_upgrade({"bayes_merger": "0.2.0"}, {"bayes_merger": "0.3.0"}, payloads)
    assert between == f"UniPC: {said.format('0.3.0')}"
    assert about_upgrade({"bayes_merger": "0.3.0"}, {"bayes_merger": "0.3.0"}, payloads) == ""
    assert about_upgrade({}, {"bayes_merger": "0.2.0"}, payloads[:1]) == ""
    second = payload_from_mapping("a", {"prompt": "x", "enable_hr": True, "hr_sampler_name": "PLMS"})
    assert about_upgrade({}, {"bayes_merger": "0.2.0"}, [second]).startswith("PLMS: drawn as A1111 draws")


@pytest.mark.parametrize("value", [None, [], "1.2", {"diffusers": 1}, {"diffusers": None}, {"a b": "1"}, {1: "1"}])
def test_others_may_have_written_anything(value: Any) -> None:
    assert not are_versions(value)
