"""The service in a process of its own, as tests of jobs need it.

As a program: `python tests/jobs_server.py PORT`; settings by `REVIEWMILL_*`. It prints "ready" when it answers.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2

from conftest import free_port
from reviewmill.outbound import way_to
from reviewmill.server.run import serve
from reviewmill.settings import load_settings
from warm import kill, warm_program

TESTS = Path(__file__).parent
CSV = "编号,评论,星级\n1,质量很好,5\n2,太差了,1\n3,是蓝色的,3\n".encode()


class Server:
    """The service, with its own data folder, in a process of its own."""

    def __init__(self, folder: Path, endpoint: str, **settings: Any) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        own = {"data_dir": folder / "data", "no_auth": True, "lease_s": 2.0, **settings}
        env = {f"REVIEWMILL_SERVICE__{name.upper()}": str(value) for name, value in own.items()}
        env |= {"REVIEWMILL_ENDPOINT": endpoint, "REVIEWMILL_CACHE": "none", "REVIEWMILL_ATTEMPTS": "1"}
        env |= {"REVIEWMILL_CACHE_DIR": str(folder / "cache"), "REVIEWMILL_STATE_DIR": str(folder / "state")}
        env |= {"REVIEWMILL_CONCURRENCY": "4"}
        folder.mkdir(exist_ok=True)
        self.log = folder / f"log-{self.port}"
        program = warm_program(TESTS / "jobs_server.py", self.port)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                program, env=os.environ | env, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.log.read_text()
        self.client = httpx2.Client(base_url=self.url, timeout=60, **way_to(self.url))

    @property
    def jobs(self) -> Path:
        return self.folder / "data" / "jobs"

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.jobs)) for path in self.jobs.rglob("*") if path.is_file())

    def upload(self, content: bytes = CSV, name: str = "in.csv", headers: Any = None, **fields: str) -> Any:
        return self.client.post("/v1/jobs", files={"file": (name, content)}, data=fields, headers=headers)

    def done(self, job_id: str, seconds: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while (job := self.client.get(f"/v1/jobs/{job_id}").json())["state"] in {"queued", "running"}:
            assert time.monotonic() < deadline, f"{job}\n{self.log.read_text()}"
            time.sleep(0.05)
        return job

    def result(self, job_id: str, kind: str) -> Any:
        return self.client.get(f"/v1/jobs/{job_id}/result", params={"format": kind})

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                kill(self.process)
                raise


def main(port: int) -> None:
    settings = load_settings()
    settings.service.port = port
    serve(settings, lambda _: print("ready", flush=True))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(int(sys.argv[1]))
