"""Tiny checkpoints for every room, made once per session."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared import made_once

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: no test may reach for a network

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before anything imports torch: as the program does
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests beside each other, not threads

HERE = Path(__file__).parent

# Neither torch nor the package is imported here: the process that only hands out the tests has no use for them.


def pytest_configure() -> None:
    """Spare every process of the tests what another one has done already."""
    gc.set_threshold(100_000, 20, 20)  # an eighth of all time went into looking for garbage
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is compiled is compiled for all
    sys.dont_write_bytecode = False


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Half again as many as there are cores: an eighth of a worker's time is spent waiting for clocks and browsers."""
    return max(1, (os.cpu_count() or 1) * 3 // 2)


def pytest_collection_finish() -> None:
    """What the imports have made is no garbage, and need not be looked at each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """What all processes of the tests are forked from is this one as long as it has done nothing."""
    if processes := sys.modules.get("tests.processes"):
        if "PYTEST_XDIST_WORKER" in os.environ:  # of many tests, which need what those processes need
            importlib.import_module("tests.preloaded")
        processes.template()


def pytest_unconfigure() -> None:
    """Let all of it go, for libraries that look for what was left."""
    gc.unfreeze()


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs come first, so that no core waits for the last of them.

    Of what is marked ``sampled(n)``, n cases spread over all stay in the default run and the others are slow.
    """
    items.sort(key=lambda item: item.path.parent != HERE)
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for own in cases.values():
        marker = own[0].get_closest_marker("sampled")
        assert marker is not None
        (count,) = marker.args
        kept = {round(place * (len(own) - 1) / max(1, count - 1)) for place in range(count)}
        for place, item in enumerate(own):
            if place not in kept:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is remembered of models is not kept in the user's own folder."""
    os.environ["BAYES_MERGER_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``a.safetensors``, ``b.safetensors`` and the configuration that draws them."""
    from tests.checkpoint_files import make_tiny_sd1, tiny_config

    def make(folder: Path) -> None:
        make_tiny_sd1(folder / "a.safetensors", seed=1)
        make_tiny_sd1(folder / "b.safetensors", seed=2)
        tiny_config(folder / "config")

    return made_once(tmp_path_factory, "tiny", make)


@pytest.fixture(scope="session")
def tiny_a(tiny_models: Path) -> Path:
    return tiny_models / "a.safetensors"


@pytest.fixture(scope="session")
def tiny_b(tiny_models: Path) -> Path:
    return tiny_models / "b.safetensors"


@pytest.fixture(scope="session")
def tiny_sd1_config(tiny_models: Path) -> Path:
    return tiny_models / "config"


@pytest.fixture(scope="session")
def six_trials(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Path:
    """A user's folder with ``a.safetensors``, ``b.safetensors`` and a finished study ``old`` of them; to be copied."""
    from tests.user_folder import command, make_workplace

    def make(folder: Path) -> None:
        make_workplace(folder, tiny_models / "config")
        for name in ("a", "b"):
            shutil.copy(tiny_models / f"{name}.safetensors", folder)
        settings = ("name=old", "n_iters=2", "final.images=0", "final.save=false")
        done = command(folder, "run", "experiment=tiny", "model_a=a.safetensors", "model_b=b.safetensors", *settings)
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "six_trials", make)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL database, password and all."""
    from tests.postgres import server

    with server() as address:
        yield address
