"""Runs of `latentdb index --ray` on two nodes of one machine, and kills on the way."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_SEGMENT = re.compile(r"([0-9a-f]{32})-([0-9]+)-([0-9]+)-([0-9]+)(-[0-9]+\.h5|\.json)\Z")
_WAIT_SECONDS = 120.0
# The part of a run that is cut into tasks is a setting of the code: tests index few images.
_DRIVER = (
    "import sys\n"
    "from latentdb.cluster import executor\n"
    "from latentdb.cli.main import main\n"
    "executor.BATCH = int(sys.argv[1])\n"
    "main(sys.argv[2:])"
)


@contextmanager
def two_nodes() -> Iterator[Any]:
    """A Ray cluster of two raylets of one CPU each, on the loopback, with a token of its own."""
    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32)
    )
    from ray.cluster_utils import Cluster

    how = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20}
    cluster = _started(lambda: Cluster(initialize_head=True, head_node_args=how))
    try:
        add_node(cluster)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def children(process: int) -> list[int]:
    """The processes below a process."""
    found = []
    try:
        tasks = os.listdir(f"/proc/{process}/task")
    except OSError:
        return []
    for task in tasks:
        try:
            words = Path(f"/proc/{process}/task/{task}/children").read_text().split()
        except OSError:
            continue
        for word in words:
            found += [int(word), *children(int(word))]
    return found


def processor_seconds() -> float:
    """What this process and all below it have used: also on a busy machine nearly the same."""
    ticks = 0
    for process in (os.getpid(), *children(os.getpid())):
        try:
            words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def workers(node: Any) -> list[int]:
    """Processes of a node that have the model."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = []
    for process in children(raylet):
        try:
            line = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if line.startswith(b"ray::_Actor"):
            found.append(process)
    return found


def receipts(store: Path) -> dict[int, int]:
    """Finished tasks of the plan that is there: how many, by epoch."""
    try:
        names = os.listdir(store / "plan")
    except OSError:
        return {}
    found: dict[int, int] = {}
    for name in names:
        match = _SEGMENT.match(name)
        if match is not None and match[5] == ".json":
            found[int(match[3])] = found.get(int(match[3]), 0) + 1
    return found


def finished(store: Path) -> set[tuple[str, int]]:
    """Plan and number of the tasks that have a receipt."""
    matches = [_SEGMENT.match(name) for name in os.listdir(store / "plan")]
    return {(m[1], int(m[2])) for m in matches if m is not None and m[5] == ".json"}


def attempts(store: Path) -> dict[tuple[str, int], set[int]]:
    """Epochs in which a segment of each task was written: none is deleted for ten minutes."""
    found: dict[tuple[str, int], set[int]] = {}
    for name in os.listdir(store / "segments"):
        match = _SEGMENT.match(name)
        if match is not None:
            found.setdefault((match[1], int(match[2])), set()).add(int(match[3]))
    return found


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _WAIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} after {_WAIT_SECONDS:.0f} s")
        time.sleep(0.005)


def start_driver(cluster: Any, store: Path, images: Path, *, batch: int) -> subprocess.Popen[str]:
    """`latentdb index STORE IMAGES --ray ADDRESS` in a process of its own."""
    words = ["index", store, images, "--labels-from-folders", "--json", "--ray", cluster.address]
    return subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(batch), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclass(frozen=True)
class Kills:
    """What became of a run of which a worker, a node and the driver were killed.

    Attributes
    ----------
    tasks
        Tasks that were finished when the driver was killed, and how many were left.
    again
        Finished tasks that were done again after that.
    notes
        What the run that resumed said.
    seconds
        From its start to its end.
    """

    tasks: tuple[int, int]
    again: int
    notes: list[str]
    seconds: float


def add_node(cluster: Any) -> None:
    """A node more."""
    _started(lambda: cluster.add_node(num_cpus=1, object_store_memory=80 << 20))


def _started(start: Callable[[], Any]) -> Any:
    """What a start of Ray gives, of three tries.

    Ray forks its programs from this process.  Where tensorflow or gRPC have threads in it, some
    forks die or hang before they become the program, and Ray waits 30 s for its port in vain.
    """
    for _ in range(2):
        try:
            return start()
        except Exception as error:
            if "timed out" not in str(error).lower():
                raise
    return start()


def run_with_kills(cluster: Any, store: Path, images: Path, *, batch: int) -> Kills:
    """Index with kill -9 of a worker, of a node and of the driver, and once more to resume.

    Parameters
    ----------
    batch
        Images in the smallest task.  The kills come after an eighth, a quarter and a half of
        the tasks.
    """
    from latentdb.store import plan as plans

    (second,) = cluster.worker_nodes
    driver = start_driver(cluster, store, images, batch=batch)

    def done() -> int:
        if driver.poll() is not None:
            raise RuntimeError(f"the driver ended: {driver.communicate()}")
        return sum(receipts(store).values())

    wait_for(lambda: done() >= 0 and plans.read(store) is not None, "plan")
    plan = plans.read(store)
    total = 0 if plan is None else len(plan.tasks)
    wait_for(lambda: bool(done() >= total // 8 and workers(cluster.head_node)), "finished task")
    os.kill(workers(cluster.head_node)[0], signal.SIGKILL)
    wait_for(lambda: done() >= total // 4, "task after the kill of a worker")
    for process in [*children(second.all_processes["raylet"][0].process.pid)]:
        os.kill(process, signal.SIGKILL)
    cluster.remove_node(second, allow_graceful=False)
    wait_for(lambda: done() >= total // 2, "task after the kill of a node")
    driver.kill()
    driver.communicate()
    wait_for(lambda: not workers(cluster.head_node), "end of the workers of a killed driver")
    before = finished(store)
    add_node(cluster)
    cluster.wait_for_nodes()
    start = time.monotonic()
    resumed = start_driver(cluster, store, images, batch=batch)
    output, errors = resumed.communicate()
    if resumed.returncode:
        raise RuntimeError(f"the second run failed: {errors[-2000:]}")
    epochs = attempts(store)
    again = sum(max(epochs.get(task, {1})) > 1 for task in before)
    left = len({task for task, found in epochs.items() if max(found) > 1})
    notes = json.loads(output)["notes"]
    return Kills((len(before), left), again, notes, time.monotonic() - start)


def contents(path: Path) -> tuple[list[Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """All live rows in their order: records and stamps, z_mean, z_log_var."""
    from latentdb import LatentDB

    with LatentDB.open(path) as db:
        snapshot = db._snapshot()
        rows = np.concatenate(
            [part.rows[snapshot.live_positions(part)] for part in snapshot.segments]
        )
        records = snapshot.records(rows)
        stamps = [snapshot.content(row) for row in rows.tolist()]
        return [*zip(records, stamps, strict=True)], snapshot.vectors(rows), snapshot.log_vars(rows)


@dataclass(frozen=True)
class Difference:
    """How two stores differ, row for row: in order, records and vectors."""

    rows: int
    records: int
    vectors: float

    @staticmethod
    def of(one: Path, other: Path) -> Difference:
        """Of two stores; rows is the number of those that only one has."""
        first, second = contents(one), contents(other)
        if len(first[0]) != len(second[0]):
            return Difference(abs(len(first[0]) - len(second[0])), 0, float("inf"))
        records = sum(a != b for a, b in zip(first[0], second[0], strict=True))
        vectors = max(float(np.abs(first[n] - second[n]).max()) for n in (1, 2))
        return Difference(0, records, vectors)
