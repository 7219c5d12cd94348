"""The engine: checkpoints in, merged tensors out.

Importing this package is light: torch comes with the first tensor that is read.
"""

from bayes_merger.checkpoints.architectures import ARCHITECTURES, SD1, identify
from bayes_merger.checkpoints.blocks import Architecture, BlockWeights, Place, weights_from_string, weights_to_string
from bayes_merger.checkpoints.checkpoint import Checkpoint
from bayes_merger.checkpoints.opening import open_checkpoint
from bayes_merger.checkpoints.writing import TensorEntry, write_checkpoint
from bayes_merger.merging.decorator import merge_method
from bayes_merger.merging.engine.live import LiveMerge
from bayes_merger.merging.engine.merge import merge, plan
from bayes_merger.merging.export.single_file import save_merge
from bayes_merger.merging.method import METHODS, MethodSpec, method_spec
from bayes_merger.merging.parameters import Cost, WeightRange
from bayes_merger.merging.plan.routing import MergePlan, PlanItem
from bayes_merger.merging.recipe.recipe import MergeRecipe, ModelRef
from bayes_merger.merging.recipe.settings import MergeSettings, read_settings

__all__ = [
    "ARCHITECTURES",
    "METHODS",
    "SD1",
    "Architecture",
    "BlockWeights",
    "Checkpoint",
    "Cost",
    "LiveMerge",
    "MergePlan",
    "MergeRecipe",
    "MergeSettings",
    "MethodSpec",
    "ModelRef",
    "Place",
    "PlanItem",
    "TensorEntry",
    "WeightRange",
    "identify",
    "merge",
    "merge_method",
    "method_spec",
    "open_checkpoint",
    "plan",
    "read_settings",
    "save_merge",
    "weights_from_string",
    "weights_to_string",
    "write_checkpoint",
]
