"""supermerger's presets: its numbers, from the formulas behind them."""

from __future__ import annotations

import pytest

from bayes_merger.checkpoints.architectures import FLUX, SD1, SDXL
from bayes_merger.errors import ConfigError
from bayes_merger.merging.recipe.presets import is_preset, preset, presets, read_weights


def test_a_gradient_falls_to_the_middle_block_and_rises_again() -> None:
    numbers = preset("GRAD_V")
    assert len(numbers) == 26
    assert numbers[0] == 0
    assert numbers[1] == 1
    assert numbers[2] == pytest.approx(0.9166666667, abs=1e-9)
    assert numbers[13] == 0  # M00
    assert numbers[14] == pytest.approx(0.0833333333, abs=1e-9)
    assert numbers[25] == 1


def test_steps_are_where_supermerger_has_them() -> None:
    assert preset("OUT12_5") == (0,) * 13 + (0.5,) + (1,) * 12
    assert preset("MID12_50") == (0,) * 6 + (0.5,) * 14 + (0,) * 6
    assert preset("RING08_SOFT")[6:11] == (0.5, 1, 1, 1, 0.5)
    assert preset("WRAP08") == (0, 1, 1, 1, 1, *(0,) * 17, 1, 1, 1, 1)
    assert preset("ALL_B") == (1,) * 26


@pytest.mark.parametrize(
    ("name", "third", "last"),
    [
        ("SMOOTHSTEP", 0.0196759259, 1),
        ("SMOOTHSTEP*3", 0.0590277778, 1),
        ("R_SMOOTHSTEP/4", 0.7407407407, 1),
        ("COSINE", 0.9829629131, 0),
        ("TRUE_CUBIC_HERMITE", 0.3257619599, 1),
        ("FAKE_REVERSE_CUBIC_HERMITE", 0.7150848765, 0),
    ],
)
def test_curves_have_the_numbers_of_the_list(name: str, third: float, last: float) -> None:
    assert preset(name)[3] == pytest.approx(third, abs=1e-9)
    assert preset(name)[25] == pytest.approx(last, abs=1e-9)


def test_a_name_may_be_written_as_in_sd_meh_and_in_any_case() -> None:
    assert preset("half_r_smoothstep") == preset("R_SMOOTHSTEP/2")
    assert preset("reverse_smoothstep") == preset("REVERSE-SMOOTHSTEP")
    assert is_preset("2SMOOTHSTEP")
    assert not is_preset("portrait")


def test_a_preset_is_for_sdxl_too_and_leaves_out_the_blocks_that_it_lacks() -> None:
    numbers = preset("GRAD_V")
    weights = read_weights("grad_v", SDXL)
    assert list(weights.values()) == [*numbers[:10], *numbers[13:23]]
    assert read_weights("OUT07", SDXL, base=0.5) == dict.fromkeys(SDXL.blocks, 0) | {
        "BASE": 0.5, "OUT05": 1, "OUT06": 1, "OUT07": 1, "OUT08": 1,
    }  # fmt: skip
    assert read_weights("ALL_B", SDXL) == dict.fromkeys(SDXL.blocks, 1)
    for name in presets():
        assert list(read_weights(name, SDXL)) == list(SDXL.blocks)
        assert list(read_weights(name, SD1).values()) == list(preset(name))
    with pytest.raises(ConfigError, match="preset GRAD_V has 26 numbers, flux takes 58"):
        read_weights("GRAD_V", FLUX)


def test_a_misspelt_preset_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'GRAD_W' is not a preset; did you mean GRAD_"):
        preset("GRAD_W")


def test_all_are_those_of_sd_meh() -> None:
    theirs = pytest.importorskip("sd_meh.presets").BLOCK_WEIGHTS_PRESETS
    assert len(theirs) == len(presets()) == 38
    for name, numbers in theirs.items():
        assert preset(name) == pytest.approx(numbers, abs=1e-9), name
