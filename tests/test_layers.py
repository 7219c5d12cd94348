"""Imports point down the house, never sideways or up."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "bayes_merger"

# From the cellar up: a room may enter those of the floors below it, and its own.
FLOORS = [
    {"errors", "atomic", "processes", "timing", "lazy"},
    {"paths", "plain_json"},
    {"documents"},
    {"checkpoints"},
    {"merging", "search", "imaging", "scoring", "config"},
    {"run"},
    {"report"},
    {"testing"},
    {"demo"},
    {"compose", "merges", "course"},
    {"setups"},
    {"session", "asking"},
    {"api"},
    {"rescoring", "joining"},
    {"web"},
    {"cli"},
    {"__main__"},
]


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {room_of(name) for name in names if name.split(".")[0] == "bayes_merger"}
    return rooms - {"__version__", ""}


def floor_of(room: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if room in floor)


MODULES = sorted(PACKAGE.rglob("*.py"))


ROOMS = sorted({path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES})


@pytest.mark.parametrize("own", ROOMS)
def test_a_room_enters_only_the_floors_below_it(own: str) -> None:
    for path in (path for path in MODULES if path.relative_to(PACKAGE).parts[0].removesuffix(".py") == own):
        if own == "__init__":
            assert imports(path) == {"lazy"}
            continue
        for room in imports(path) - {own}:
            assert floor_of(room) < floor_of(own), f"{path}: {own} must not import {room}"


def test_only_one_room_knows_hydra() -> None:
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        if path.parent.name != "compose":
            assert "import hydra" not in text, path
            assert "import omegaconf" not in text, path
            assert "from omegaconf" not in text, path


# Within a room: a folder may enter those before it, and its own.
TOWERS = {
    "checkpoints": ["naming"],
    "merging": [
        "parameters",
        "own_files",
        "method",
        "decorator",
        "methods",
        "recipe",
        "models",
        "plan",
        "engine",
        "export",
    ],
    "imaging": ["prompts", "pipelines"],
    "search": ["space", "surrogates", "study", "optimisers", "samplers"],
}


@pytest.mark.parametrize("room", TOWERS)
def test_a_folder_of_a_room_enters_only_those_before_it(room: str) -> None:
    for path in sorted((PACKAGE / room).rglob("*.py")):
        own = path.relative_to(PACKAGE / room).parts[0].removesuffix(".py")
        if own not in TOWERS[room]:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"bayes_merger.{room}."):
                other = str(node.module).split(".")[2]
                assert other not in TOWERS[room] or TOWERS[room].index(other) <= TOWERS[room].index(own), (path, other)
