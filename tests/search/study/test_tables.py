"""The queue's own statements write what Optuna's API would have written, in few statements, and can be read by it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from bayes_merger.search import build_space, samplers
from bayes_merger.search.space.design import design
from bayes_merger.search.study.queue import waiting_trial
from bayes_merger.search.study.storage import backend, open_storage
from bayes_merger.search.study.study import create_study, load_study
from bayes_merger.search.study.tables import are_known
from bayes_merger.search.study.transaction import transaction
from bayes_merger.search.study.workers import Worker
from tests.search.killed_study import OtherVersion

BLOCKS = ("BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12)))
SPACE = build_space(BLOCKS, {"alpha": (0.0, 1.0)})
ROW = {parameter.name: 0.25 for parameter in SPACE.parameters}
TABLES = (
    models.TrialModel, models.TrialParamModel, models.TrialUserAttributeModel, models.TrialSystemAttributeModel,
    models.TrialValueModel, models.TrialIntermediateValueModel, models.TrialHeartbeatModel,
)  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "study.db") if request.param == "sqlite" else request.getfixturevalue("postgres")


def new_study(where: str, kind: type[RDBStorage] = RDBStorage, rows: int = 0) -> Study:
    storage = open_storage(where, kind=kind)
    sampler = samplers.random(SPACE.distributions(), 5)
    name = f"s{secrets.token_hex(4)}"
    return create_study(storage, name, sampler, space=SPACE, fingerprint={}, design=design(SPACE, rows, 5))


def rows_of(study: Study) -> dict[str, list[Any]]:
    """What the tables hold of a study's trials, without the database's own numbers and without times and workers."""
    own = ("trial_id", "study_id", "param_id", "heartbeat", "datetime_start", "datetime_complete")
    found: dict[str, list[Any]] = {}
    with backend(study).engine.connect() as connection:
        for model in TABLES:
            table, trials = model.__table__, models.TrialModel.__table__
            source = table if table is trials else table.join(trials, table.c.trial_id == trials.c.trial_id)
            query = sqlalchemy.select(trials.c.number.label("of"), *table.c).select_from(source)
            rows = connection.execute(query.where(trials.c.study_id == study._study_id)).mappings()
            found[table.name] = sorted(
                (
                    {
                        key: value if not isinstance(value, datetime) else "a time"
                        for key, value in row.items()
                        if key not in own and not key.endswith("_id")
                    }
                    for row in rows
                    if row.get("key") != "worker"
                ),
                key=repr,
            )
    return found


ODD = [
    create_trial(
        value=1.5, params={"x": 0.1 + 0.2, "n": 3, "c": "b"}, user_attrs={"a": [1, None], "b": {"ü": "\"'%"}},
        distributions={
            "x": FloatDistribution(0, 1, log=False), "n": IntDistribution(1, 9), "c": CategoricalDistribution(["a", "b"])
        },
        system_attrs={"fixed_params": {"x": 0.5}}, intermediate_values={0: 0.5, 7: float("nan"), 9: float("inf")},
    ),
    create_trial(value=float("inf")),
    create_trial(value=float("-inf")),
    create_trial(state=TrialState.FAIL, user_attrs={"reason": "black"}),
    create_trial(state=TrialState.PRUNED, value=0.25, intermediate_values={1: 0.25}),
    waiting_trial(ROW, SPACE.distributions(), {"phase": "search"}),
]  # fmt: skip


def known(trial: FrozenTrial) -> dict[str, Any]:
    """All that Optuna says of a trial; NaN equals itself in text, and a server gives attributes in any order."""
    kept = {key: value for key, value in vars(trial).items() if key != "_trial_id"}
    ordered = {key: sorted(value.items()) if "attrs" in key else value for key, value in kept.items()}
    return {key: repr(value) for key, value in ordered.items()}


def test_what_is_added_is_what_optuna_would_have_added(where: str) -> None:
    study, other = new_study(where), new_study(where, OtherVersion)
    assert are_known(backend(study))
    assert not are_known(backend(other))
    with transaction(study) as queue:
        queue.add(ODD[:2])
        queue.add(ODD[2:])
    other.add_trials(ODD)
    assert rows_of(study) == rows_of(other)
    read = [optuna.load_study(study_name=one.study_name, storage=backend(one)).trials for one in (study, other)]
    assert [known(t) for t in read[0]] == [known(t) for t in read[1]]
    assert [t.number for t in read[0]] == [0, 1, 2, 3, 4, 5]


def work(study: Study) -> list[tuple[str, Any]]:
    """Everything that a worker can do with a trial, once each."""
    with Worker(study, SPACE, name="w") as worker:
        for number in range(5):
            trial = worker.claim(9)
            assert trial is not None
            if number == 0:
                worker.tell(trial, 0.75, {"scores": [1.5], "seconds": 2.0})
            elif number == 1:
                worker.fail(trial, "black picture")
            elif number == 2:
                worker.prune(trial, "clearly worse", {"estimate": 0.125})
            elif number == 3:
                worker.requeue(trial, died=True)
    return [(t.state.name, t.user_attrs) for t in study.get_trials()]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("rows", [3, 6])
def test_a_worker_leaves_what_it_would_have_left_through_optuna(where: str, rows: int) -> None:
    study, other = new_study(where, rows=rows), new_study(where, OtherVersion, rows=rows)
    assert [state for state, _ in work(study)] == [state for state, _ in work(other)]
    assert rows_of(study) == rows_of(other)
    reread = load_study(open_storage(where), study.study_name)
    assert [known(t) for t in reread.get_trials()] == [known(t) for t in study.get_trials()]
    done = study.get_trials()[0]
    assert done.value == 0.75
    assert done.datetime_start is not None
    assert done.duration is not None
    assert abs((datetime.now() - done.datetime_start).total_seconds()) < 600  # the local time, as Optuna's own are


@contextmanager
def counted(storage: RDBStorage) -> Iterator[list[str]]:
    """The statements that a storage's engine sends, without those that begin and end transactions."""
    sent: list[str] = []

    def send(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            sent.append(statement)

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", send)
    yield sent
    sqlalchemy.event.remove(storage.engine, "before_cursor_execute", send)


def test_a_trial_costs_six_statements_on_a_server_and_a_suggestion_two_more(where: str) -> None:
    study = new_study(where, rows=3)
    on_server = where.startswith("postgresql")
    with Worker(study, SPACE) as worker:
        worker.tell(worker.claim(9), 1.0)  # type: ignore[arg-type]
        with counted(backend(study)) as sent:
            trial = worker.claim(9)
            assert trial is not None
            worker.tell(trial, 1.0, {"scores": [1.5], "images": ["a.png"], "seconds": 2.0})
        assert len(sent) <= (6 if on_server else 9)
    suggested = waiting_trial(ROW, SPACE.distributions(), {"phase": "search"})
    with counted(backend(study)) as sent, transaction(study, in_line=False) as queue:
        queue.add([suggested])
    assert len(sent) <= (2 if on_server else 5)
    with counted(backend(study)) as sent, transaction(study) as queue:
        queue.add([suggested] * 30)
    assert sum("INTO trial_params" in statement for statement in sent) == 1  # of 780 values
    with counted(backend(study)) as sent, transaction(study, in_line=False) as queue:
        queue.look(for_workers=True)
        queue.beat(trial._trial_id)
    assert len(sent) == 2


def test_many_are_added_in_their_order_each_with_what_is_its_own(where: str) -> None:
    study = new_study(where)
    values = [{parameter.name: place / 64 for parameter in SPACE.parameters} for place in range(30)]
    with transaction(study) as queue:
        queue.add([waiting_trial(own, SPACE.distributions(), {"row": place}) for place, own in enumerate(values)])
    found = sorted(study.get_trials(), key=lambda trial: trial._trial_id)
    assert [trial.number for trial in found] == [*range(30)]
    assert [trial.params for trial in found] == values
    assert [list(trial.params) for trial in found] == [list(ROW)] * 30
    assert [trial.user_attrs for trial in found] == [{"row": place} for place in range(30)]


def test_a_sign_of_life_is_the_newest(where: str) -> None:
    study = new_study(where, rows=1)
    trial = Worker(study, SPACE).claim(9)
    assert trial is not None
    with backend(study).engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = '2001-01-01 00:00:00'"))
    with transaction(study) as queue:
        assert [entry.silent for entry in queue.entries()] == [True]
        assert queue.look(for_workers=True).workers == set()
        queue.beat(trial._trial_id)
        assert [entry.silent for entry in queue.entries()] == [False]
        assert len(queue.look(for_workers=True).workers) == 1


def test_other_programs_number_their_trials_on(where: str) -> None:
    study = new_study(where, rows=3)
    plain = optuna.load_study(study_name=study.study_name, storage=open_storage(where))
    plain.enqueue_trial({"BASE.alpha": 0.5})
    with transaction(study) as queue:
        queue.add([waiting_trial(ROW, SPACE.distributions(), {})])
    plain.add_trial(create_trial(value=1.0))
    assert [t.number for t in plain.trials] == [0, 1, 2, 3, 4, 5]


def test_what_others_wrote_in_place_of_ours_stops_nobody(where: str) -> None:
    study = new_study(where, rows=1)
    odd = {"row": [], "origin": "x", "deaths": -1, "worker": {"id": "../../x"}, "retry_of": {}, "phase": 7}
    study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=odd))
    study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=odd))
    with transaction(study) as queue:
        assert [entry.attributes for entry in queue.entries()][1:] == [{}, {}]
        assert queue.rows() == {0}
    with Worker(study, SPACE) as worker:
        for _ in range(2):
            trial = worker.claim(2)
            assert trial is not None
            worker.tell(trial, 1.0)
        assert worker.claim(2) is None


def spoil(study: Study) -> None:
    with transaction(study) as queue:
        (entry,) = queue.entries()
        assert queue.start(entry, {"phase": "x"})
        queue.finish(entry.id, TrialState.COMPLETE, [1.0], {"scores": object()})


def test_nothing_of_a_transaction_that_fails_is_kept(where: str) -> None:
    study = new_study(where, rows=1)
    before = rows_of(study)
    with pytest.raises(TypeError, match="JSON"):
        spoil(study)
    assert rows_of(study) == before
