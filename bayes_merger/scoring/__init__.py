"""Scoring: the scorers of a trial's pictures, and how their scores are combined into one number."""

from bayes_merger.scoring.combination import Combination, Judge, points
from bayes_merger.scoring.formulas import DuplicateScorer, FormulaScorer
from bayes_merger.scoring.models.aesthetic import AestheticScorer, ClassifierScorer
from bayes_merger.scoring.models.agreement import ClipScorer
from bayes_merger.scoring.models.clip import ClipTower
from bayes_merger.scoring.models.imagereward import ImageRewardScorer
from bayes_merger.scoring.models.vision import VisionTower
from bayes_merger.scoring.people.ledger import Ledger
from bayes_merger.scoring.people.rating import Rating
from bayes_merger.scoring.people.terminal import ManualScorer
from bayes_merger.scoring.people.viewer import Viewer
from bayes_merger.scoring.rater.scorer import RaterScorer
from bayes_merger.scoring.scorer import (
    FunctionScorer,
    ImageToScore,
    Scale,
    Score,
    Scorer,
    ScorerBase,
    TrialScorer,
    check_importance,
    check_scale,
    check_scorer,
    sees_trial,
)
from bayes_merger.scoring.scores import score_images

__all__ = [
    "AestheticScorer",
    "ClassifierScorer",
    "ClipScorer",
    "ClipTower",
    "Combination",
    "DuplicateScorer",
    "FormulaScorer",
    "FunctionScorer",
    "ImageRewardScorer",
    "ImageToScore",
    "Judge",
    "Ledger",
    "ManualScorer",
    "RaterScorer",
    "Rating",
    "Scale",
    "Score",
    "Scorer",
    "ScorerBase",
    "TrialScorer",
    "Viewer",
    "VisionTower",
    "check_importance",
    "check_scale",
    "check_scorer",
    "points",
    "score_images",
    "sees_trial",
]
