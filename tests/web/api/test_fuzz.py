"""The API fuzzed from its own document: whatever is asked, nothing is a fault of ours, and answers are as described."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bayes_merger.testing.studies import make_study
from bayes_merger.web.api.operations import ADDRESS
from tests.web.api.outside import begun
from tests.web.api.whole import whole_app
from tests.web.serving import TOKEN
from tests.web.studies import a_study

HEADERS = {"authorization": f"Bearer {TOKEN}", "host": "127.0.0.1"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What is there to be asked for: a study that is over, one that is rated, one that is asked and told."""
    schemathesis = pytest.importorskip("schemathesis", reason="THE API IS NOT FUZZED: pip install schemathesis")
    runs = tmp_path_factory.mktemp("runs")
    make_study(runs / "s", 6, drawn=2)
    a_study(runs, waiting=2, payloads=1)
    begun(runs)
    return schemathesis.openapi.from_asgi(ADDRESS, whole_app(runs), headers=HEADERS)


@pytest.mark.parametrize("known", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_no_request_that_the_document_allows_is_a_fault(api: Any, known: bool) -> None:
    from schemathesis.specs.openapi import checks as known_checks  # here: a second of imports

    conformance = ("response_schema", "content_type", "status_code")
    checks = [getattr(known_checks, f"{name}_conformance") for name in conformance]
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:
        if operation.path.endswith("/events"):
            continue  # they do not end

        @settings(
            max_examples=2, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(
            case=operation.as_strategy(), study=st.sampled_from(["s", "study", "mine"]), trial=st.sampled_from("014")
        )
        def asked(case: Any, study: str, trial: str) -> None:
            if known:  # else nearly all of them ask for a study that is not there
                case.path_parameters |= {"study": study, "trial": trial, "form": "yaml", "id": "0" * 16}
            answer = case.call(headers=HEADERS)
            assert answer.status_code < 500, (case.as_curl_command(), answer.text)
            case.validate_response(answer, checks=checks)

        asked()
