"""``checkpoints.activations.sidecar``: what is read, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bayes_merger.checkpoints.activations.names import METADATA
from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.errors import CheckpointError
from tests.sidecars import measured

SHAPES = {"x.weight": (3, 2)}


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Sidecar(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_a_statistic_over_all_bands_is_weighted_by_its_counts(tmp_path: Path) -> None:
    change = {"x.weight|in_sq": torch.tensor([[1.0, 2.0], [5.0, 10.0]]), "x.weight|guided_out": torch.ones(2, 3)}
    sidecar = Sidecar(measured(tmp_path / "a.safetensors", SHAPES, change=change))
    assert sidecar.mean("x.weight", "in_sq").tolist() == [2.0, 4.0]  # (3 * 1 + 1 * 5) / 4
    assert sidecar.mean("x.weight", "guided_out").tolist() == [1.0, 1.0, 1.0]
    assert sorted(sidecar.statistics["x.weight"]) == ["guided_in", "guided_out", "in_abs", "in_sq"]
    assert sidecar.about is not None
    assert sidecar.about.bands == 2
    sidecar.close()


def test_any_program_can_write_a_plain_one(tmp_path: Path) -> None:
    save_file({"x.weight": torch.tensor([[0.5, 2.0]], dtype=torch.float16)}, tmp_path / "plain.safetensors")
    sidecar = Sidecar(tmp_path / "plain.safetensors")
    assert sidecar.about is None
    assert sidecar.plain("x.weight").tolist() == [[0.5, 2.0]]
    sidecar.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x.weight|in_sq": torch.full((2, 2), float("nan"))}, "'x.weight|in_sq' holds NaN or infinity"),
        ({"x.weight|in_sq": torch.full((2, 2), -1.0)}, "'x.weight|in_sq' holds -1; statistics"),
        ({"x.weight|n": torch.zeros(2, dtype=torch.float64)}, "was taken over nothing: its count is 0"),
        ({"x.weight|n": torch.tensor([1.0, float("inf")])}, "'x.weight|n' holds NaN or infinity"),
        ({"x.weight|n": torch.tensor([-1.0, 3.0])}, "'x.weight|n' holds -1; statistics"),
        ({"x.weight|n": torch.full((2,), float("nan"))}, "'x.weight|n' holds NaN or infinity"),
        ({"x.weight|n": torch.full((2,), 1e308, dtype=torch.float64)}, "'x.weight|n' holds 1e+308, more than fp32"),
        ({"x.weight|n": None}, "lacks its count 'x.weight|n'"),
        ({"x.weight|in_sq": torch.ones(3, 2)}, "is [3, 2] and its count [2], not (2, channels)"),
        ({"x.weight|in_sq": torch.ones(2, 2, dtype=torch.int32)}, "'x.weight|in_sq' is I32; it must be"),
        ({"x.weight|weird": torch.ones(2, 2)}, "'x.weight|weird' is no statistic"),
        ({"x.weight|by_run": torch.ones(2, 2)}, "is [2, 2], and there are 1 runs"),
        ({"x.weight|by_run": torch.ones(1, 2, dtype=torch.int64)}, "'x.weight|by_run' is I64; it must be"),
        ({"y.weight": torch.ones(2, 2)}, "'y.weight' is no statistic"),
    ],
)
def test_bad_statistics_are_refused(tmp_path: Path, change: dict[str, torch.Tensor | None], said: str) -> None:
    assert said in refused(measured(tmp_path / "a.safetensors", SHAPES, change=change))


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"version": 2}, "version 2 of activations is not read"),
        ({"bands": 10**9}, "it claims 1000000000 bands"),
        ({"bands": True}, "no valid 'bands'"),
        ({"model": None}, "no valid 'model'"),
        ({"runs": [{"no": "id"}]}, "runs without an id"),
        ({"runs": "x"}, "no valid 'runs'"),
        ({"runs": [{"id": "x"}, {"id": "x"}]}, "has a run twice"),
        ({"runs": [{"id": "x", "seeds": json.loads("[" * 900 + "]" * 900)}]}, "has tables within tables"),
    ],
)
def test_a_hostile_header_is_refused(tmp_path: Path, about: dict[str, Any], said: str) -> None:
    assert said in refused(measured(tmp_path / "a.safetensors", SHAPES, **about))


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x.weight": torch.ones(2)}, path, {METADATA: "[" * 10_000})
    assert "is not JSON" in refused(path)
    save_file({"x.weight": torch.ones(2)}, path, {METADATA: "[]"})
    assert "is not a table" in refused(path)
    save_file({"x.weight|in_sq": torch.ones(1, 2)}, path)
    assert "is a statistic, and no metadata" in refused(path)
    save_file({"x.weight": torch.ones(2, dtype=torch.int64)}, path)
    assert "is I64; a saliency is" in refused(path)
    save_file({"x.weight": torch.tensor([0.5, -0.25])}, path)
    assert refused(path).endswith(
        "holds -0.25; statistics and saliencies are not negative; a model is measured first:  "
        "bayes-merger activations MODEL"
    )
    (tmp_path / "folder").mkdir()
    assert "cannot be opened (Is a directory)" in refused(tmp_path / "folder")
    whole = measured(path, SHAPES).read_bytes()
    path.write_bytes(whole[:-5])
    assert "truncated" in refused(path)
    assert "cannot be opened" in refused(tmp_path / "nowhere.safetensors")


def test_a_file_of_activations_is_no_model(tmp_path: Path) -> None:
    key = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
    with open_checkpoint(measured(tmp_path / "a.safetensors", {key: (3, 2)})) as file:
        assert file.kind.name == "activations"
        with pytest.raises(CheckpointError, match=r"this is a file of activations; give it as  saliency\.b=FILE  and"):
            file.architecture  # noqa: B018


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b'{"x.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},', "its header is not JSON"),
        (b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
         "'x' appears twice"),
        (b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
         "overlaps the one before it"),
        (b'{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,8]}}', "needs 4398046511104 bytes and has 8"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_as_a_model_is(tmp_path: Path, header: bytes, said: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert said in refused(path)
    path.write_bytes((2**62).to_bytes(8, "little") + header + bytes(8))
    assert "it claims a header of 4611686018427387904 bytes" in refused(path)


def test_a_pickle_of_tensors_is_a_plain_one(tmp_path: Path) -> None:
    torch.save({"x.weight": torch.tensor([[0.5, 2.0]])}, tmp_path / "plain.pt")
    sidecar = Sidecar(tmp_path / "plain.pt")
    assert sidecar.plain("x.weight").tolist() == [[0.5, 2.0]]
    sidecar.close()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_is_shown_is_what_a_merge_takes(tmp_path: Path, dtype: torch.dtype) -> None:
    path = measured(tmp_path / "m.safetensors", {"x.weight": (3, 2)})
    tensors = {name: t if name.endswith("n") else t.to(dtype) for name, t in load_file(path).items()}
    with safe_open(path, "pt") as file:
        save_file(tensors, path, file.metadata())
    sidecar = Sidecar(path)
    for statistic in ("in_sq", "guided_out"):
        assert sidecar.shown("x.weight", statistic) == pytest.approx(sidecar.mean("x.weight", statistic).numpy())
    assert sidecar.shown("x.weight", "by_run").tolist() == [[1.0, 1.0]]
    sidecar.close()
    save_file({"y.weight": torch.tensor([[0.5, 2.0]], dtype=dtype)}, tmp_path / "plain.safetensors")
    plain = Sidecar(tmp_path / "plain.safetensors")
    assert plain.shown("y.weight").tolist() == plain.plain("y.weight").tolist() == [[0.5, 2.0]]
    plain.close()
