"""A search from the command line on a tiny model of every architecture, to a saved model that plain diffusers draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.folders import FAMILIES, write_file, write_folder, write_tokenizers
from tests.user_folder import command, make_workplace

PAYLOAD = """\
tiny:
  prompt: a red ring
  steps: 2
  cfg_scale: 3
  width: 64
  height: 32
  sampler_name: Euler
"""


def drawn_by_diffusers(folder: Path, family: str, seed: int) -> Image.Image:
    import diffusers

    lacking = {"sd1": ("safety_checker", "feature_extractor"), "sd35": ("text_encoder_3", "tokenizer_3")}
    lacking["sd2"] = lacking["sd1"]
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        str(folder), local_files_only=True, torch_dtype=torch.float32, **dict.fromkeys(lacking.get(family, ()))
    )
    if family in ("sd1", "sd2", "sdxl"):
        from bayes_merger.imaging.pipelines.schedulers import build_scheduler

        pipe.scheduler = build_scheduler("Euler")
    pipe.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"width": 64, "height": 32, "num_inference_steps": 2, "guidance_scale": 3}
    found = pipe(prompt="a red ring", **settings, generator=torch.Generator("cpu").manual_seed(seed))
    image: Image.Image = found.images[0]
    return image


@pytest.mark.parametrize(
    "family", [family if family == "sdxl" else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]
)
def test_a_search_ends_with_a_model_that_plain_diffusers_draws(family: str, tmp_path: Path) -> None:
    tree = write_tokenizers(write_folder(tmp_path / "tree", family, 1), family)
    workplace = make_workplace(tmp_path / "work", tree)
    (workplace / "payloads" / "tiny.yaml").write_text(PAYLOAD)
    for seed, name in enumerate("ab", 1):
        write_file(workplace / f"{name}.safetensors", family, seed)
    models = ["model_a=a.safetensors", "model_b=b.safetensors", "vae=merge", "name=it"]
    result = command(workplace, "run", "experiment=tiny", *models, "init_points=3", "n_iters=1", "final.images=0")
    assert result.returncode == 0, result.stderr
    data = json.loads(command(workplace, "show", "it", "--json").stdout)
    assert data["trials"] == {"finished": 4, "failed": 0, "pruned": 0, "budget": 4}
    assert (workplace / "runs" / "it" / "best.safetensors").is_file()
    result = command(workplace, "merge", "it", "--config", str(tree), "--out", "best")
    assert result.returncode == 0, result.stderr
    picture = Image.open(workplace / "runs" / "it" / data["best"]["images"][0])
    seed = int(picture.info["parameters"].rpartition("Seed: ")[2].split(",")[0])
    assert drawn_by_diffusers(workplace / "best", family, seed).tobytes() == picture.convert("RGB").tobytes()
