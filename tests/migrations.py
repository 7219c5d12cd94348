"""Optuna reads its ten migrations three times for each study that is made, and once for each that is opened.

That is four fifths of making one. Here they are read once; what a database holds is looked up as ever.
"""

from pathlib import Path

from alembic.script import ScriptDirectory
from optuna.storages._rdb import storage


def read_once() -> None:
    """For all studies of this process."""
    migrations = ScriptDirectory(str(Path(storage.__file__).with_name("alembic")))
    migrations.get_current_head()  # reads them
    storage._VersionManager._create_alembic_script = lambda self: migrations  # type: ignore[method-assign]
