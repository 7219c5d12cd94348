"""Packages whose names are imported when they are first used: what needs one of them does not wait for all."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def from_stub(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What a package gives out, as its stub ``__init__.pyi`` says, which type checkers and editors read.

    After ``attach_stub`` of the Scientific Python community's SPEC 1.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.

    Returns:
        Its ``__getattr__``, its ``__dir__`` and its ``__all__``.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: str(node.module) for node in imports for alias in node.names}
    names = sorted(homes)

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return get, lambda: names, names
