"""A report as one page that needs nothing else: no request leaves it, and nothing in a study can run in it.

Whatever comes from a study (names, prompts, reasons) is escaped where it is written. The page's own policy allows its
one script by its hash, its one style sheet, and pictures that lie in it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from bayes_merger import __version__
from bayes_merger.errors import printable
from bayes_merger.merging.recipe.postprocess import method_weights
from bayes_merger.report.contents import BEST, Contents, Row, Shot, bare
from bayes_merger.report.importance import CAVEAT
from bayes_merger.report.svg import bars_svg, convergence_svg, network_svg
from bayes_merger.report.tables import verdict_line, with_error
from bayes_merger.report.thumbnails import data_uri
from bayes_merger.report.timing import words_of

SIDE_BY_SIDE, SMALL = (320, 18_000), (192, 8_000)
"""Pixels a side and bytes of a picture beside its parents, and of one in the gallery."""

LISTED = 500
"""At most so many trials are in the table, the best."""

PASTE = {"A1111 and Forge": "models/Stable-diffusion", "ComfyUI": "models/checkpoints"}
"""The folder of a web UI that a merged file goes to."""


Address = Callable[[Path, int, int], str]
"""Where a page finds a picture of at most so many pixels a side and bytes; empty if there is none."""


def page(found: Contents) -> str:
    """The report as HTML."""
    script, style = static("report.js"), static("report.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_text(found.name)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in sections(found).values() if part)
        + f"\n<footer>made by bayes_merger {__version__} from the study itself</footer>\n</main>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def sections(found: Contents, address: Address = data_uri, *, listed: int = LISTED) -> dict[str, str]:
    """The parts of a report as HTML, by name in the order of a page; empty where a study has nothing to show.

    Args:
        found: what is shown.
        address: of its pictures; by default they lie in the text itself.
        listed: at most so many trials are in the table; what shows :func:`trial_rows` beside it wants none.
    """
    return {
        "head": _head(found),
        "side-by-side": _side_by_side(found, address),
        "weights": _weights(found),
        "course": _course(found),
        "gallery": _gallery(found, address),
        "trials": _trials(found, listed),
        "take-home": _take_home(found),
        "settings": _settings(found),
    }


@lru_cache
def static(name: str) -> str:
    """A file of the pages' look or behaviour."""
    return resources.files("bayes_merger.report").joinpath("static", name).read_text(encoding="utf-8")


def _text(value: object, longest: int = 2000) -> str:
    """A study's text as HTML: no markup, nothing that turns the direction of writing."""
    return escape(printable(str(value), longest=longest))


def _section(title: str, body: str, about: str = "") -> str:
    lead = f'<p class="about">{about}</p>' if about else ""
    return f"<section><h2>{title}</h2>{lead}{body}</section>"


def _head(found: Contents) -> str:
    data = found.summary
    done = data["state"] == "done"
    models = " × ".join(_text(bare(model["path"]).rsplit(".", 1)[0]) for model in data["models"].values())
    state = f'<span class="badge{" done" * done}">{_text(data["state"])}</span>'
    return (
        f'<header><h1>{_text(found.name)} {state}</h1><p class="soft">{models} · {_text(data["method"])}</p>'
        f"{_verdict(data)}{_facts(found)}</header>"
    )


def _verdict(data: Mapping[str, Any]) -> str:
    """The one sentence that every run has come for; while there is none, how far the run is."""
    if data["final"]:
        better = (data["verdict"] or {}).get("better")
        kind = "" if better is None else " better" if better else " worse"
        line = _text(verdict_line(data))
        said = f"{line[0].upper()}{line[1:]}."
        pictures = data["final"]["images"]
        told = [f"measured on {pictures} fresh pictures of each"] * bool(data["verdict"])
        told += [_text(one["text"]) for one in data["holdouts"]]
        small = "".join(f"<small>{line}</small>" for line in told)
        return f'<p class="verdict{kind}">{said}{small}</p>'
    trials = data["trials"]
    why = f"<small>{_text(data['stopped'])}</small>" if data["stopped"] else ""
    said = f"Not finished: {_progress(trials)} trials. Whether the best merge beats its models is not known yet."
    if trials["budget"] is not None and trials["finished"] >= trials["budget"]:
        said = "All trials are done; the final round, which compares the best merge with its models, is still to come."
    return f'<p class="verdict">{said}{why}</p>'


