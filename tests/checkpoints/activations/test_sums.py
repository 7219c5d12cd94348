"""``checkpoints.activations.sums``: files merged as if all had been measured at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bayes_merger.checkpoints.activations.sidecar import Sidecar
from bayes_merger.checkpoints.activations.sums import merged
from bayes_merger.errors import BayesMergerError, ConfigError
from tests.sidecars import RUN, measured

SHAPES = {"x.weight": (3, 2)}


def one(folder: Path, name: str, value: float, counts: tuple[float, float] = (3.0, 1.0), **about: Any) -> Path:
    change = {
        "x.weight|in_sq": torch.full((2, 2), value),
        "x.weight|n": torch.tensor(counts, dtype=torch.float64),
        "x.weight|by_run": torch.full((1, 2), value),
    }
    return measured(folder / f"{name}.safetensors", SHAPES, change=change, **{"runs": [{**RUN, "id": name}], **about})


def test_means_are_weighted_by_counts_and_runs_stay_apart(tmp_path: Path) -> None:
    paths = [one(tmp_path, "a", 1.0), one(tmp_path, "b", 5.0, (1.0, 0.0)), one(tmp_path, "c", 9.0, (0.0, 0.0001))]
    merged(paths).save(tmp_path / "all.safetensors")
    sidecar = Sidecar(tmp_path / "all.safetensors")
    assert sidecar.banded("x.weight", "in_sq")[:, 0].tolist() == pytest.approx([2.0, 1.0008], abs=1e-4)
    assert sidecar.counts("x.weight", "n").tolist() == pytest.approx([4.0, 1.0001])
    assert sidecar.by_run("x.weight").tolist() == [[1.0, 1.0], [5.0, 5.0], [9.0, 9.0]]
    assert [run["id"] for run in sidecar.about.runs] == ["a", "b", "c"] if sidecar.about else False
    sidecar.close()


def test_the_same_files_give_the_same_bytes_in_any_grouping(tmp_path: Path) -> None:
    paths = [one(tmp_path, name, value) for name, value in (("a", 0.1), ("b", 0.7), ("c", 3.3))]
    for name in ("one", "two"):
        merged(paths).save(tmp_path / f"{name}.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    merged(paths[:2]).save(tmp_path / "first.safetensors")
    regrouped = merged([tmp_path / "first.safetensors", paths[2]])
    at_once = merged(paths)
    for statistic, sums in at_once.sums["x.weight"].items():
        assert torch.allclose(regrouped.sums["x.weight"][statistic], sums, rtol=1e-6)
    assert torch.equal(regrouped.counts["x.weight"]["n"], at_once.counts["x.weight"]["n"])


def test_eight_runs_are_what_one_of_all_is(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(8, generator=generator, dtype=torch.float64) * 100
    places = torch.randint(1, 10**6, (8, 2), generator=generator).double()
    paths = [one(tmp_path, str(n), float(values[n]), tuple(places[n].tolist())) for n in range(8)]
    found = merged(paths)
    assert torch.equal(found.counts["x.weight"]["n"], places.sum(0))
    sums = (values.unsqueeze(1) * places).sum(0)
    assert torch.allclose(found.sums["x.weight"]["in_sq"], sums.unsqueeze(1).expand(2, 2), rtol=1e-6)


def test_what_was_not_measured_alike_is_refused(tmp_path: Path) -> None:
    first = one(tmp_path, "a", 1.0)
    others = {
        "model: ": one(tmp_path, "b", 1.0, model="f" * 64),
        "architecture: sdxl": one(tmp_path, "c", 1.0, architecture="sdxl"),
        "would count twice": one(tmp_path, "d", 1.0, runs=[{**RUN, "id": "a"}]),
    }
    for said, path in others.items():
        with pytest.raises(ConfigError, match=said):
            merged([first, path])
    fewer = measured(tmp_path / "e.safetensors", SHAPES, runs=[{**RUN, "id": "e"}], change={"x.weight|guided_in": None})
    with pytest.raises(ConfigError, match=r"statistics: .*only files that were measured alike"):
        merged([first, fewer])
    with pytest.raises(BayesMergerError, match="name the files"):
        merged([])


def test_a_count_may_be_less_than_one(tmp_path: Path) -> None:
    merged([one(tmp_path, "a", 8.0, (0.25, 0.0))]).save(tmp_path / "all.safetensors")
    sidecar = Sidecar(tmp_path / "all.safetensors")
    assert sidecar.banded("x.weight", "in_sq").tolist() == [[8.0, 8.0], [0.0, 0.0]]
    sidecar.close()


def test_files_of_other_channels_are_refused(tmp_path: Path) -> None:
    other = measured(tmp_path / "b.sft", {"x.weight": (3, 1)}, runs=[{**RUN, "id": "b"}])  # one channel, two bands
    with pytest.raises(ConfigError) as caught:
        merged([one(tmp_path, "a", 1.0), other])
    assert str(caught.value) == (
        f"{other}: 'x.weight|guided_in' is [2, 1], not [2, 2] as in the files before; measure it again"
    )


def test_a_file_may_be_merged_into_itself(tmp_path: Path) -> None:
    paths = [one(tmp_path, "a", 1.0), one(tmp_path, "b", 5.0)]
    merged(paths).save(tmp_path / "all.safetensors")
    merged(paths).save(paths[0])
    assert paths[0].read_bytes() == (tmp_path / "all.safetensors").read_bytes()
