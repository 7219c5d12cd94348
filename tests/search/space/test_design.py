"""The start design: a person's own anchors, the order of the blocks, a Latin hypercube, a Sobol sequence."""

from __future__ import annotations

import numpy as np
import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.search import build_space
from bayes_merger.search.space.cube import to_point
from bayes_merger.search.space.design import design

SPACE = build_space(("BASE", "IN00", "M00"), {"alpha": (0.0, 1.0)}, ranges={"M00": [0.2, 0.7]})
OWN = {"BASE.alpha": 0.1, "IN00.alpha": 0.9, "M00.alpha": 0.3}


def test_a_persons_anchors_come_after_the_pure_ones_and_before_the_hypercube() -> None:
    rows = design(SPACE, 8, 5, anchors=[OWN, OWN, SPACE.anchors()[2]], kind="lhs")
    assert rows[:3] == SPACE.anchors()
    assert rows[3] == OWN
    assert len(rows) == 8
    cube = np.array([to_point(row, SPACE.distributions()) for row in rows[4:]])
    assert np.sort((cube * 4 + 1e-9).astype(int), axis=0).T.tolist() == [[0, 1, 2, 3]] * 3


def test_anchors_that_do_not_fit_in_are_an_error_and_never_dropped() -> None:
    with pytest.raises(ConfigError, match=r"3 trials are too few for the 4 anchors .* give init_points=4"):
        design(SPACE, 3, 5, anchors=[OWN])
    assert design(SPACE, 4, 5, anchors=[OWN])[3] == OWN


def test_a_sobol_design_is_even_scrambled_by_the_seed_and_the_same_again() -> None:
    rows = design(SPACE, 19, 5, kind="sobol")
    assert rows == design(SPACE, 19, 5, kind="sobol")
    assert rows[3:] != design(SPACE, 19, 6, kind="sobol")[3:]
    cube = np.array([to_point(row, SPACE.distributions()) for row in rows[3:]])
    assert ((cube < 0.5).sum(axis=0) == 8).all()
    assert ((cube < 0.25).sum(axis=0) == 4).all()


UNET = build_space(
    ("BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12))), {"alpha": (0, 1)}
)


def test_four_merges_differ_between_in_and_out_and_the_others_are_smooth_over_the_blocks() -> None:
    rows = np.array([list(row.values()) for row in design(UNET, 207, 5)])
    assert rows[:3, [0, 1, 13, 14]].tolist() == [[0.0] * 4, [1.0] * 4, [0.5] * 4]
    assert rows[3:7, [0, 1, 12, 13, 14, 25]].tolist() == [
        [0.5, 0.25, 0.25, 0.5, 0.75, 0.75],
        [0.5, 0.75, 0.75, 0.5, 0.25, 0.25],
        [0.25] * 6,
        [0.75] * 6,
    ]
    smooth = np.corrcoef(rows[7:].T)
    neighbours, far = smooth[np.arange(1, 12), np.arange(2, 13)], smooth[np.arange(1, 7), np.arange(7, 13)]
    assert neighbours.mean() > 0.3 > far.mean()
    assert (np.histogram(rows[7:], 4, (0.0, 1.0))[0] > 1100).all()  # evenly spread: 1300 of 5200 in each quarter
    assert rows.min() == 0.0
    assert rows.max() == 1.0


def test_where_blocks_have_no_order_the_design_is_a_hypercube_and_a_chain_has_no_two_sides() -> None:
    plain = build_space(("BASE", "X"), {"alpha": (0.0, 1.0)})
    assert design(plain, 9, 5) == design(plain, 9, 5, kind="lhs")
    chain = build_space(tuple(f"D{i:02}" for i in range(19)), {"alpha": (0.0, 1.0)})
    rows = np.array([list(row.values()) for row in design(chain, 8, 5)])[3:]
    assert (np.ptp(rows, axis=1) > 0.1).all()


def test_a_design_of_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ConfigError, match="design: unknown kind 'lsh'; did you mean lhs"):
        design(SPACE, 8, 5, kind="lsh")


def test_weights_outside_the_space_are_brought_to_its_nearest_point_and_what_gave_way_is_told() -> None:
    space = build_space(
        ("BASE", "IN00", "IN01", "IN02", "M00"),
        {"alpha": (0.0, 1.0)},
        frozen={"BASE": 0.5},
        ranges={"M00": [0.2, 0.7]},
        groups=[["IN00", "IN01"]],
    )
    wanted = {"alpha": {"BASE": 0.0, "IN00": 0.2, "IN01": 0.6, "M00": 1.0}}
    values, told = space.project(wanted, {"alpha": 0.25})
    assert values == pytest.approx({"IN00.alpha": 0.4, "IN02.alpha": 0.25, "M00.alpha": 0.7})
    assert told == ["BASE.alpha frozen", "M00.alpha clipped", "IN00.alpha averaged in groups", "IN02.alpha by default"]
    space.check(values)


def test_weights_inside_the_space_stay_to_the_last_bit() -> None:
    values, told = SPACE.project(SPACE.assemble(OWN), {"alpha": 0.0})
    assert values == OWN
    assert told == []