def _progress(trials: Mapping[str, Any]) -> str:
    return str(trials["finished"]) + (f" of {trials['budget']}" if trials["budget"] is not None else "")


def _facts(found: Contents) -> str:
    data, best = found.summary, found.summary["best"]
    trials = data["trials"]
    facts = {"trials": _progress(trials)}
    if best:
        value = best.get("mean", best["value"])
        facts["best merge"] = f"trial {best['trial']}"
        facts["points, of 10"] = with_error(value, best.get("sd"))
    if data["final"] and data["final"]["rows"]:
        row = data["final"]["rows"][0]
        facts["on fresh seeds"] = with_error(row["mean"], row["error"])
    facts |= {"noise of one trial": f"{data['noise']:.3f}"} if data["noise"] else {}
    unscored = (("failed", "failed"), ("pruned", "given up early"))
    facts |= {words: str(trials[name]) for name, words in unscored if trials[name]}
    facts["optimiser"] = data["optimiser"]
    rows = "".join(f"<div><dt>{key}</dt><dd>{_text(value)}</dd></div>" for key, value in facts.items() if value)
    return f'<dl class="facts">{rows}</dl>'


def _side_by_side(found: Contents, address: Address) -> str:
    if not found.rows:
        return ""
    words = "hold, or hold Space, to see model A in place of the best"
    blink = f'<button id="blink" class="screen" type="button">{words}</button>'
    several = any("model A" in row.shots for row in found.rows)
    rows = "".join(_row(row, address) for row in found.rows)
    return _section("Same prompt, same seed", (blink if several else "") + rows)


def _row(row: Row, address: Address) -> str:
    figures = "".join(_figure(shot, name, address, SIDE_BY_SIDE, name == BEST) for name, shot in row.shots.items())
    seed = "a fresh seed" if row.seed is None else f"seed {row.seed}"
    about = f'<span class="soft">{_text(row.prompt, 300)}, {seed}</span>'
    return f'<p class="prompt"><b>{_text(row.payload)}</b> {about}</p><div class="shots">{figures}</div>'


def _figure(shot: Shot, name: str, address: Address, size: tuple[int, int], best: bool = False) -> str:
    uri = address(shot.path, *size) if shot.path else ""
    points = f" {shot.points:.2f}" if shot.points is not None else ""
    alt = f"{_text(shot.payload)} by {_text(name)}"
    picture = f'<img src="{uri}" alt="{alt}" loading="lazy">' if uri else '<div class="gone">the picture is gone</div>'
    return (
        f"<figure{' class=best' * best}>{picture}<figcaption><b>{_text(name)}</b>{points}"
        f"{f' · trial {shot.trial}' if best else ''}</figcaption></figure>"
    )


def _weights(found: Contents) -> str:
    if not found.weights:
        return ""
    idle, matter = found.summary["idle"], _by_block(found)
    figures = "".join(
        (f"<h3>{_text(weight)}</h3>" if len(found.weights) > 1 else "")
        + network_svg(
            blocks,
            [block for block in blocks if f"{block}.{weight}" in idle],
            matter,
            f"{weight} of each block",
        )
        for weight, blocks in method_weights(found.weights).items()
    )
    models = [_text(bare(model["path"]).rsplit(".", 1)[0]) for model in found.summary["models"].values()]
    ends = models[:2] if found.summary["method"] == "weighted_sum" and len(models) == 2 else ["0", "1"]
    scale = f'<p class="scale">{ends[0]} <i></i> {ends[1]}</p>'
    hatched = '<p class="about">Hatched: the models are equal there.</p>' if idle else ""
    left = f"<div>{scale}{figures}{hatched}</div>"
    return _section("The weights of the best merge", f'<div class="two">{left}<div>{_importance(found)}</div></div>')


