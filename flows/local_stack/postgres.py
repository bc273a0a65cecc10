"""A PostgreSQL server of our own from the system's packages: data under ``.lema``, reachable on loopback only."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lema_core.errors import ConfigError
from lema_core.system.files import make_private_file
from lema_core.system.loopback import free_port
from lema_core.system.processes import program_environment

USER = "lema"
DATABASES = ("prefect", "ledger")
LOG = "server.log"
_PORT_FILE = "lema.port"


class Postgres:
    """The server whose data folder is ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    @property
    def made(self) -> bool:
        """Return whether its data folder exists."""
        return (self.folder / _PORT_FILE).exists()

    def url(self, database: str, driver: str = "postgresql") -> str:
        """Return a database's address; in place of a password it names the file that holds it, which is ours alone."""
        return f"{driver}://{USER}@127.0.0.1:{self._port()}/{database}?passfile={quote(str(self._passfile), safe='/')}"

    def start(self) -> None:
        """Start the server, and make it first where there is none.

        Raises:
            ConfigError: it cannot be made or started; what PostgreSQL said is in the text.
        """
        if not self.made:
            # Make the data folder; its port is written last, so that an unfinished one is made again.
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            password, user = secrets.token_urlsafe(32), _as_user()
            with tempfile.NamedTemporaryFile("w", suffix=".lema", encoding="utf-8") as once:
                once.write(password)
                once.flush()
                for path in (self.folder, once.name):
                    if user:
                        shutil.chown(path, user)
                # Every user of the machine reaches loopback, and this role may start programs: it needs a password.
                words = ("--auth=scram-sha-256", f"--pwfile={once.name}", f"--username={USER}")
                self._call("initdb", *words, "--encoding=UTF8", "--locale=C")
            make_private_file(self._passfile)
            self._passfile.write_text(f"127.0.0.1:*:*:{USER}:{password}\n", encoding="utf-8")
            (self.folder / _PORT_FILE).write_text(f"{free_port()}\n", encoding="utf-8")
        if not self.running():
            options = f"-p {self._port()} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
            self._call("pg_ctl", "-w", "-l", str(self.folder / LOG), "-o", options, "start")
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            there = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
            for database in set(DATABASES) - there:
                connection.execute(f"CREATE DATABASE {database}".encode())

    def running(self) -> bool:
        """Return whether the server runs."""
        return self.made and self._run("pg_ctl", ["status"]).returncode == 0

    def stop(self) -> bool:
        """Stop the server; return whether it ran."""
        running = self.running()
        if running:
            self._call("pg_ctl", "-w", "-m", "fast", "stop")
        return running

    @property
    def _passfile(self) -> Path:
        return self.folder.with_name("postgres.pass")

    def _port(self) -> int:
        return int((self.folder / _PORT_FILE).read_text(encoding="utf-8"))

    def _call(self, program: str, *words: str) -> None:
        done = self._run(program, words)
        if done.returncode != 0:
            hint = ""
            if user := _as_user():
                hint = f". It runs as {user}, who must be able to enter every folder above; or: lema up --sqlite"
            raise ConfigError(f"PostgreSQL's {program} in {self.folder} failed: {done.stderr.strip()}{hint}")

    def _run(self, program: str, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return self._execute([str(_binaries() / program), "-D", str(self.folder), *words])

    def _execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        # A started server inherits our output: with a pipe we would wait for its end.
        options: dict[str, Any] = {"user": user} if (user := _as_user()) else {}
        log = self.folder.with_name("postgres-control.log")
        make_private_file(log)
        with log.open("w+", encoding="utf-8") as out:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                text=True,
                check=False,
                cwd="/",
                env=program_environment(network=False),
                **options,
            )
            out.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, stdout="", stderr=out.read())


def _binaries() -> Path:
    """Return the folder of PostgreSQL's own programs, which Debian keeps out of the search path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    program = str(found[-1]) if found else shutil.which("initdb")
    if program is None:
        raise ConfigError(
            "PostgreSQL's server is not installed: apt-get install postgresql (or start with `lema up --sqlite`)"
        )
    return Path(program).parent


def _as_user() -> str | None:
    """Return whom the server runs as where we are root, whom PostgreSQL refuses."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise ConfigError(
            "PostgreSQL does not run as root, and there is no user postgres: run as another user"
        ) from None
