"""The winner against the best of its parents, in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bayes_merger.config import FinalConfig
from bayes_merger.report.summary import summary
from bayes_merger.report.tables import closing_table, table_text, verdict_line
from bayes_merger.report.verdict import critical_ratio, pictures_compared, verdict
from bayes_merger.run.final import decide
from bayes_merger.run.progress import StopSignal
from bayes_merger.run.record import ComparisonRow, Final
from tests.run.fake_run import Formula, evaluator_of, make_setup, searched


def final(images: int = 16, **behind: tuple[float, float | None]) -> Final:
    """A final round in which the winner leads each of these by so much, with such a standard error."""
    rows = [ComparisonRow(name.replace("_", " "), 5.0 - lead, 0.3, lead, error)
            for name, (lead, error) in behind.items()]  # fmt: skip
    return Final(3, images, (), (ComparisonRow("best merge", 5.0, 0.3, 0.0, 0.0), *rows))


def test_a_sure_lead_over_the_best_of_the_parents() -> None:
    found = verdict(final(model_A=(2.5, 0.25), model_B=(1.26, 0.225), even_mix=(0.1, 0.3)), 16)
    assert found is not None
    assert found.text == "better than model B, the best of its parents, by 1.26 (5.6 standard errors)"
    assert (found.better, found.parent, found.lead) == (True, "model B", 1.26)
    assert found.standard_errors == pytest.approx(5.6)


@pytest.mark.parametrize(
    ("behind", "text"),
    [
        ((-0.9, 0.3), "not better than model A but worse by 0.90 (3.0 standard errors): "
                      "keep A, or give more trials or pictures"),
        ((-0.3, 0.3), "not better than model A beyond luck, behind by 0.30 (1.0 standard errors): "
                      "keep A, or give more trials or pictures"),
        ((0.6, 0.3), "not better than model A beyond luck, ahead by 0.60 (2.0 standard errors): "
                     "keep A, or give more trials or pictures (19 pictures would show this lead)"),
        ((0.001, 0.3), "not better than model A beyond luck, ahead by 0.00 (0.0 standard errors): "
                       "keep A, or give more trials or pictures"),
        ((0.0, 0.0), "not better than model A but draws the same: keep A, or give more trials or pictures"),
    ],
)  # fmt: skip
def test_no_sure_lead_says_what_to_keep(behind: tuple[float, float], text: str) -> None:
    found = verdict(final(model_A=behind), 16)
    assert found is not None
    assert found.text == text
    assert found.better is False


def test_student_s_t_asks_more_of_few_pictures() -> None:
    assert critical_ratio(8) == pytest.approx(2.3646, abs=1e-4)  # tables: 7 degrees of freedom, 5 % to both sides
    assert critical_ratio(16) == pytest.approx(2.1314, abs=1e-4)
    lead = final(model_A=(0.66, 0.3))
    eight, sixteen = verdict(lead, 8), verdict(lead, 16)
    assert eight is not None
    assert sixteen is not None
    assert (eight.better, sixteen.better) == (False, True)


def test_fewer_than_eight_pictures_give_no_ratio() -> None:
    few = final(4, model_A=(0.4, 0.01))
    found = verdict(few, 4)
    assert found is not None
    assert found.text == (
        "ahead of model A by 0.40 on no more than 4 pictures: "
        "keep A, or give more pictures: 8 begin to tell (final.images)"
    )
    assert (found.better, found.standard_errors) == (None, None)
    assert "+40.0" not in table_text(closing_table(few, 4))
    assert "+40.0" in table_text(closing_table(few, 8))


def test_equal_differences_are_sure() -> None:
    found = verdict(final(model_A=(0.5, 0.0)), 8)
    assert found is not None
    assert found.text == "better than model A by 0.50"


def test_without_a_parent_or_the_winner_there_is_none() -> None:
    assert verdict(final(even_mix=(1.0, 0.1)), 16) is None
    assert verdict(Final(3, 0, (), ()), 0) is None
    lost = Final(3, 16, (), (ComparisonRow("model A", 5.0, 0.1, 0.0, 0.0),))
    assert verdict(lost, 16) is None


def test_the_closing_table_begins_with_the_verdict() -> None:
    text = table_text(closing_table(final(model_base=(1.0, 0.1)), 16))
    assert text.splitlines()[0].rstrip() == "the best merge is better than model base by 1.00 (10.0 standard errors)"


def rises(alpha: float, seed: int) -> float:
    return 5.0 + alpha + (seed % 7) / 100


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("scorers", "images", "text"),
    [
        ({"one": lambda alpha, seed: 8.0 - 10.0 * (alpha - 0.5) ** 2 + (seed * alpha % 7) / 100}, 4,
         r"the best merge is better than model [AB], the best of its parents, by 2\..* standard errors\)"),
        ({"one": rises}, 4, "the best merge is not better than model B, the best of its parents, but draws the same"),
        ({"one": rises}, 0, "the best merge was not compared with its models: nothing was drawn on fresh seeds"),
        ({"one": rises, "two": rises}, 4, "the best merge by weighted sum is not better than model B"),
    ],
)  # fmt: skip
def test_a_run_ends_with_it(scorers: dict[str, Formula], images: int, text: str, tmp_path: Path) -> None:
    objectives = list(scorers) if len(scorers) > 1 else []
    setup = make_setup(scorers=scorers, final=FinalConfig(rescore=3, images=images), objectives=objectives)
    study, notes = searched(setup, tmp_path / "s")
    study.set_user_attr("final", decide(setup, study, evaluator_of(setup), notes, StopSignal(notes)).to_json())
    data = summary(study)
    assert re.match(text, verdict_line(data)), verdict_line(data)


def test_payloads_that_do_not_count_are_not_compared(tmp_path: Path) -> None:
    setup = make_setup(scorers={"one": rises})
    study, _ = searched(setup, tmp_path / "s")
    stored = study.user_attrs["payloads"]
    study.set_user_attr("payloads", [stored[0], {**stored[1], "importance": 0.0}])
    assert pictures_compared(study, final(16, model_A=(1.0, 0.1))) == 8