def _by_block(found: Contents) -> dict[str, float]:
    """Of the blocks whose importance is told from luck: the importance."""
    return {one.name.rpartition(".")[0]: one.share for one in found.importance if one.beyond_luck}


def _importance(found: Contents) -> str:
    if not found.importance:
        return '<p class="about">Which blocks matter can be told from 30 trials on.</p>'
    rows = [(one.name.removesuffix(".alpha"), one.share, one.beyond_luck) for one in found.importance[:12]]
    faint = "" if all(sure for _, _, sure in rows) else " Faint bars are no more than luck gives."
    framed = " Blocks that matter are framed." if any(sure for _, _, sure in rows) else ""
    return (
        f"<h3>what the best trials agree on</h3>{bars_svg(rows, 'importance of the blocks')}"
        f'<p class="about">{CAVEAT}.{faint}{framed}</p>'
    )


def _course(found: Contents) -> str:
    if not found.course.points:
        return ""
    unit = "weighted sum of points" if "front" in found.summary else "points"
    plot = f'<div class="plot-scroll">{convergence_svg(found.course, unit)}</div>'
    band = " The band is one standard deviation of one trial's luck." if found.course.noise else ""
    about = f"Each dot is a merge that was drawn and judged.{band}"
    return _section("How the search went", plot + _front(found.summary) + _timing(found.timing), about)


def _front(data: Mapping[str, Any]) -> str:
    """Of several objectives, the merges that no other beats in all of them."""
    if "front" not in data:
        return ""
    rows = [(row["trial"], *(f"{value:.3f}" for value in row["values"].values()), f"{row['weighted_sum']:.3f}")
            for row in data["front"]]  # fmt: skip
    return f"<h3>the Pareto front</h3>{_table(('trial', *data['objectives'], 'weighted sum'), rows)}"


