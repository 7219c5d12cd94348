"""The VAE in re-basin: in the order of another's it decodes what it decoded, and one that cannot be compared stays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayes_merger.checkpoints.naming import VAE
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.imaging.pipelines.streamed import streamed_networks
from bayes_merger.imaging.responses import difference, responses
from bayes_merger.merging import SD1, MergeRecipe, merge
from bayes_merger.merging.models.opening import open_each, references
from bayes_merger.merging.rebasin.model import AlignedModel
from bayes_merger.merging.rebasin.settings import Alike, read_rebasin
from bayes_merger.run.rebasin import find_orders, orders_kept
from tests.merging.rebasin.models import scrambled

Tensors = Mapping[str, torch.Tensor]
LAYOUT = {"groups": 8, "heads": {"8": 2, "16": 2, "24": 2}, "text_heads": {"8": 2}}
"""Of the tiny models, as it was before it said anything of the VAE."""


@pytest.fixture
def alike(tiny_sd1_config: Path) -> Alike:
    return read_rebasin("rebasin", {"b": {"to": "a", "config": str(tiny_sd1_config)}})["b"]


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory, tiny_a: Path, tiny_sd1_config: Path) -> Path:
    """A with its neurons in a random order."""
    return scrambled(tiny_a, tiny_sd1_config, tmp_path_factory.mktemp("lost") / "lost.safetensors")[0]


def merged(a: Path, b: Path, alike: Alike, vae: str) -> dict[str, torch.Tensor]:
    """A merge of A with B in its order."""
    models = open_each({"a": str(a), "b": str(b)}, rebasin={"b": alike})
    weights = {"alpha": dict.fromkeys(SD1.blocks, 0.3)}
    made = MergeRecipe(
        models=references(models, False), weights=weights, architecture="sd1", rebasin={"b": alike}, vae=vae
    )
    found = dict(merge(made, models))
    for model in models.values():
        model.close()
    return found


def decoded(tensors: Tensors, path: Path, config: Path) -> dict[str, torch.Tensor]:
    """What the VAE of a model answers."""
    save_file(dict(tensors), path)
    with open_checkpoint(path) as model:
        return responses({"vae": streamed_networks(model, config, vae=True)["vae"]})


def test_bs_vae_in_the_order_of_as_decodes_as_bs_does_and_averages_with_as(
    tmp_path: Path, alike: Alike, tiny_a: Path, tiny_sd1_config: Path
) -> None:
    generator, a, near = torch.Generator().manual_seed(0), load_file(tiny_a), tmp_path / "near.safetensors"
    own = {key: (t + 0.1 * t.float().std() * torch.randn(t.shape, generator=generator)).half() for key, t in a.items()}
    save_file(own, near)
    lost, _ = scrambled(near, tiny_sd1_config, tmp_path / "lost.safetensors")
    vae, theirs = [key for key in a if key.startswith(VAE)], load_file(lost)
    taken = merged(tiny_a, lost, alike, "b")
    assert all(torch.equal(taken[key], own[key]) for key in vae)
    assert sum(not torch.equal(taken[key], theirs[key]) for key in vae) > 100
    before, after = (
        decoded(tensors, tmp_path / f"{number}.safetensors", tiny_sd1_config)
        for number, tensors in enumerate((theirs, taken))
    )
    assert set(before) == {"vae encoder", "vae decoder"}
    assert difference(before, after) < 1e-5
    averages = [merged(tiny_a, b, alike, "merge") for b in (near, lost)]
    assert all(torch.equal(averages[0][key], averages[1][key]) for key in vae)
    assert not all(torch.equal(averages[0][key], a[key]) for key in vae)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("what", ["a half", "another size", "attention of a level", "none", "a tensor less"])
def test_a_vae_that_cannot_be_compared_stays(
    tmp_path: Path, alike: Alike, lost: Path, tiny_a: Path, what: str, who: str
) -> None:
    files = {"a": load_file(tiny_a), "b": load_file(lost)}
    gone = {"none": VAE, "a half": f"{VAE}encoder.", "a tensor less": f"{VAE}decoder.mid.block_1.conv1.bias"}
    files[who] = {key: t for key, t in files[who].items() if not key.startswith(gone.get(what, "!"))}
    if what == "another size":
        files[who][f"{VAE}encoder.down.0.block.0.conv1.weight"] = torch.zeros(8, 8, 1, 1).half()
    elif what == "attention of a level":  # which no settings know
        files[who][f"{VAE}encoder.down.2.attn.0.q.weight"] = torch.zeros(24, 24, 1, 1).half()
    for name, tensors in files.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    with open_checkpoint(tmp_path / "a.safetensors") as a, open_checkpoint(tmp_path / "b.safetensors") as b:
        model = AlignedModel(b, a, alike)
        assert model.said()["layout"] == LAYOUT
        assert find_orders([model])  # verified, too
        for key in model.shapes:
            assert torch.equal(model.tensor(key), files["b" if key.startswith(VAE) else "a"][key]), key


def test_attention_without_the_1x1_of_its_convolutions_is_the_same(
    tmp_path: Path, alike: Alike, lost: Path, tiny_a: Path
) -> None:
    tensors, target = load_file(lost), load_file(tiny_a)
    matrices = [key for key in tensors if ".mid.attn_1." in key and tensors[key].dim() == 4]
    assert len(matrices) == 8
    save_file(tensors | {key: tensors[key][..., 0, 0] for key in matrices}, tmp_path / "flat.safetensors")
    with open_checkpoint(tiny_a) as a, open_checkpoint(tmp_path / "flat.safetensors") as b:
        model = AlignedModel(b, a, alike)
        assert model.said()["layout"] == LAYOUT | {"vae_groups": 8}
        assert all(torch.equal(model.tensor(key), target[key].view(model.shapes[key])) for key in target)
        assert find_orders([model])


def test_a_study_of_before_vaes_were_put_in_order_keeps_its_order(alike: Alike, lost: Path, tiny_a: Path) -> None:
    with open_checkpoint(tiny_a) as a, open_checkpoint(lost) as b:

        def said(**more: Any) -> dict[str, Any]:
            return AlignedModel(b, a, {**alike, **more}).said()

        before = said(layout=LAYOUT)["sha256"]
        today = said()
        assert today["layout"] == LAYOUT | {"vae_groups": 8}
        assert today["sha256"] != before
        assert said(sha256=before) == {"to": "a", "by": "weights", "layout": LAYOUT, "sha256": before}
        kept = orders_kept({"rebasin": {"b": {"to": "a"}}, "recipe": {}}, {"b": AlignedModel(b, a, alike)})
        assert kept == {"rebasin": {"b": {"to": "a", "layout": today["layout"], "sha256": today["sha256"]}}}
