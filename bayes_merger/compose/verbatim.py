"""Text that passes through Hydra and OmegaConf as it is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

_MARK = re.compile("\x02(\\d+)\x03")


class Verbatim:
    """Puts marks in the place of texts in which OmegaConf would see an interpolation, and the texts back again.

    There is no other way: OmegaConf has an escape for ``${``, but takes it away each time that a value is resolved.
    """

    def __init__(self) -> None:
        self._texts: list[str] = []

    def mark(self, text: str) -> str:
        """What stands for a text until :meth:`show`."""
        self._texts.append(text)
        return f"\x02{len(self._texts) - 1}\x03"

    def hide(self, data: Any) -> Any:
        """Plain data with marks for its texts, where they need one."""
        if isinstance(data, str):
            return self.mark(data) if "${" in data or "\x02" in data else data
        if isinstance(data, Mapping):
            return {key: self.hide(value) for key, value in data.items()}
        return [self.hide(item) for item in data] if isinstance(data, list | tuple) else data

    def show(self, data: Any) -> Any:
        """The data, or a dataclass of it, with the texts in it again."""
        if isinstance(data, str):
            return _MARK.sub(self._text, data)
        if isinstance(data, Mapping):
            return {key: self.show(value) for key, value in data.items()}
        if dataclasses.is_dataclass(data) and not isinstance(data, type):
            shown = {field.name: self.show(getattr(data, field.name)) for field in dataclasses.fields(data)}
            return dataclasses.replace(data, **shown)
        return [self.show(item) for item in data] if isinstance(data, list) else data

    def _text(self, found: re.Match[str]) -> str:
        number = int(found[1])
        return self._texts[number] if number < len(self._texts) else found[0]
