"""The database file: what is opened, what is refused, who may read it."""

import stat
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from proxy.store import StoreUnusable, open_store
from proxy.store.sqlite.lock import DirectoryLock
from proxy.store.sqlite.schema import MIGRATIONS, open_for_reading, open_for_writing
from tests.kit.store_settings import store_settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "streams.db"


def test_a_new_database_is_durable_and_its_owners_alone(path: Path) -> None:
    connection = open_for_writing(path)
    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("synchronous") == 2
    assert connection.pragma("auto_vacuum") == 2
    assert connection.pragma("user_version") == len(MIGRATIONS)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    connection.close()


def test_it_opens_again_as_it_was(path: Path) -> None:
    connection = open_for_writing(path)
    connection.execute("INSERT INTO producers VALUES (1, 'p', 0, 0, 0)")
    connection.close()
    connection = open_for_writing(path)
    assert connection.execute("SELECT count(*) FROM producers").fetchall() == [(1,)]
    connection.close()


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.9.99"])
def test_an_sqlite_that_loses_writes_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
    with pytest.raises(StoreUnusable, match=version):
        open_for_writing(path)
    assert not path.exists()


def test_what_is_no_database_is_left_alone(path: Path) -> None:
    content = b"somebody's notes, quite long ones\n" * 1000
    path.write_bytes(content)
    with pytest.raises(StoreUnusable, match="not a database"):
        open_for_writing(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("pragma", ["application_id = 7", f"user_version = {len(MIGRATIONS) + 1}"])
def test_a_database_of_another_kind_or_time_is_refused(path: Path, pragma: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(f"CREATE TABLE other (x); PRAGMA {pragma}")
    connection.close()
    with pytest.raises(StoreUnusable, match=r"another application|a later version"):
        open_for_writing(path)


def test_a_reader_cannot_write(path: Path) -> None:
    open_for_writing(path).close()
    connection = open_for_reading(path)
    with pytest.raises(apsw.ReadOnlyError):
        connection.execute("DELETE FROM streams")
    connection.close()


def test_a_directory_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from proxy.store import StoreUnusable\n"
        "from proxy.store.sqlite.lock import DirectoryLock\n"
        "try:\n    DirectoryLock(Path(sys.argv[1])); print('held')\n"
        "except StoreUnusable as error: print(error)"
    )

    def other() -> str:
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    lock = DirectoryLock(tmp_path)
    assert other() == f"{tmp_path} is in use by another process"
    with pytest.raises(StoreUnusable, match="in use"):
        DirectoryLock(tmp_path)
    lock.release()
    assert other() == "held"


async def test_a_store_that_cannot_be_opened_says_why_and_lets_go_of_its_directory(tmp_path: Path) -> None:
    (tmp_path / "streams.db").write_bytes(b"no database\n" * 1000)
    for _ in range(2):
        with pytest.raises(StoreUnusable, match=r"streams\.db is not a database"):
            open_store(tmp_path, store_settings())
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable, match=r"file: .*"):
        open_store(tmp_path / "file", store_settings())


def test_the_engine_is_imported_when_a_store_is_opened_and_not_before() -> None:
    code = "import sys; import proxy.app, proxy.standalone; print('apsw' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
