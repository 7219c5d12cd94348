"""What a model predicts, from all the marks that there are."""

from __future__ import annotations

import pytest

from bayes_merger.checkpoints.prediction import (
    EDM,
    EDM_V,
    EPSILON,
    V,
    edm_mark,
    has_zero_snr,
    predicted,
    predicted_by,
    prediction_metadata,
)

FIELD, OLD_FIELD = "modelspec.prediction_type", "modelspec.predict_key"


@pytest.mark.parametrize(
    ("keys", "metadata", "kind"),
    [
        ((), {}, ""),
        ((), {FIELD: "epsilon"}, EPSILON),
        ((), {FIELD: "v"}, V),
        ((), {OLD_FIELD: "v"}, V),
        ((), {FIELD: "v_prediction"}, V),
        ((), {FIELD: " V-Prediction"}, V),
        ((), {FIELD: "V"}, V),
        ((), {FIELD: "Epsilon"}, EPSILON),
        ((), {FIELD: "hokum"}, ""),
        (("v_pred",), {}, V),
        (("ztsnr",), {}, V),
        (("v_pred", "ztsnr"), {FIELD: "epsilon"}, V),
        (("edm_vpred.sigma_max", "edm_vpred.sigma_min"), {}, EDM_V),
        (("edm_vpred.sigma_max", "v_pred"), {FIELD: "v"}, EDM_V),
        (("edm_mean", "edm_std"), {FIELD: "epsilon"}, EDM),
    ],
)
def test_a_file_s_tensors_go_before_its_metadata(keys: tuple[str, ...], metadata: dict[str, str], kind: str) -> None:
    assert predicted(keys, metadata) == kind


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, ""),
        ({"prediction_type": "epsilon"}, EPSILON),
        ({"prediction_type": "v_prediction", "_class_name": "DDIMScheduler"}, V),
        ({"prediction_type": "v_prediction", "_class_name": "EDMEulerScheduler"}, EDM_V),
        ({"prediction_type": "epsilon", "_class_name": "EDMDPMSolverMultistepScheduler"}, EDM),
        ({"prediction_type": "v-prediction"}, V),
        ({"prediction_type": "sample"}, ""),
        ({"prediction_type": ["v"], "_class_name": 3}, ""),
    ],
)
def test_a_folder_s_scheduler_says_it(settings: dict[str, object], kind: str) -> None:
    assert predicted_by(settings) == kind


def test_what_metadata_can_say() -> None:
    said = [prediction_metadata(kind).get(FIELD) for kind in (EPSILON, V, EDM_V, EDM, "")]
    assert said == ["epsilon", "v", "v", None, None]
    assert edm_mark(["v_pred", "edm_std"]) == "edm_std"
    assert not edm_mark(["v_pred"])


@pytest.mark.parametrize(
    ("keys", "given", "zero"),
    [
        (["v_pred", "ztsnr"], None, True),
        (["v_pred", "ztsnr"], "auto", True),
        (["v_pred", "ztsnr"], "epsilon", False),
        (["ztsnr"], "v_prediction", True),
        (["ztsnr"], None, True),
        (["v_pred"], None, False),
    ],
)
def test_a_model_that_is_drawn_down_to_zero_snr(keys: list[str], given: str | None, zero: bool) -> None:
    assert has_zero_snr(keys, given) is zero