def _timing(means: Mapping[str, float]) -> str:
    whole = sum(means.values())
    if not whole:
        return ""
    rows = [(words_of(part), f"{seconds:.2f}", f"{seconds / whole:.0%}") for part, seconds in means.items()
            if seconds >= whole / 200]  # fmt: skip
    table = _table(("part of a trial", "seconds", "share"), rows, text=(0,))
    return f"<details><summary>where the time went: {whole:.1f} s a trial</summary>{table}</details>"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], text: Sequence[int] = ()) -> str:
    def cells(tag: str, row: Sequence[object]) -> str:
        kinds = [" class=text" * (place in text) for place in range(len(row))]
        return "".join(f"<{tag}{kind}>{_text(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class=table><table><thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table></div>"


def _gallery(found: Contents, address: Address) -> str:
    parts = []
    for payload in dict.fromkeys(shot.payload for shot in found.gallery):
        own = [shot for shot in found.gallery if shot.payload == payload]
        figures = "".join(_figure(shot, f"trial {shot.trial}", address, SMALL) for shot in own)
        parts.append(f'<h3>{_text(payload)}</h3><div class="gallery">{figures}</div>')
    return _section("The best pictures", "".join(parts)) if parts else ""


def _trials(found: Contents, listed: int) -> str:
    if not found.trials:
        return _section("Trials", "<p>None has finished yet.</p>")
    scorers, believed = _columns(found)
    head = ["trial", "points", *["posterior mean"] * believed, *scorers, "phase", "state", "why"]
    rows = "".join(trial_rows(found, listed).values())
    sides = dict.fromkeys(("phase", "state", "why"), " class=text") | {"points": " aria-sort=descending"}
    titles = "".join(f"<th tabindex=0{sides.get(name, '')}>{_text(name)}</th>" for name in head)
    more = len(found.trials) - listed
    about = f"The best {listed} of {len(found.trials)}; show --csv has all. " if listed and more > 0 else ""
    about += '<span class="screen">Click a column to sort by it.</span>'
    search = '<input type="search" id="filter" class="screen" placeholder="filter trials" aria-label="filter trials">'
    table = f"<table class=sortable id=trials><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>"
    return _section("Trials", f'{search}<div class="table">{table}</div>', about)


def trial_rows(found: Contents, most: int | None = None) -> dict[int, str]:
    """The table's rows by trial, the best first."""
    scorers, believed = _columns(found)
    chosen = (found.summary["best"] or {}).get("trial")
    ranked = sorted(found.trials, key=lambda row: (row["value"] is None, -(row["value"] or 0.0), row["trial"]))
    return {row["trial"]: _trial(row, scorers, believed, row["trial"] == chosen) for row in ranked[:most]}


def _columns(found: Contents) -> tuple[list[str], bool]:
    """The scorers, and whether something is believed of a trial."""
    scorers = list(dict.fromkeys(name for row in found.trials for name in row["scores"]))
    return scorers, any("mean" in row for row in found.trials)


def _trial(row: Mapping[str, Any], scorers: Sequence[str], believed: bool, chosen: bool) -> str:
    def number(value: float | None, error: float | None = None) -> str:
        if value is None:
            return "<td></td>"
        exact = f"{value:.6g}" if error is None else f"{value:.3f}"  # as shown: a live page tells what has changed
        return f'<td data-value="{exact}">{with_error(value, error)}</td>'

    kind = " class=chosen" if chosen else " class=unscored" if row["value"] is None else ""
    cells = [f"<td>{row['trial']}</td>", number(row["value"])]
    cells += [number(row.get("mean"), row.get("sd"))] if believed else []
    cells += [number(row["scores"].get(name)) for name in scorers]
    cells += [f"<td class=text>{_text(row[key])}</td>" for key in ("phase", "state")]
    return f"<tr{kind}>{''.join(cells)}<td class='text why'>{_text(row.get('reason', ''), 200)}</td></tr>"


def _take_home(found: Contents) -> str:
    if not found.formats:
        return ""
    parts = ["<h3>write the file</h3>",
             _copy("merge", f"bayes-merger merge {found.typed} --out {found.name}.safetensors", "command")]  # fmt: skip
    folders = ", ".join(f"<b>{ui}</b> {folder}" for ui, folder in PASTE.items())
    parts.append(f'<p class="about">The file goes into {folders}. It may be renamed.</p><h3>paste the weights</h3>')
    for number, one in enumerate(found.formats):
        parts.append(f'<p class="about">{_text(one.label)}</p>{_copy(f"weights-{number}", one.text, "weights")}')
    recipe = f'<pre id="recipe">{escape(found.recipe)}</pre>'
    button = '<button type="button" class="screen" data-copy="recipe">copy recipe</button>'
    command = "<b>bayes-merger merge recipe.json --out merged.safetensors</b>"
    about = f"Saved as recipe.json beside the models, {command} makes the same file again."
    parts.append(f'<details><summary>the recipe</summary><p class="about">{about}</p>{button}{recipe}</details>')
    return _section("Take it home", "".join(parts))


def _copy(name: str, text: str, what: str) -> str:
    button = f'<button type="button" class="screen" data-copy="{name}" aria-label="copy {what}">copy</button>'
    return f'<div class="copy"><code id="{name}">{escape(text)}</code>{button}</div>'


def _settings(found: Contents) -> str:
    models = found.summary["models"].items()
    named = [*((role.upper(), model) for role, model in models), *found.activations]
    files = [(name, bare(file["path"]), file["sha256"][:10]) for name, file in named]
    parts = [_table(("model", "file", "SHA-256"), files, text=(0, 1, 2))]
    kept = ("name", "prompt", "negative_prompt", "steps", "cfg_scale", "width", "height", "sampler_name", "batch_size",
            "importance")  # fmt: skip
    for title, data in (
        ("what was drawn", [{key: one[key] for key in kept if key in one} for one in found.payloads]),
        ("settings", found.settings),
        ("versions", found.versions),
    ):
        if data:
            lines = json.dumps(data, indent=2, ensure_ascii=False).splitlines()
            shown = "\n".join(map(_text, lines))
            parts.append(f"<details><summary>{title}</summary><pre>{shown}</pre></details>")
    return _section("How it was made", "".join(parts))
