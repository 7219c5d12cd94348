"""Whether the best merge is better than what it was made from, in a line: the end that every run has come for.

The pictures of the closing table are paired by prompt and seed, so the winner is compared with a parent by Student's t
of the differences picture by picture. Where there are several parents it is compared with the best of them on these
same pictures, whose luck then counts for that parent: the verdict leans to its side, never to the merge's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import optuna

from bayes_merger.errors import counted
from bayes_merger.run.attributes import PAYLOADS
from bayes_merger.run.record import ENOUGH, WINNER, ComparisonRow, Final, final_of

LEVEL = 0.05
"""A lead counts when luck alone gives one as great, to either side, this rarely."""

PARENT = "model "
"""What the name of a parent's row begins with; the even mix is none."""


@dataclass(frozen=True)
class Verdict:
    """The winner against the best of its parents.

    Attributes:
        text: in words, to follow "the best merge is".
        better: whether it is; None: too few pictures to tell.
        parent: the name of the parent's row.
        lead: over that parent in points, mean over the pictures.
        standard_errors: the lead in its own standard errors; None from fewer than 8 pictures, or where all differences
            are equal.
    """

    text: str
    better: bool | None
    parent: str
    lead: float
    standard_errors: float | None


def verdict_of(study: optuna.study.Study) -> Verdict | None:
    """The verdict on a study's winner; None where no final round compared it with a parent."""
    final = final_of(study)
    return verdict(final, pictures_compared(study, final)) if final else None


def pictures_compared(study: optuna.study.Study, final: Final) -> int:
    """How many pictures of each row are compared: those whose payload counts."""
    importances = [payload["importance"] for payload in study.user_attrs.get(PAYLOADS) or ()]
    return final.images * sum(one > 0 for one in importances) // len(importances) if importances else final.images


def verdict(final: Final, pictures: int) -> Verdict | None:
    """The verdict on a closing table; None if the winner or every parent is missing in it.

    Args:
        final: the final round.
        pictures: how many of each row are compared.
    """
    parents = [row for row in final.rows if row.name.startswith(PARENT)]
    if not parents or final.rows[0].name != WINNER:
        return None
    parent = min(parents, key=lambda row: row.behind)
    shown = parent.name + (", the best of its parents," if len(parents) > 1 else "")
    ratio = lead_ratio(parent, pictures)
    better, text = _words(shown, parent, ratio, pictures)
    if not better:
        more = _more(parent, ratio, pictures) if better is False else f"pictures: {ENOUGH} begin to tell (final.images)"
        text += f": keep {parent.name.removeprefix(PARENT)}, or give more {more}"
    return Verdict(text, better, parent.name, parent.behind, ratio)


def _words(shown: str, parent: ComparisonRow, ratio: float | None, pictures: int) -> tuple[bool | None, str]:
    lead = parent.behind
    if lead == 0 and not parent.behind_error:
        return False, f"not better than {shown} but draws the same"
    by = f"by {abs(lead):.2f}" + (f" ({abs(ratio):.1f} standard errors)" if ratio is not None else "")
    if pictures < ENOUGH:
        return (
            None,
            f"{'ahead of' if lead > 0 else 'behind'} {shown} {by} on no more than {counted(pictures, 'picture')}",
        )
    if ratio is None or abs(ratio) > critical_ratio(pictures):
        return lead > 0, f"better than {shown} {by}" if lead > 0 else f"not better than {shown} but worse {by}"
    return False, f"not better than {shown} beyond luck, {'ahead' if lead > 0 else 'behind'} {by}"


def _more(parent: ComparisonRow, ratio: float | None, pictures: int) -> str:
    """What could still make the merge, or show it as, the better one."""
    # A mean's standard error falls with the root of the number of pictures.
    needed = math.ceil(pictures * (critical_ratio(pictures) / ratio) ** 2) if ratio and parent.behind > 0 else 0
    return "trials or pictures" + (f" ({needed} pictures would show this lead)" if 0 < needed <= 100 * pictures else "")


def lead_ratio(row: ComparisonRow, pictures: int) -> float | None:
    """The winner's lead over a row in standard errors; None where that says nothing.

    Args:
        row: of the closing table.
        pictures: how many differences the standard error is made of.
    """
    error = row.behind_error
    return row.behind / error if pictures >= ENOUGH and error and error > 1e-9 else None


def critical_ratio(pictures: int) -> float:
    """So many standard errors must a lead be, by Student's t with a degree of freedom less than there are pictures."""
    from scipy.special import stdtrit

    return float(stdtrit(pictures - 1, 1 - LEVEL / 2))
