"""Settings as they are typed: `name=value`, where a value of text is text to the letter."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from bayes_merger.compose.payloads import is_text
from bayes_merger.compose.verbatim import Verbatim
from bayes_merger.errors import ConfigError, nearest, printable
from bayes_merger.merging.method import MODEL_NAMES
from bayes_merger.merging.rebasin.written import is_model, table_of, tables_in
from bayes_merger.run.choices import GROUPS, PAYLOADS, choices

PATHS = (
    "model_a", "model_b", "model_c", "models_dir", "vae", "runs", "wildcards", "styles", "loras", "embeddings",
    "generator.config", "generator.text_encoder_3", "generator.address", "generator.models_folder",
    "generator.workflow", "storage",
)  # fmt: skip
_PATH_TABLES = ("models.", "recipe.models.", "saliency.a", "saliency.b", "act.")
_TEXTS = ("elements", "anchors", "adjust")
FURTHER = {f"model_{name}": f"models.{name}" for name in MODEL_NAMES if name > "c"} | {"saliency": "saliency.b"}
"""What is typed for short -> the settings that are meant."""
LISTS = ("payloads", "scorers", "objectives")
FILES = ("recipe", "blocks")  # given as the name of a YAML file, kept as what is in it
OPEN = ("models", "space", "options", "recipe", "saliency", "act", "rebasin", "scoring.payloads", "scoring.penalties")
"""Their own rooms know which names they may hold, and say so better than Hydra."""


def is_open(key: str) -> bool:
    """Whether a setting lies in one of those that may hold any name, or is one that every scorer has."""
    return key.startswith(tuple(f"{table}." for table in OPEN)) or bool(_OF_SCORERS.match(key))


_OF_SCORERS = re.compile(r"scorers\.[^.]+\.(importance|scale)\.?$")


def gathered(overrides: Sequence[str]) -> list[str]:
    """Overrides with what is typed of one model in several words, ``model_b.rebasin=FILE model_b.to=a``, in one.

    Raises:
        ConfigError: a table that cannot be read.
    """
    typed = {key: value for key, equals, value in (each.partition("=") for each in overrides) if equals}
    tables = {key: table for key, table in tables_in(typed).items() if isinstance(table, Mapping)}
    others = [each for each in overrides if not any(is_of(each.partition("=")[0], key) for key in tables)]
    return [*others, *(f"{key}={json.dumps(table, ensure_ascii=False)}" for key, table in tables.items())]


def is_of(key: str, table: str) -> bool:
    """Whether a setting is another one, or a part of it."""
    return key == table or key.startswith(f"{table}.")


_DEMO_FILE = re.compile(r"\$\{demo:\w+\}")


def in_full(override: str) -> str:
    """An override by the name that its setting has in the configuration: ``model_d=FILE`` is ``models.d=FILE``.

    A list may be typed without brackets, which some shells read as a pattern: ``scorers=a,b`` is ``scorers=[a,b]``.
    """
    key, equals, value = override.partition("=")
    if key in GROUPS and key != PAYLOADS:  # as a shell completes it
        value = re.sub(rf"(?<![\w/])(?:\./)?(?:conf/)?{key}/([\w./-]+?)\.yaml(?=[\s,\]]|\Z)", r"\1", value)
    if key in LISTS:
        value = re.sub(r",\s*(\]?)\s*$", r"\1", value)  # a comma behind the last one
    is_bare = value not in ("", "null") and not value.startswith(("[", "{", "choice(", "range("))
    if is_bare and (key in LISTS or key.startswith("scoring.payloads.")):
        value = f"[{value}]"
    is_table = key == "saliency" and value.startswith("{")  # of models, of which a lone file is B's
    return f"{key if is_table else FURTHER.get(key, key)}{equals}{value}"


def _torn(before: str, rest: str, after: str) -> str:
    """What to do where a shell has taken a setting apart: PowerShell a list at its commas, all of them at blanks."""
    if after.startswith("="):
        return "; no blanks around ="
    if before.partition("=")[0] in LISTS:
        return f"; a list may need quotes, like  '{before},{rest}'"
    return f'; if it belongs to what is before it, quote both:  "{before} {rest}"' if "=" in before else ""


def check_typed(overrides: Sequence[str]) -> None:
    """Whether these are settings at all.

    Raises:
        ConfigError: an option, something without a value, or a form of Hydra's that has no meaning here.
    """
    if {"n_iters", "images_budget"} <= {override.partition("=")[0] for override in overrides}:
        raise ConfigError("images_budget: says how many trials there are, as n_iters does; give one of the two")
    for before, override, after in zip(("", *overrides), overrides, (*overrides[1:], ""), strict=False):
        if fault := _fault_of(override, before, after):
            raise ConfigError(fault)


def _fault_of(override: str, before: str, after: str) -> str:
    """What is wrong with the form of one argument, which stands between two others."""
    key, equals, value = override.partition("=")
    shown, whole = printable(key), printable(override)
    if key.startswith("'"):
        return f"argument {whole}: in this shell only double quotes hold words together"
    if key.startswith("-"):
        return f"no option '{shown}' here; settings are given like  name=value  (--help lists them)"
    if key.startswith("~") and not key.startswith("~payloads."):
        return f"{shown}: nothing is taken away; give a setting another value, like  name=value"
    if not key and equals:
        return f"argument '{whole}': settings are given like  name=value"
    if key in GROUPS and key != "experiment" and value == "null":
        return f"{shown}: null is no choice; {nearest('', choices(key))}"
    if key in LISTS and value.startswith("{"):
        much = "; how much each counts is  scorers.laion.importance=2" if key == "scorers" else ""
        return f"{shown}: is a list of names, like  {shown}=one,two{much}"
    if not equals and not key.startswith("~"):
        return f"argument '{shown}': settings are given like  name=value{_torn(printable(before), shown, after)}"
    if key.startswith("+"):
        return f"{shown}: a setting is given without +, like  {printable(key.lstrip('+'))}=..."
    if "@" in key:
        return f"{shown}: Hydra's packages are not used; a setting is given like  name=value"
    if re.match(r"~?hydra\b", key):
        return f"{shown}: Hydra's own settings are not used; studies are kept in the folder  runs=FOLDER"
    return ""


def quoted(override: str, words: Verbatim) -> str:
    """An override that Hydra's grammar accepts: file names are full of spaces, brackets and ``=``."""
    key, equals, value = in_full(override).partition("=")
    if not equals or not value:
        return override
    if key in GROUPS:
        return f"{key}={_choice(value)}"
    is_table = key in (*OPEN, *FILES) and (key == "models" or value.startswith("{"))
    bare, forced = key, f"++{key}" if is_table or is_open(key) else key
    if bare in _TEXTS and not value.startswith(("[", "{")):
        return f"{forced}=[{_mark(value, words)}]"
    if isinstance(table := table_of(bare, value), Mapping) and is_model(bare):
        marked = ", ".join(f"{part}: {_mark(str(given), words)}" for part, given in table.items())
        return f"++{bare}={{{marked}}}"
    if (bare in (*PATHS, "name") or bare.startswith(_PATH_TABLES)) and value != "null":
        is_demo = _DEMO_FILE.fullmatch(value)
        return f"{forced}={value if is_demo else _mark(value, words)}"
    try:
        parsed = OverridesParser.create().parse_override(f"{forced}={value}")
    except HydraException:
        return f"{forced}={_mark(value, words)}"
    if bare.startswith("scorers.") and parsed.is_sweep_override():
        return f"{forced}={_mark(value, words)}"  # a comma in a file name, or in what a scorer takes
    return f"{forced}={value}"


