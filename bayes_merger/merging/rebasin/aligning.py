"""Two models, and the second in the order of the first's neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.config_trees import settings_for
from bayes_merger.checkpoints.empty_networks import empty_networks
from bayes_merger.checkpoints.kinds import REFINER, SD1, SD2, SDXL, SSD_1B, VEGA, describe_input
from bayes_merger.checkpoints.naming import VAE, Naming, canonical_keys, squeezed
from bayes_merger.errors import CheckpointError, ConfigError
from bayes_merger.merging.models.lora import is_lora
from bayes_merger.merging.models.vae import vae_keys
from bayes_merger.merging.rebasin.found import Found, recall, remember, subject
from bayes_merger.merging.rebasin.matching import likeness, match_weights
from bayes_merger.merging.rebasin.permutation import Permutation, Permuted
from bayes_merger.merging.rebasin.settings import WEIGHTS
from bayes_merger.merging.rebasin.spaces import Layout, Shapes, Space
from bayes_merger.merging.rebasin.topology import spaces_of

KINDS = (SD1, SD2, SDXL, REFINER, SSD_1B, VEGA)
"""Kinds of models whose neurons are known."""

Progress = Callable[[int, int, int], None]
"""Called as `progress(round, done, spaces)`."""


@dataclass(frozen=True)
class Pair:
    """Two models whose neurons can be compared.

    Attributes:
        a: the model to be like.
        b: the model to permute.
        layout: of both; without a VAE's where one has none, or another.
        spaces: of both.
        names_a: canonical key to A's own.
        names_b: canonical key to B's own.
    """

    a: Checkpoint
    b: Checkpoint
    layout: Layout
    spaces: tuple[Space, ...]
    names_a: Mapping[str, str]
    names_b: Mapping[str, str]

    @classmethod
    def of(cls, a: Checkpoint, b: Checkpoint, layout: Layout) -> Pair:
        """Two models, from the headers of their files.

        Raises:
            CheckpointError: a model that has no known neurons, or two whose neurons cannot be compared.
            ConfigError: the layout does not fit the models.
        """
        check_alike(a, b)
        shapes = _shapes(b)
        if _vae_shapes(_shapes(a)) != _vae_shapes(shapes):
            layout = replace(layout, vae_groups=0)
        with _unusual(b):
            spaces = spaces_of(shapes, layout)
        return cls(a, b, layout, spaces, _own_keys(a), _own_keys(b))

    def subject(self, by: str) -> str:
        """What an order of B's neurons is found for, as a hash."""
        return subject(self.a.sha256(), self.b.sha256(), self.layout.data(), by)

    def recalled(self, by: str, wanted: str = "") -> Found | None:
        """The order of B's neurons that is remembered, if one is.

        Args:
            by: what they were compared by.
            wanted: the hash of an order, which is taken before others.
        """
        return recall(wanted, self.spaces) or recall(self.subject(by), self.spaces)

    def by_weights(self, wanted: str = "", progress: Progress | None = None) -> Found:
        """The order of B's neurons in which its weights are most like A's, remembered or found.

        Args:
            wanted: the hash of the order that others have found; no other is recalled.
            progress: told how far the matching is.

        Raises:
            CheckpointError: weights so large that their products are infinite.
        """
        known = self.recalled(WEIGHTS, wanted)
        if known and wanted in ("", known.permutation.sha256):
            return known
        compared = self.a, self.b, self.spaces, self.names_a, self.names_b, progress
        match, about = match_weights(*compared), self.subject(WEIGHTS)
        if wanted not in ("", match.sha256):  # a recipe from before there was a better search
            match, about = match_weights(*compared, anchored=False), wanted
        return remember(self.judged(match), about)

    def judged(self, permutation: Permutation) -> Found:
        """An order of B's neurons, with how like the weights are before and after."""
        before, after = (
            likeness(self.a, self.b, self.names_a, self.names_b, order)
            for order in (Permutation(self.spaces), permutation)
        )
        self.a.release()
        self.b.release()
        return Found(permutation, before, after)

    def permuted(self, permutation: Permutation) -> Permuted:
        """B in an order, under its own keys; it is closed with B."""
        return Permuted(self.b, permutation, {key: self.names_b[key] for key in permutation.keys})


def layout_of(model: Checkpoint, config: Path | None = None) -> Layout:
    """What the shapes of a model do not say: that of its architecture, or of its own diffusers folder.

    A VAE that is not as the settings say, or not whole, stays in its order.

    Raises:
        CheckpointError: a model that has no known neurons.
        ConfigError: the settings do not fit the model.
    """
    check_known(model)
    shapes = _shapes(model)
    networks = empty_networks(settings_for(config, model.architecture.name, shapes, model.metadata))
    with _unusual(model):
        layout = Layout.of(networks)
    return layout if _is_vae(networks.get("vae"), _vae_shapes(shapes)) else replace(layout, vae_groups=0)


def _is_vae(network: Any, shapes: Shapes) -> bool:
    """Whether tensors are exactly those of a network."""
    if network is None:
        return False
    state = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    naming = Naming.of_vae(state, VAE)
    try:
        found = {name: naming.counterpart("vae", name) for name in state}
    except CheckpointError:  # blocks that no model has, which a folder may say
        return False
    return shapes == {one.key: squeezed(one.shape([state[name]])) for name, one in found.items() if one is not None}


def _vae_shapes(shapes: Shapes) -> Shapes:
    """Those of the VAE."""
    return {key: squeezed(shapes[key]) for key in vae_keys(shapes)}


@contextmanager
def _unusual(model: Checkpoint) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise CheckpointError(
            f"{model.path}: lacks the tensor '{error.args[0]}', without which it does not work; give a whole model"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{model.path}: {error}; give the diffusers folder with the settings of this model as its config"
        ) from error


def _shapes(model: Checkpoint) -> Shapes:
    return {key: model.shapes[own] for key, own in _own_keys(model).items()}


def check_known(model: Checkpoint) -> None:
    """Refuse a model whose neurons are unknown.

    Raises:
        CheckpointError: it is one.
    """
    if is_lora(model):
        raise CheckpointError(f"{model.path}: a LoRA, which has no neurons of its own; give a whole checkpoint")
    if model.kind not in KINDS:
        known = "Stable Diffusion 1, 2 and XL"
        raise CheckpointError(f"{model.path}: {model.kind.words}; the neurons of {known} can be put in order")


def check_alike(a: Checkpoint, b: Checkpoint) -> None:
    """Refuse models whose neurons cannot be compared.

    Raises:
        CheckpointError: they cannot.
    """
    for model in (a, b):
        check_known(model)
    sorts = [" for ".join(filter(None, (model.kind.words, describe_input(model.shapes)))) for model in (a, b)]
    if sorts[0] != sorts[1]:
        raise CheckpointError(
            f"{b.path} is {sorts[1]} and {a.path.name} is {sorts[0]}: their neurons cannot be compared; "
            "give two models of one kind"
        )
    own_a, own_b = _own_keys(a), _own_keys(b)
    for key, own in own_b.items():
        if key.startswith(VAE) or key not in own_a:
            continue
        if squeezed(a.shapes[own_a[key]]) != squeezed(b.shapes[own]):
            raise CheckpointError(
                f"{b.path}: '{own}' is {list(b.shapes[own])}, in {a.path.name} it is {list(a.shapes[own_a[key]])}; "
                "give two models of one size"
            )


def _own_keys(model: Checkpoint) -> dict[str, str]:
    """Canonical key -> the model's own."""
    return {canonical: key for key, canonical in canonical_keys(model.shapes.keys()).items()}
