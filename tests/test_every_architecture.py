"""A search from the command line on a tiny model of every architecture, to a saved model that plain diffusers draws."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.folders import write_file, write_folder, write_tokenizers
from tests.user_folder import command, make_workplace, one_thread

PAYLOAD = """\
tiny:
  prompt: a red ring
  steps: 2
  width: 64
  height: 32
  sampler_name: Euler
"""
ONE_FILE = ("sd1", "sd2", "sdxl")  # diffusers reads files of others at their official size only
VELOCITY = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": False}
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


@dataclass(frozen=True)
class Case:
    """Two models of one kind.

    Attributes:
        family: of `tests.folders`.
        form: `safetensors`, `ckpt` or `folder`.
        marks: tensors that say what it predicts.
        scheduler: what its folder says of that.
        guidance: `cfg_scale`.
    """

    family: str
    form: str = "safetensors"
    marks: tuple[str, ...] = ()
    scheduler: tuple[tuple[str, Any], ...] = ()
    guidance: float = 3

    def write(self, workplace: Path, tree: Path, name: str, seed: int) -> str:
        """Write a model of the case; its name as it is given."""
        if self.form == "folder":
            write_tokenizers(write_folder(workplace / name, self.family, seed), self.family)
            self.mark(workplace / name)
            return name
        file = workplace / f"{name}.safetensors"
        write_file(file, self.family, seed, extra=dict.fromkeys(self.marks, (0,)))
        if self.form == "ckpt":
            torch.save({"state_dict": load_file(file), "global_step": 7}, file.with_suffix(".ckpt"))
            file.unlink()
        return f"{name}.{self.form}"

    def mark(self, folder: Path) -> None:
        """Let a folder say what it predicts."""
        file = folder / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | dict(self.scheduler)))


CASES = {
    "sdxl": Case("sdxl"),
    "sd1": Case("sd1"),
    "sd1 as a folder": Case("sd1", "folder"),
    "sd1 as a pickle": Case("sd1", "ckpt"),
    "sd2 for 512 pixels": Case("sd2"),
    "sd2 for 768 pixels": Case("sd2", marks=("v_pred",), scheduler=(*VELOCITY.items(),)),
    "sd2 for 768 pixels as a folder": Case("sd2", "folder", scheduler=(*VELOCITY.items(),)),
    "sdxl as a folder": Case("sdxl", "folder"),
    "sdxl as a pickle": Case("sdxl", "ckpt"),
    "sdxl that predicts velocity": Case("sdxl", marks=("v_pred",), scheduler=(*VELOCITY.items(),)),
    "sdxl of zero terminal SNR": Case("sdxl", marks=("v_pred", "ztsnr"), scheduler=(*ZERO_SNR.items(),)),
    "sdxl of zero terminal SNR as a folder": Case("sdxl", "folder", scheduler=(*ZERO_SNR.items(),)),
    "sd3": Case("sd3"),
    "sd3 as a folder": Case("sd3", "folder"),
    "sd3.5 medium": Case("sd35"),
    "sd3.5 large": Case("sd35-large"),
    "flux dev": Case("flux"),
    "flux dev as a folder": Case("flux", "folder"),
    "flux schnell": Case("schnell", guidance=1),
    "flux schnell as a pickle": Case("schnell", "ckpt", guidance=1),
}


def drawn_by_diffusers(saved: Path, tree: Path, case: Case, seed: int) -> Image.Image:
    """A picture by diffusers' pipeline of a saved folder, or of a saved file and a folder of its settings."""
    import diffusers

    from bayes_merger.imaging.pipelines.schedulers import build_scheduler

    lacking: dict[str, None] = {}
    if case.family in ("sd1", "sd2"):
        lacking = {"safety_checker": None, "feature_extractor": None}
    elif case.family.startswith("sd35"):
        lacking = {"text_encoder_3": None, "tokenizer_3": None}
    options: dict[str, Any] = {"local_files_only": True, "torch_dtype": torch.float32, **lacking}
    if saved.is_dir():
        pipe = diffusers.DiffusionPipeline.from_pretrained(str(saved), **options)
    else:
        name = json.loads((tree / "model_index.json").read_text())["_class_name"]
        pipe = getattr(diffusers, name).from_single_file(str(saved), config=str(tree), **options)
    if case.family in ONE_FILE:
        said = [pipe.scheduler.config[name] for name in ("prediction_type", "rescale_betas_zero_snr")]
        pipe.scheduler = build_scheduler("Euler", prediction_type=said[0], zero_snr=said[1])
    pipe.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"width": 64, "height": 32, "num_inference_steps": 2, "guidance_scale": case.guidance}
    with one_thread():
        found = pipe(prompt="a red ring", **settings, generator=torch.Generator("cpu").manual_seed(seed))
    image: Image.Image = found.images[0]
    return image


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name, marks=() if name == "sdxl" else pytest.mark.slow) for name, case in CASES.items()],
)
def test_a_search_ends_with_a_model_that_plain_diffusers_draws(case: Case, tmp_path: Path) -> None:
    tree = write_tokenizers(write_folder(tmp_path / "tree", case.family, 1), case.family)
    case.mark(tree)
    workplace = make_workplace(tmp_path / "work", tree)
    (workplace / "payloads" / "tiny.yaml").write_text(f"{PAYLOAD}  cfg_scale: {case.guidance:g}\n")
    models = [f"model_{name}={case.write(workplace, tree, name, seed)}" for seed, name in enumerate("ab", 1)]
    own = ["generator.config=null"] if case.form == "folder" else []
    settings = [*models, *own, "vae=merge", "name=it", "init_points=3", "n_iters=3", "final.images=0"]
    result = command(workplace, "run", "experiment=tiny", *settings)
    assert result.returncode == 0, result.stderr
    data = json.loads(command(workplace, "show", "it", "--json").stdout)
    assert data["trials"] == {"finished": 6, "failed": 0, "pruned": 0, "budget": 6}
    picture = Image.open(workplace / "runs" / "it" / data["best"]["images"][0])
    seed = int(picture.info["parameters"].rpartition("Seed: ")[2].split(",")[0])
    result = command(workplace, "merge", "it", "--config", str(tree), "--out", "best")
    assert result.returncode == 0, result.stderr
    saved = [workplace / "best"]
    if case.family in ONE_FILE:
        saved.append(workplace / "runs" / "it" / "best.safetensors")
    for model in saved:
        assert drawn_by_diffusers(model, tree, case, seed).tobytes() == picture.convert("RGB").tobytes()
