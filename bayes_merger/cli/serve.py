"""``serve``: all studies in the browser."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bayes_merger.cli.arguments import Parser
from bayes_merger.cli.pages import add_server, serve_pages

ABOUT = """\
Opens the study browser: all studies with their progress and best picture; each as a page with everything that its
report has, which moves while its run goes on, and where it is paused, stopped and given more trials; a form to start a
run; and the scoring page of those that wait for you. Runs are processes of their own and go on without it. Nobody can
open it without the link that is printed here.

  bayes-merger serve
  bayes-merger serve --models ~/ComfyUI  runs can be started with the models of this web UI, by name
  bayes-merger serve --host 0.0.0.0      also from a phone in the same network; whoever has the link can rate and steer
"""


def serve(arguments: Sequence[str]) -> None:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: no place to listen at.
    """
    parser = Parser(prog="bayes-merger serve", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server(parser)
    parser.add_argument("--runs", default="runs", help="the folder of all studies (default: runs)")
    parser.add_argument("--models", help="where models are found by name; as models_dir= and $BAYES_MERGER_MODELS")
    parser.add_argument("--openapi", action="store_true", help="print the API's OpenAPI document and stop")
    options = parser.parse_args(arguments)
    from bayes_merger.web.api.operations import document
    from bayes_merger.web.api.runs import RunData
    from bayes_merger.web.pages.rating import Sittings
    from bayes_merger.web.routes import all_routes
    from bayes_merger.web.shelf import Shelf

    shelf = Shelf(Path(options.runs))
    runs = RunData(shelf, options.models)
    with Sittings(shelf.folder, options.rater) as sittings, suppress(KeyboardInterrupt):
        routes = all_routes(shelf, sittings, runs)
        if options.openapi:
            print(json.dumps(document(routes), indent=1))
            return
        serve_pages(routes, "/studies", options)
