"""Merging into a live model, in place: no file, no copy, no reload, and no memory of what was there before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from bayes_merger.errors import CheckpointError, TrialFailed
from bayes_merger.merging.architectures import OwnBlocks
from bayes_merger.merging.blocks import BlockWeights
from bayes_merger.merging.checkpoint import torch_dtypes
from bayes_merger.merging.method import Options, method_spec
from bayes_merger.merging.recipe import check_weights, numbers_of
from bayes_merger.merging.routing import DTYPES, Checkpoints, Step, listed, plan_structure

if TYPE_CHECKING:
    from torch import Tensor


class LiveMerge:
    """Writes one candidate after another into the parameters of a live model.

    Every number is computed anew from the models, in fp32, rounded once to the recipe's dtype and then widened to the
    parameter's: bit for bit what ``merge`` gives on the same device, whatever was applied before. The models stay
    mapped from their files (on a GPU they are copied there once).

    Args:
        checkpoints: model name to opened file; they must stay open.
        method: name of the merge method.
        dtype: of the recipe, ``None`` or ``auto`` for model A's.
        vae: as in a recipe.
        options: as in a recipe.
        elements: as in a recipe.
        compat: as in a recipe.
        blocks: as in a recipe.
        channels: as in a recipe.

    Raises:
        ConfigError: unknown method, option, dtype or ``vae``; elemental rules or blocks that make no sense.
        CheckpointError: models that do not fit together.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        method: str,
        dtype: str | None = None,
        vae: str = "a",
        options: Options | None = None,
        *,
        elements: Iterable[str] = (),
        compat: str = "",
        blocks: OwnBlocks = (),
        channels: str = "equal",
    ) -> None:
        from bayes_merger.merging.combine import Scratch

        self._scratch = Scratch()
        self._spec = method_spec(method).bind(checkpoints, options)
        self._checkpoints = checkpoints
        self._vae = vae
        self._structure = structure = plan_structure(
            self._spec, checkpoints, dtype, vae, elements=elements, compat=compat, blocks=blocks, channels=channels
        )
        self._dtype = DTYPES[structure.dtype]
        # Only what a network computes with: ids, flags and strangers are no parameters.
        steps = [step for step in structure.written if step.place.role in ("block", "vae")]
        self._merged = {step.key: step for step in steps if step.action == "merge"}
        self._kept = {step.key: step for step in steps if step.action != "merge"}
        self._sources: dict[str, tuple[Tensor, ...]] = {}
        self._in_place: dict[str, int] = {}  # where each kept tensor was last written

    def apply(self, weights: BlockWeights, destinations: Mapping[str, Tensor], *, everything: bool = False) -> None:
        """Turn the live model into the merge with these weights.

        Args:
            weights: weight name -> block -> number, every block.
            destinations: single-file key to a view on the live parameter: the file's shape, any float dtype, strides
                and device.
            everything: also write again what does not depend on the weights (it is written at the first time, and
                whenever the destination has moved).

        Raises:
            ConfigError: weights missing, unknown, out of bounds or at a pole.
            CheckpointError: the live model and the checkpoints do not have the same tensors.
            TrialFailed: a tensor overflows; the live model is then half written, and the next merge repairs it.
        """
        import torch

        check_weights(weights, self._structure, self._vae)
        self._check_destinations(destinations)
        with torch.no_grad():
            for key, step in self._kept.items():
                if key in destinations and (everything or self._in_place.get(key) != destinations[key].data_ptr()):
                    self._keep(step, destinations[key])
            alike = {(step.place, step.rules): step for step in self._merged.values()}
            numbers = {like: numbers_of(step, weights) for like, step in alike.items()}
            for key, step in self._merged.items():
                if key in destinations:
                    self._merge(step, numbers[step.place, step.rules], destinations[key])

    def _check_destinations(self, destinations: Mapping[str, Tensor]) -> None:
        steps = self._merged | self._kept
        strange = [key for key in destinations if key not in steps]
        if strange:
            raise CheckpointError(f"the live model has parameters that model A has not: {listed(strange)}")
        architecture = self._structure.architecture.whole or self._structure.architecture
        unet = [k for k, s in steps.items() if s.place.role == "block" and architecture.place(k).block != "BASE"]
        lacking = [key for key in unet if key not in destinations]
        if lacking:
            raise CheckpointError(f"the live model has no parameters for {listed(lacking)} of model A")
        for key, out in destinations.items():
            if tuple(out.shape) != steps[key].shape:
                raise CheckpointError(
                    f"shapes differ: '{key}' is {list(out.shape)} in the live model and {list(steps[key].shape)} in A"
                )

    def _keep(self, step: Step, out: Tensor) -> None:
        from bayes_merger.merging.combine import put

        source = self._checkpoints[step.source].tensor(step.key).to(out.device)
        put(source, out, torch_dtypes()[self._dtype], self._scratch)
        self._in_place[step.key] = out.data_ptr()

    def _merge(self, step: Step, numbers: Mapping[str, float], out: Tensor) -> None:
        from bayes_merger.merging.combine import combine, combine_channels
        from bayes_merger.merging.finite import describe_fault

        sources = self._sources.get(step.key)
        if sources is None or sources[0].device != out.device:
            tensors = (self._checkpoints[name].tensor(step.key) for name in self._spec.models)
            sources = self._sources[step.key] = tuple(tensor.to(out.device) for tensor in tensors)
        dtype = torch_dtypes()[self._dtype]
        if step.common:
            combine_channels(self._spec, sources, numbers, out, dtype, self._scratch, step.key, step.common)
        else:
            combine(self._spec, sources, numbers, out, dtype, self._scratch, step.key)
        if not self._spec.stays_between(numbers) and (fault := describe_fault(out)):
            raise TrialFailed(f"merge: '{step.key}' holds {fault}; weights nearer to [0, 1] avoid it")
