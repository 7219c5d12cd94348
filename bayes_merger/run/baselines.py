"""What a winner is compared with: its models as they are, and their even mix."""

from __future__ import annotations

from dataclasses import dataclass

from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.kinds import LORA
from bayes_merger.merging.method import MODEL_NAMES
from bayes_merger.merging.recipe.settings import MergeSettings
from bayes_merger.run.judging import Weights
from bayes_merger.run.models import merge_settings
from bayes_merger.run.setup import RunSetup


@dataclass(frozen=True)
class Baseline:
    """What a winner is compared with.

    Attributes:
        name: for people.
        weights: of every block.
        method: of models A and B, with these weights.
        model: instead, a model as it is.
        elements: instead of the run's rules, which such a merge does not have.
    """

    name: str
    weights: Weights
    method: str = "weighted_sum"
    model: str = ""
    elements: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What its pictures are remembered under, in studies that exist."""
        key = f"alone: {self.model}" if self.model else self.method
        return f"{key}: {', '.join(self.elements)}" if self.elements else key


def baselines(setup: RunSetup) -> list[Baseline]:
    """What a winner is compared with: A, B and their even mix, or a recipe's models as they are.

    Where there are more than three models, each of them is a row.
    """
    blocks = setup.architecture.blocks if setup.steps is None else setup.base.architecture.blocks

    def at(alpha: float) -> Weights:
        return {"alpha": dict.fromkeys(blocks, alpha)}

    if setup.steps is not None:
        whole = [name for name, model in setup.checkpoints.items() if model.kind is not LORA]
        return [Baseline(f"model {name}", at(0.0), model=name) for name in whole]
    many = any(name in setup.checkpoints for name in MODEL_NAMES[3:])
    others = [name for name in MODEL_NAMES[2:] if many and name in setup.checkpoints]
    return [
        Baseline("model A", at(0.0)),
        Baseline("model B", at(1.0)),
        *(Baseline(f"model {name.upper()}", at(0.0), model=name) for name in others),
        Baseline("even mix of A and B" if many else "even mix", at(0.5)),
    ]


def compared(setup: RunSetup, baseline: Baseline) -> tuple[dict[str, Checkpoint], MergeSettings]:
    """The models and settings of what a winner is compared with; rules are the run's own: pure A is to be pure."""
    config, own = setup.config, merge_settings(setup.config)
    vae = config.vae if config.vae in ("b", "merge") else "a"
    models = {role: setup.checkpoints[baseline.model or role] for role in ("a", "b")}
    return models, MergeSettings(
        baseline.method, own.dtype, vae, elements=baseline.elements, blocks=own.blocks, channels=own.channels
    )
