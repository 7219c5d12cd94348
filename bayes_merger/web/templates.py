"""Pages from templates; whatever is put into them is text, never markup."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from bayes_merger.web.assets import address

_TEMPLATES = Environment(
    loader=PackageLoader("bayes_merger.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals["asset"] = address


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page of ``templates/``."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(values), status)
