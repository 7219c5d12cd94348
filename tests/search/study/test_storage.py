"""Where studies are kept, and that no password is ever shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bayes_merger.errors import ConfigError
from bayes_merger.search.study.storage import file_at, open_storage, redacted
from tests.postgres import PASSWORD


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://ann:secret@db.example/merges", "postgresql://ann@db.example/merges"),
        ("postgresql://ann:secret@db:5433/m?sslmode=require", "postgresql://ann@db:5433/m?sslmode=require"),
        ("postgresql://db/m?user=ann&password=secret", "postgresql://db/m?user=ann"),
        ("postgresql://ann:secret@db:port/m", "postgresql://..."),
        ("postgresql://ann:se@cret@db/m", "postgresql://..."),
        ("postgresql://ann:s@c/ret@db/m", "postgresql://..."),
        ("postgresql://ann@org:secret@db/m", "postgresql://ann%40org@db/m"),
        ("runs/a b/study.db", "runs/a b/study.db"),
    ],
)
def test_what_is_shown_of_an_address_has_no_password(address: str, shown: str) -> None:
    assert redacted(address) == shown


def test_an_at_sign_in_a_password_is_answered() -> None:
    with pytest.raises(ConfigError, match=r"storage: postgresql://\.\.\. has two @; in a password it is written %40"):
        open_storage("postgresql://ann:se@cret@db/m")


def test_a_server_that_is_not_there_is_one_line_without_the_password() -> None:
    with pytest.raises(ConfigError, match=r"postgresql://ann@127\.0\.0\.1:1/m: not a study's storage") as found:
        open_storage("postgresql://ann:hunter2@127.0.0.1:1/m")
    assert "hunter2" not in str(found.value)
    assert "\n" not in str(found.value)


def test_a_wrong_password_is_one_line_without_it(postgres: str) -> None:
    with pytest.raises(ConfigError, match="password authentication failed") as found:
        open_storage(postgres.replace(PASSWORD, "hunter2"))
    assert "hunter2" not in str(found.value)


@pytest.mark.parametrize("address", ["mysql://host/name", "mongodb+srv://host", "sqlite://", "http://example.org/x"])
def test_another_kind_of_database_is_an_error_with_the_way_out(address: str) -> None:
    with pytest.raises(ConfigError, match=r"not a study's storage; give  postgresql://user@host/database"):
        open_storage(address)


def test_who_joins_waits_for_a_server_without_a_free_connection_and_says_what_is_wrong(postgres: str) -> None:
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as owner:
        owner.execute("CREATE ROLE joe LOGIN PASSWORD 'hunter2' CONNECTION LIMIT 2 IN ROLE merger")
        address = postgres.replace(f"merger:{PASSWORD}", "joe:hunter2")
        open_storage(postgres)  # the tables are there
        others, said = [psycopg.connect(address) for _ in range(2)], []

        def waiting(text: str) -> None:
            said.append(text)
            for other in others:
                other.close()

        storage = open_storage(address, create=False, waiting=waiting)
        assert said == ["the server has no connection free; raise max_connections; waiting for 10 minutes"]
        assert storage.get_all_studies() is not None
        storage.engine.dispose()
        owner.execute("DROP ROLE joe")


def test_a_database_without_studies_is_not_made_into_one_by_looking(postgres: str) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(
        postgres.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE empty")
    address = postgres.rpartition("/")[0] + "/empty"
    with pytest.raises(ConfigError, match="not a study's storage"):
        open_storage(address, create=False)
    assert open_storage(address).get_all_studies() == []
    assert open_storage(address, create=False).get_all_studies() == []


def test_without_psycopg_the_way_out_is_named() -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from bayes_merger.errors import ConfigError\n"
        "from bayes_merger.search.study.storage import open_storage\n"
        "try: open_storage('postgresql://u:hunter2@h/d')\n"
        "except ConfigError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'bayes-merger[postgres]'" in told
    assert "hunter2" not in told


def test_a_path_with_braces_is_a_path(tmp_path: Path) -> None:
    open_storage(tmp_path / "{a}{SCHEMA_VERSION}.db")
    assert (tmp_path / "{a}{SCHEMA_VERSION}.db").is_file()


@pytest.mark.parametrize(
    ("where", "file"),
    [
        ("mine.db", "mine.db"),
        ("sqlite:///mine.db", "mine.db"),
        ("sqlite:////tmp/mine.db", "/tmp/mine.db"),
        ("postgresql://u@h/d", None),
        ("sqlite:///:memory:", None),
        ("x://[", None),
    ],
)
def test_the_file_that_a_storage_is(where: str, file: str | None) -> None:
    assert file_at(where) == file
