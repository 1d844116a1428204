"""Keras, imported late and quietly."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Each step waits for the one before: the second use begins before the first ends, and ends last.
OVERLAP = """
import os, threading
from latentdb.kerasfile.runtime import quiet_stderr

inside, over = threading.Event(), threading.Event()
def first():
    with quiet_stderr():
        inside.set()
        begun.wait()
        os.write(2, b"held back;")
    over.set()

begun = threading.Event()
thread = threading.Thread(target=first)
before = os.fstat(2)
thread.start()
inside.wait()
try:
    with quiet_stderr():
        begun.set()
        over.wait()
        os.write(2, b"too;")
        FAIL
except (ValueError, KeyboardInterrupt):
    pass
thread.join()
assert os.fstat(2) == before
os.write(2, b"free")
with quiet_stderr():
    os.write(2, b"again")
"""


@pytest.mark.parametrize(
    ("fail", "written"),
    [
        ("", "free"), ("raise ValueError", "held back;too;free"),
        ("raise KeyboardInterrupt", "free"),
    ],
)  # fmt: skip
def test_uses_that_overlap_give_stderr_back(fail: str, written: str) -> None:
    code = OVERLAP.replace("FAIL", fail)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == written


def test_one_use_inside_another() -> None:
    code = """
import os
from latentdb.kerasfile.runtime import quiet_stderr
with quiet_stderr():
    with quiet_stderr():
        os.write(2, b"inner")
    os.write(2, b"outer")
os.write(2, b"free")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == "free"


def test_a_process_without_stderr() -> None:
    code = """
import os
from latentdb.kerasfile.runtime import quiet_stderr
os.close(2)
for _ in range(2):
    with quiet_stderr():
        pass
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "done\n"
