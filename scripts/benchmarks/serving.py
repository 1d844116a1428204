"""`latentdb serve` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time

API = "/api/v1"


class Server:
    """A server of a store on a free port.

    Attributes
    ----------
    url
        Of the page, with the token.
    seconds
        From the start of the process to the URL.
    """

    def __init__(self, store: str) -> None:
        words = [sys.executable, "-m", "latentdb", "serve", store, "--port", "0", "--no-browser"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [*words, "--quiet"], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self.seconds = time.perf_counter() - began
        if not self.url:
            sys.exit("the server did not start")
        self.port = int(self.url.split(":")[2].split("/")[0])
        self.token = self.url.split("?token=")[1]

    def memory(self) -> float:
        """Resident MB."""
        with open(f"/proc/{self._process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
