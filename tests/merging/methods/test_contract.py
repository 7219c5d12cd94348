"""The contract of every merge method; a new method is tested here without a line added.

By default a sample of it (``MergeMethodContract.thorough`` tells which), the whole under ``pytest -m slow``.
"""

from __future__ import annotations

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.merging import METHODS, method_spec
from bayes_merger.testing.methods import MergeMethodContract

NAMES = sorted(METHODS)
DECOMPOSED = ("rotate", "truncate_rank")  # linear algebra shares its sums out among its threads
INTERPOLATIONS = (
    "weighted_sum", "tensor_sum", "slerp", "nuslerp", "geometric_sum", "crossover", "distribution_crossover",
)  # fmt: skip


def contract_of(name: str, *, thorough: bool) -> type[MergeMethodContract]:
    about = {"method": name, "interpolates": name in INTERPOLATIONS, "exact": name not in DECOMPOSED}
    return type(f"Test_{name}", (MergeMethodContract,), {**about, "thorough": thorough})


globals().update({f"Test_{name}": contract_of(name, thorough=False) for name in NAMES})
globals().update({f"TestAll_{name}": pytest.mark.slow(contract_of(name, thorough=True)) for name in NAMES})


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("Weighted Sum", "weighted_sum"), ("weighted-sum", "weighted_sum"), ("linear", "weighted_sum"),
        ("task_arithmetic", "add_difference"), ("Add", "add_difference"), ("sumTwice", "sum_twice"),
        ("tripleSum", "triple_sum"), ("tensor", "tensor_sum"), ("similarity", "similarity_add_difference"),
        ("cosineA", "cosine_a"), ("cosineB", "cosine_b"), ("smoothAdd", "smooth_add"), ("smoothAdd MT", "smooth_add"),
        ("trainDifference", "train_difference"), ("ties_add_difference", "ties"), ("add_difference_ties", "ties"),
        ("n_model_stock", "model_stock"), ("n_supermario", "dropout"), ("perpendicular_component", "add_perpendicular"),
    ],
)  # fmt: skip
def test_the_names_that_other_programs_use_are_understood(alias: str, name: str) -> None:
    assert method_spec(alias).name == name


def test_no_two_methods_share_a_name() -> None:
    names = [n for method in NAMES for n in (method, *method_spec(method).aliases)]
    assert len(names) == len(set(names))


def test_an_unknown_method_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"method: 'weigthed_sum' is unknown; did you mean weighted_sum"):
        method_spec("weigthed_sum")


def test_methods_are_found_under_the_names_of_other_programs() -> None:
    assert METHODS["perpendicular_component"] is METHODS["add_perpendicular"]
    assert METHODS["trainDifference"] is METHODS["train_difference"]
    with pytest.raises(KeyError, match="nope"):
        METHODS["nope"]
