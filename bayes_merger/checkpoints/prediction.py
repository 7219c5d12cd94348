"""What a model predicts, from all the marks that files and folders carry: the one place that reads them.

========  =====================================================  ====================================================
kind      the network's output                                   marks
========  =====================================================  ====================================================
epsilon   the noise                                              metadata, a scheduler's ``prediction_type``
v         velocity                                               the tensors ``v_pred`` and ``ztsnr``, the same
edm-v     velocity on EDM's schedule (CosXL)                     the tensors ``edm_vpred.sigma_max`` and ``_min``
edm       the denoised image on EDM's schedule (Playground 2.5)  the tensors ``edm_mean`` and ``edm_std``
========  =====================================================  ====================================================

The tensors are those of ComfyUI (https://github.com/Comfy-Org/ComfyUI, ``comfy/supported_models.py``) and A1111.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

EPSILON, V, EDM_V, EDM = "epsilon", "v", "edm-v", "edm"

MARKS: Mapping[str, str] = {  # the first of a kind that counts more comes first
    "edm_mean": EDM,
    "edm_std": EDM,
    "edm_vpred.sigma_max": EDM_V,
    "edm_vpred.sigma_min": EDM_V,
    "v_pred": V,
    "ztsnr": V,
}
"""Tensors that say what is predicted; some hold numbers of the noise schedule, ``v_pred`` and ``ztsnr`` none."""

ZERO_SNR = "ztsnr"
"""The mark of a model that was trained down to zero signal-to-noise ratio."""

WORDS: Mapping[str, str] = {EPSILON: "noise", V: "v", EDM_V: "v on EDM's schedule", EDM: "images on EDM's schedule"}
"""Kind to what errors call it."""

_MODELSPEC = {EPSILON: "epsilon", V: "v", EDM_V: "v"}
_SAID = {"epsilon": EPSILON, "eps": EPSILON, "v": V, "v_prediction": V, "v_pred": V, "vpred": V}
_EDM_SCHEDULER = "EDM"  # how diffusers' names of EDM's schedulers begin


def predicted(keys: Collection[str], metadata: Mapping[str, str]) -> str:
    """The kind of a single file by its tensors, else by its metadata; empty where neither says it."""
    said = metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key", "")
    return next((kind for mark, kind in MARKS.items() if mark in keys), "") or _said(said)


def _said(text: object) -> str:
    """The kind that a word means, as people write it; empty for others."""
    return _SAID.get(str(text).strip().lower().replace("-", "_"), "")


def predicted_by(scheduler: Mapping[str, Any]) -> str:
    """The kind of a diffusers folder by its scheduler's settings; empty where they do not say it."""
    said = _said(scheduler.get("prediction_type"))
    if str(scheduler.get("_class_name", "")).startswith(_EDM_SCHEDULER):
        return EDM_V if said == V else EDM
    return said


def has_zero_snr(keys: Collection[str], given: str | None) -> bool:
    """Whether a model is drawn down to zero terminal SNR: by its marks, and what it is said to predict, if at all."""
    return ZERO_SNR in keys and (_said(given) or predicted(keys, {})) == V


def edm_mark(keys: Collection[str]) -> str:
    """The first mark of an EDM model among a file's tensors; empty where there is none."""
    return next((mark for mark, kind in MARKS.items() if kind in (EDM, EDM_V) and mark in keys), "")


def prediction_metadata(kind: str) -> dict[str, str]:
    """The field of a file's metadata for what it predicts; none where the kind has no word there."""
    return {"modelspec.prediction_type": _MODELSPEC[kind]} if kind in _MODELSPEC else {}
