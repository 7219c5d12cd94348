"""The course of a run once its study is open: the search, the final round, the best merge; and how it ends early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import optuna

from bayes_merger.errors import BayesMergerError, Interrupted, Paused, StorageError, one_line, trouble
from bayes_merger.paths import quoted
from bayes_merger.report.best import FreshBest, write_best, write_preview
from bayes_merger.report.log import began_with, took
from bayes_merger.report.summary import summary
from bayes_merger.report.tables import (
    best_lines,
    candidates_table,
    closing_table,
    front_table,
    table_text,
    verdict_line,
)
from bayes_merger.report.verdict import pictures_compared
from bayes_merger.run.attributes import FINAL
from bayes_merger.run.budget import with_more_trials
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.outside import OUTSIDE
from bayes_merger.run.progress import ProgressReporter, StopSignal, write_log
from bayes_merger.run.rating.desk import Seating, no_seat, played_off
from bayes_merger.run.record import chosen_trial, complete_trials, final_of, posterior_of
from bayes_merger.run.setup import RunSetup
from bayes_merger.run.wishes import Wishes
from bayes_merger.search.study.stopping import STOPPED
from bayes_merger.search.study.storage import backend, put_to_rest
from bayes_merger.search.study.study import finished
from bayes_merger.search.study.workers import with_retries


def carry_on(
    setup: RunSetup,
    study: optuna.study.Study,
    folder: RunFolder,
    progress: ProgressReporter,
    seating: Seating = no_seat,
) -> None:
    """The search, the final round and the best merge; whatever ends it early, what is known is written.

    Args:
        setup: the run.
        study: as stored.
        folder: where it lies.
        progress: shows what goes on.
        seating: opens the place where a person rates, if one of the scorers is a person and that is not the terminal.

    Raises:
        BayesMergerError: what ended it, with how to go on.
    """
    if setup.config.generator.program == OUTSIDE:
        _hand_out(setup, study, folder, progress)
        return
    again = f"go on with  bayes-merger resume {folder.typed}"
    for line in began_with(study.user_attrs):
        write_log(folder.log, line)
    try:
        with _logged(folder), StopSignal(progress, Wishes(folder, progress, study)) as stop:
            page = setup.rater and setup.config.scoring.page
            with seating(folder, progress) if page else nullcontext():
                _to_the_end(setup, study, folder, progress, stop)
    except (Paused, Interrupted) as error:
        raise type(error)(f"{error}; {again}") from error
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {again}") from None
    except BayesMergerError as error:
        raise type(error)(f"{error}; when that is mended, {again}") from error
    except Exception as error:
        _raise_if_gone(folder, again)
        if said := trouble(error):
            raise StorageError(f"{said}; then {again}") from error
        raise
    finally:
        setup.close()
        put_to_rest(backend(study))


@contextmanager
def _logged(folder: RunFolder) -> Iterator[None]:
    """Whatever ends the block early stands in the log; the screen is told by the command."""
    try:
        yield
    except BaseException as error:
        write_log(folder.log, f"ended early: {one_line(error, longest=1000) or type(error).__name__}")
        raise


def _hand_out(setup: RunSetup, study: optuna.study.Study, folder: RunFolder, progress: ProgressReporter) -> None:
    """Leave the merges to those who ask for them; what is known of the best is written."""
    try:
        done, total = finished(study), setup.trials
        if done < total:
            study.set_user_attr(FINAL, None)
            progress.note(f"{total - done} merges wait for whoever asks:  {_serve(folder)}  and docs/api.md")
        if complete_trials(study):
            write_best(study, folder)
            progress.note(f"recipe and weights of the best so far are in {folder.best}")
    finally:
        setup.close()
        put_to_rest(backend(study))


def _serve(folder: RunFolder) -> str:
    """The command that shows a study in a browser."""
    elsewhere = "" if folder.path.parent == Path("runs") else f" --runs {quoted(str(folder.path.parent))}"
    return f"bayes-merger serve{elsewhere}"


def _raise_if_gone(folder: RunFolder, again: str) -> None:
    """Say so if what went wrong is that the study's folder is no longer there.

    Raises:
        StorageError: it is not.
    """
    try:
        folder.check()
    except StorageError as error:
        raise StorageError(f"{error}, then {again}") from None


def _to_the_end(
    setup: RunSetup, study: optuna.study.Study, folder: RunFolder, progress: ProgressReporter, stop: StopSignal
) -> None:
    from bayes_merger.run.drawing import evaluator_of
    from bayes_merger.run.final import decide, keep_pictures
    from bayes_merger.run.loop import search
    from bayes_merger.run.opening import opening_lines
    from bayes_merger.run.workers import search_together

    progress = FreshBest(progress, partial(write_best, study, folder))

    def conclude() -> None:  # each step of it is stored, or can be done again
        if setup.rater and (played := played_off(setup, study, folder, progress, stop)):
            progress.note(str(played))
        if not final_of(study):
            fixed = setup.with_standards(study.user_attrs)
            study.set_user_attr(FINAL, decide(fixed, study, evaluator, progress, stop, folder).to_json())
        keep_pictures(setup, study, evaluator, folder, progress)
        export_best(setup, study, folder, progress)

    def unfinished() -> bool:
        nonlocal setup
        setup = with_more_trials(setup, study.user_attrs)
        return finished(study) < setup.trials

    try:
        searching = unfinished()
        while True:
            if searching:
                for line in opening_lines(setup, study, folder, finished(study)):
                    progress.note(line)
                progress.note(f"watch it in a browser:  {_serve(folder)}    the best so far: {folder.best}")
                study.set_user_attr(FINAL, None)
                study.set_user_attr(STOPPED, None)
            if searching and setup.config.workers > 1:
                search_together(setup, study, folder, progress, stop)
            with evaluator_of(setup, study, progress, stop, folder) as evaluator:
                if searching and setup.config.workers == 1:
                    search(setup, study, evaluator, folder, progress, stop)
                with_retries(study, conclude)
            searching = unfinished() and not study.user_attrs.get(STOPPED)  # given more during the final round
            if not searching:
                return
    except (Paused, Interrupted):
        if complete_trials(study):
            write_best(study, folder)
            write_log(folder.log, took(study))
        raise


def export_best(setup: RunSetup, study: optuna.study.Study, folder: RunFolder, progress: ProgressReporter) -> None:
    """Write the best merge and say where everything is."""
    from bayes_merger.merging.export.single_file import save_merge

    recipe = write_best(study, folder)
    trial = chosen_trial(study)
    if setup.config.final.save:
        progress.step("writing the best merge")
        save_merge(recipe, setup.checkpoints, folder.model, replace=True)
        write_preview(trial, folder)
    final = final_of(study)
    data = summary(study)
    if "front" in data:
        progress.note(table_text(front_table(data["front"], trial.number)))
    if final and final.rescored:
        progress.note(table_text(candidates_table(final, posterior_of(study))))
    if final and final.rows:
        progress.note(table_text(closing_table(final, pictures_compared(study, final))))
    about_rater = [setup.assistant.report()] if setup.assistant else []
    for line in (*best_lines(data), *filter(None, about_rater)):
        progress.note(line)
    if setup.config.final.save:
        progress.note(f"model    {folder.model}")
    progress.note(f"recipe   {folder.best / 'recipe.json'}   weights {folder.best / 'weights.txt'}")
    progress.note(f"pictures and plots in {folder.best}; on one page:  bayes-merger report {folder.typed}")
    write_log(folder.log, took(study))
    progress.note(verdict_line(data))
