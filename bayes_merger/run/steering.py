"""A run that goes on is paused, resumed, stopped and given more trials, by any process that may write its folder.

So are the workers of a study in a database, on whatever machine: each looks between two trials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayes_merger.atomic import write_json
from bayes_merger.config import MOST_TRIALS
from bayes_merger.errors import ConfigError
from bayes_merger.run.attributes import CONFIG
from bayes_merger.run.control import GO_ON, PAUSE, STOP, STOP_NOW, ask, wish_of
from bayes_merger.run.folder import RunFolder
from bayes_merger.run.wishes import store_wish, stored_wish

if TYPE_CHECKING:
    import optuna


def pause(folder: RunFolder) -> None:
    """Hold a run where it is, models and all, until it goes on.

    Raises:
        ConfigError: it does not go on now, or stops already.
    """
    _check_not_stopping(folder)
    _ask(folder, PAUSE)


def stop(folder: RunFolder, *, now: bool = False) -> None:
    """End a run after its trial, or at once; ``resume`` goes on with it.

    Raises:
        ConfigError: it does not go on now.
    """
    former = asked_of(folder)
    _ask(folder, STOP_NOW if now or former == STOP_NOW else STOP)


def go_on(folder: RunFolder) -> None:
    """Let a run that was paused go on.

    Raises:
        ConfigError: it is not paused.
    """
    if _check_not_stopping(folder) != PAUSE:
        raise ConfigError(f"study '{folder.name}': is not paused")
    _ask(folder, GO_ON)


def give_trials(folder: RunFolder, n_iters: int) -> int:
    """Give a run that goes on more trials; it finds them before it ends.

    Args:
        folder: of the study.
        n_iters: trials after the start design, as in the settings.

    Returns:
        How many trials it is to have in all.

    Raises:
        ConfigError: it does not go on now, or has as many.
        StorageError: its storage cannot be written.
    """
    from bayes_merger.search.study.stopping import PATIENT_FROM, STOPPED
    from bayes_merger.search.study.study import finished

    _check_not_stopping(folder)
    study = _open_to_write(folder)
    config = study.user_attrs[CONFIG]
    if not config["n_iters"] < n_iters <= MOST_TRIALS:
        raise ConfigError(
            f"n_iters: {n_iters} is not more than the {config['n_iters']} that study '{folder.name}' has; while it "
            "runs it can only get more"
        )
    config = {**config, "n_iters": n_iters, "images_budget": None}
    study.set_user_attr(PATIENT_FROM, finished(study))
    study.set_user_attr(STOPPED, None)
    study.set_user_attr(CONFIG, config)
    write_json(folder.path / "config.json", config)
    return int(config["init_points"]) + n_iters


def _open_to_write(folder: RunFolder) -> optuna.study.Study:
    from bayes_merger.search.study.loading import load_study
    from bayes_merger.search.study.storage import open_storage

    storage = open_storage(folder.where, create=False)
    return load_study(storage, folder.called, alone=not folder.address, shown=folder.name, whole=False)


def asked_of(folder: RunFolder) -> str:
    """What those who draw a study are asked to do: here or, of a study in a database, anywhere.

    Raises:
        ConfigError: nobody draws it.
        StorageError: its storage cannot be reached.
    """
    if not goes_on(folder):
        raise ConfigError(
            f"study '{folder.name}': no run of it goes on; start one with  bayes-merger resume {folder.typed}"
        )
    return wish_of(folder) if folder.is_running else stored_wish(_open_to_write(folder).user_attrs)[0]


def goes_on(folder: RunFolder) -> bool:
    """Whether anybody draws a study: a run here or, of a study in a database, workers anywhere.

    Raises:
        StorageError: its storage cannot be reached.
    """
    if folder.is_running or not folder.is_elsewhere:
        return folder.is_running
    from bayes_merger.search.study.alive import at_work

    study = _open_to_write(folder)
    return stored_wish(study.user_attrs)[0] == PAUSE or at_work(study) > 0  # who is held between two trials has none


def _ask(folder: RunFolder, wish: str) -> None:
    if folder.is_running:
        ask(folder, wish)
    if folder.is_elsewhere:
        store_wish(_open_to_write(folder), wish)


def _check_not_stopping(folder: RunFolder) -> str:
    if (wish := asked_of(folder)) in (STOP, STOP_NOW):
        raise ConfigError(
            f"study '{folder.name}': its run is stopping; when it has ended,  bayes-merger resume {folder.typed}"
        )
    return wish
