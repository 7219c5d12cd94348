"""What makes scores comparable, and what older studies do not say of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bayes_merger.config import GeneratorConfig
from bayes_merger.run.fingerprint import fingerprint
from tests.run.fake_run import make_setup


@pytest.fixture
def t5(tmp_path: Path) -> Path:
    save_file({"shared.weight": torch.ones(2, 2)}, tmp_path / "t5.safetensors")
    return tmp_path / "t5.safetensors"


def test_a_t5_from_elsewhere_counts_by_its_content(t5: Path) -> None:
    setup = make_setup(generator=GeneratorConfig(text_encoder_3=str(t5)))
    mark = fingerprint(setup, {})
    assert mark["text_encoder_3"] == hashlib.sha256(t5.read_bytes()).hexdigest()
    save_file({"shared.weight": torch.zeros(2, 2)}, t5)
    assert fingerprint(setup, {}, mark)["text_encoder_3"] != mark["text_encoder_3"]


def test_a_study_from_before_that_was_said_goes_on(t5: Path) -> None:
    setup = make_setup(generator=GeneratorConfig(text_encoder_3=str(t5)))
    old = {key: value for key, value in fingerprint(setup, {}).items() if key != "text_encoder_3"}
    assert fingerprint(setup, {}, old) == old
    assert "text_encoder_3" not in fingerprint(make_setup(), {})
