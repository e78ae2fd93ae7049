"""A folder of jobs with real workers, for the tests of jobs."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from reviewmill.server.jobs.files import JobFiles
from reviewmill.settings import ServiceSettings
from reviewmill.store import JobRecord, Store, database_url, new_id
from warm import kill, warm_program

TESTS = Path(__file__).parent
CONCURRENCY = 4


class Bench:
    """A folder of jobs, its store, and processes that work on them."""

    def __init__(self, folder: Path, database: str = "sqlite") -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.database = database
        self.store = Store.open(database_url(ServiceSettings(data_dir=folder, database=SecretStr(database))))
        self.root = folder / "jobs"
        self.processes: list[subprocess.Popen[str]] = []

    def add(self, texts: list[str], cascade: dict[str, Any] | None = None, **columns: list[Any]) -> JobRecord:
        job_id = new_id()
        files = JobFiles(self.root, job_id)
        files.folder.mkdir(parents=True)
        with files.upload("csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["评论", *columns], *zip(texts, *columns.values(), strict=True)])
        content = files.upload("csv").read_bytes()
        options = {"rows": len(texts), "customer": "customer_id" if "customer_id" in columns else None}
        options |= {"cascade": cascade} if cascade is not None else {}
        job, created = self.store.jobs.create(
            "local",
            job_id=job_id,
            task="sentiment",
            filename="in.csv",
            format="csv",
            text_column="评论",
            id_column=None,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            options=options,
        )
        assert created
        return job

    def start(
        self, endpoint: str, *, lease_s: float = 30.0, workers: int = 1, warm: bool = True
    ) -> subprocess.Popen[str]:
        words = [str(TESTS / "jobs_process.py"), str(self.folder), endpoint, str(lease_s), str(workers)]
        program = warm_program(*words) if warm else [sys.executable, *words]
        log = (self.folder / f"log{len(self.processes)}").open("w")
        env = os.environ | {"JOBS_DATABASE": self.database}
        process = subprocess.Popen(program, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", Path(log.name).read_text()
        return process

    def freeze(self, process: subprocess.Popen[str]) -> None:
        """Stop a process that is not warm, but not within a transaction: what SQLite has locked then, it keeps."""
        process.send_signal(signal.SIGSTOP)
        while not self._can_write():
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
            process.send_signal(signal.SIGSTOP)

    def _can_write(self) -> bool:
        if self.database != "sqlite":
            return True
        with closing(sqlite3.connect(self.folder / "reviewmill.sqlite", timeout=0.5)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
        return True

    def job(self, job_id: str) -> JobRecord:
        job = self.store.jobs.get(job_id)
        assert job is not None
        return job

    def wait(self, job_id: str, condition: Callable[[JobRecord], bool], seconds: float = 60) -> JobRecord:
        deadline = time.monotonic() + seconds
        while not condition(job := self.job(job_id)):
            assert time.monotonic() < deadline, f"{job}\n{self.logs()}"
            time.sleep(0.02)
        return job

    def done(self, job_id: str, seconds: float = 60) -> JobRecord:
        job = self.wait(job_id, lambda job: job.state not in {"queued", "running"}, seconds)
        assert job.state == "done", f"{job}\n{self.logs()}"
        return job

    def rows(self, job: JobRecord) -> list[dict[str, Any]]:
        lines = JobFiles(self.root, job.id).result(job.token).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def tidied(self, job: JobRecord) -> None:
        """Wait until only the result is left."""
        folder = JobFiles(self.root, job.id).folder
        wanted = [folder / f"run-{job.token}"]
        deadline = time.monotonic() + 5
        while [path for path in folder.iterdir() if path.name != "lock"] != wanted or len(
            list(wanted[0].iterdir())
        ) > 2:
            assert time.monotonic() < deadline, [*folder.rglob("*")]
            time.sleep(0.02)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("log*")))

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                kill(process)
        self.store.close()


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