def swept_values(override: str) -> list[str] | None:
    """The values of a sweep such as ``seed=0,1,2``, ``range(0,3)`` or ``choice(a,b)``, each as it would be typed alone.

    Commas in file names, prompts, elements and weights are text; to sweep those, write ``choice(...)``.

    Args:
        override: as typed.

    Returns:
        None where it is one value.

    Raises:
        ConfigError: a sweep whose values only a sweeper that learns could choose.
    """
    key, _, value = override.partition("=")
    is_one = key in (*PATHS, *FURTHER, *FILES, *_TEXTS) or key.startswith(_PATH_TABLES) or is_text(key)
    if is_one and not value.startswith("choice("):
        return None
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return None
    if not parsed.is_sweep_override():
        return None
    if parsed.is_interval_sweep():
        raise ConfigError(f"{key}: {value} is for sweepers that learn, which are not used; list the values")
    return [str(one) for one in parsed.sweep_string_iterator()]


def _mark(value: str, words: Verbatim) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return f"'{words.mark(value)}'"


_NO_NAME = re.compile(r"(^|[\[(,])(\s*)([+-]?\d[\d_.]*(?:e[+-]?\d+)?|[+-]?inf|nan|true|false)(?=\s*(?:[\]),]|$))", re.I)
"""A whole name that Hydra's grammar reads as a number or as true or false; in ``portrait 2`` it reads a name."""


def _choice(value: str) -> str:
    """The names of files, in quotes where Hydra's grammar would read something else."""
    value = _NO_NAME.sub(r"\1\2'\3'", value)
    if re.fullmatch(r"[\w\[\]., /()'\"-]*", value, re.ASCII):
        return value
    inner = value.removeprefix("[").removesuffix("]").split(",")
    names = ",".join("'" + one.strip().strip("'\"").replace("\\", "\\\\").replace("'", "\\'") + "'" for one in inner)
    return f"[{names}]" if value.startswith("[") else names
