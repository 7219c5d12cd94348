"""Write full-size SD1.5 checkpoints of random weights, for measuring: they load everywhere and draw only noise.

    python benchmarks/make_full_size.py FOLDER        # FOLDER/a.safetensors, b.safetensors, c.safetensors: 2.1 GB each

``a`` and ``b`` are "fine-tunes" of ``c``: each differs from it by a tenth of every tensor's own spread.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from bayes_merger.imaging.keymap import to_single_file

CONFIGS = Path(__file__).parents[1] / "bayes_merger" / "imaging" / "configs" / "sd15"


def shapes() -> dict[str, torch.Size]:
    """Key -> shape of SD1.5's single-file layout, from the models' configurations."""
    configs = {
        part: json.loads((CONFIGS / part / "config.json").read_text()) for part in ("unet", "vae", "text_encoder")
    }
    with torch.device("meta"):
        tensors = to_single_file(
            unet=UNet2DConditionModel.from_config(configs["unet"]).state_dict(),
            vae=AutoencoderKL.from_config(configs["vae"]).state_dict(),
            text_encoder=CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])).state_dict(),
        )
    return {key: tensor.shape for key, tensor in tensors.items()}


def initial(key: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """A tensor of a plausible size: signals neither vanish nor overflow on their way through."""
    noise = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return noise / math.sqrt(math.prod(shape[1:]))
    return 0.02 * noise + (1.0 if key.endswith("weight") else 0.0)


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    layout = shapes()
    for number, name in enumerate("cab"):
        tensors = {}
        base, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(number)
        for key, shape in layout.items():
            tensor = initial(key, shape, base)
            if number:
                tensor += 0.1 * tensor.std(correction=0) * torch.randn(shape, generator=own)
            tensors[key] = tensor.half()
        position_ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
        tensors[position_ids] = torch.arange(77).unsqueeze(0)
        save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
        print(folder / f"{name}.safetensors")


if __name__ == "__main__":
    main()
