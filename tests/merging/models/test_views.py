"""Models seen through others pass on everything that they do not change."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bayes_merger.checkpoints.checkpoint import Checkpoint, ModelView
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.merging.models.aligned import aligned
from bayes_merger.merging.models.ema import averages, ema_key, with_ema
from bayes_merger.merging.models.lora import LoraModel
from bayes_merger.merging.models.vae import VaeFile
from tests.folders import write_folder
from tests.merging.tiny_models import UNET, VAE, write_model

WEIGHT = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


class Talkative(ModelView):
    """A model that differs from a plain file in everything a view could forget, and remembers what was done to it."""

    def __init__(self, model: Checkpoint) -> None:
        super().__init__(model)
        self.constant, self.computed = False, True
        self.metadata = {"said": "yes"}
        self.done: list[str] = []

    @property
    def files(self) -> tuple[Path, ...]:
        return (Path("one"), Path("two"))

    @property
    def notes(self) -> tuple[str, ...]:
        return ("a note",)

    @property
    def stored(self) -> Mapping[str, str]:
        return dict.fromkeys(self.shapes, "BF16")

    @property
    def prediction(self) -> str:
        return "v"

    def version(self, key: str) -> Hashable:
        return ("version of", key)

    def sha256(self) -> str:
        return "5" * 64

    def release(self) -> None:
        self.done.append("release")

    def close(self) -> None:
        self.done.append("close")


def talkative(path: Path) -> Talkative:
    return Talkative(open_checkpoint(path))


def plain(folder: Path) -> tuple[Talkative, ModelView, str, str]:
    model = talkative(write_model(folder / "a.safetensors", 1))
    return model, ModelView(model), WEIGHT, WEIGHT


def under_other_names(folder: Path) -> tuple[Talkative, ModelView, str, str]:
    save_file({"double_blocks.0.img_mod.lin.weight": torch.ones(2, 2)}, folder / "bare.safetensors")
    name = "model.diffusion_model.double_blocks.0.img_mod.lin.weight"
    save_file({name: torch.ones(2, 2)}, folder / "prefixed.safetensors")
    model = talkative(folder / "bare.safetensors")
    view = aligned(model, open_checkpoint(folder / "prefixed.safetensors"))
    assert isinstance(view, ModelView)
    return model, view, name, "double_blocks.0.img_mod.lin.weight"


def with_averages(folder: Path) -> tuple[Talkative, ModelView, str, str]:
    model = talkative(write_model(folder / "a.safetensors", 1))
    view = with_ema(model, {ema_key(WEIGHT): WEIGHT})
    assert isinstance(view, ModelView)
    return model, view, ema_key(WEIGHT), WEIGHT


def vae_of_a_file(folder: Path) -> tuple[Talkative, ModelView, str, str]:
    save_file({VAE.removeprefix("first_stage_model."): torch.ones(5, 4, 3, 3)}, folder / "vae.safetensors")
    model = talkative(folder / "vae.safetensors")
    base = open_checkpoint(write_model(folder / "a.safetensors", 1))
    return model, VaeFile(model, base), VAE, VAE.removeprefix("first_stage_model.")


VIEWS = [plain, under_other_names, with_averages, vae_of_a_file]


@pytest.mark.parametrize("make", VIEWS)
def test_a_view_passes_on_what_it_does_not_change(make, tmp_path):
    model, view, key, own = make(tmp_path)
    for name in ("path", "files", "metadata", "notes", "prediction", "constant", "computed", "has_parts"):
        assert getattr(view, name) == getattr(model, name), name
    assert view.sha256() == "5" * 64
    assert view.version(key) == ("version of", own)
    assert view.stored[key] == "BF16"
    assert view.dtypes[key] == model.dtypes[own]
    assert torch.equal(view.tensor(key), model.tensor(own))
    view.release()
    view.close()
    assert model.done == ["release", "close"]


@pytest.mark.parametrize("make", VIEWS)
def test_a_part_of_a_tensor_is_read_through_a_view(make, tmp_path):
    model, view, key, own = make(tmp_path)
    part = torch.empty(2, dtype=model.tensor(own).dtype)
    view.read_part(key, 1, part)
    assert torch.equal(part, model.tensor(own).flatten()[1:3])


def test_a_lora_is_model_a_seen_through_a_file_of_its_own(tmp_path):
    base = talkative(write_model(tmp_path / "a.safetensors", 1))
    tensors: dict[str, Tensor] = {
        f"{LAYER}.lora_up.weight": torch.ones(6, 1),
        f"{LAYER}.lora_down.weight": torch.ones(1, 7),
    }
    save_file(tensors, tmp_path / "lora.safetensors", {"name": "style"})
    file = open_checkpoint(tmp_path / "lora.safetensors")
    lora = LoraModel(base, file)
    assert (lora.path, lora.files, lora.sha256(), lora.metadata) == (
        file.path,
        file.files,
        file.sha256(),
        {"name": "style"},
    )
    assert (lora.prediction, lora.constant, lora.computed, lora.has_parts) == ("v", False, True, False)
    assert lora.version(WEIGHT) == ("version of", WEIGHT)
    assert lora.stored[WEIGHT] == "BF16"
    assert lora.dtypes[WEIGHT] == "F32"
    assert torch.equal(lora.tensor(WEIGHT), base.tensor(WEIGHT).float() + 1)
    assert torch.equal(lora.tensor(VAE), base.tensor(VAE))
    lora.close()
    assert base.done == []


def test_a_folders_notes_and_parts_survive_the_averages_of_another_model(tmp_path):
    folder = write_folder(tmp_path / "f", "sd1")
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    with open_checkpoint(folder) as model:
        assert "a variant is read" in model.notes[0]
        first = next(key for key in model.shapes if key.startswith("model.diffusion_model."))
        view = with_ema(model, {ema_key(first): first})
        assert averages(view) == {ema_key(first): first}
        assert (view.notes, view.has_parts, view.files) == (model.notes, True, model.files)
