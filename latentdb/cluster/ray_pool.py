"""The workers of a Ray cluster: one actor a core, each with the model; a lost one is replaced.

Paths, counts and names of segments travel through Ray; pixels and latents never do.
"""

from __future__ import annotations

import heapq
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

from latentdb.base.cores import core_count
from latentdb.base.errors import ClusterError, InvalidInputError, LatentDBError, MissingExtraError
from latentdb.base.wording import counted
from latentdb.cluster.tasks import Order, TaskResult
from latentdb.cluster.worker import OpenCodec, Worker

_MOST_LOSSES = 4  # workers that one task may lose before the run gives up
_CONNECT_SECONDS = 10.0
_START_SECONDS = 300.0  # until the first worker has loaded the model


def require_ray() -> Any:
    """The package ray, without statistics of usage and with tokens, unless the owner decided.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    if "ray" not in sys.modules:  # which reads them when it is imported
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("Indexing on a cluster (--ray)", "ray") from error
    return ray


def check_address(address: str) -> None:
    """Refuse an address of a Ray client, whose process is not on the cluster."""
    if address.startswith("ray://"):
        raise InvalidInputError(
            f"{address} is an address of Ray Client: run latentdb on a machine of the cluster, "
            "with --ray HOST:PORT or --ray auto"
        )


@contextmanager
def ray_pool(address: str, store: str, open_codec: OpenCodec) -> Iterator[RayPool]:
    """Workers on every core of a Ray cluster; they end with the context.

    Parameters
    ----------
    address
        ``HOST:PORT`` or ``auto`` of a cluster that runs; empty for that of ``RAY_ADDRESS``,
        or else for one of this machine alone, which ends with the context.
    store, open_codec
        As in `latentdb.cluster.worker.Worker`.

    Raises
    ------
    ClusterError
        If it cannot be reached.
    """
    ray = require_ray()
    check_address(address)
    started = not ray.is_initialized()
    if started:
        _connect(ray, address or os.environ.get("RAY_ADDRESS", "") or "local")
    pool = RayPool(ray, store, open_codec)
    try:
        yield pool
    finally:
        pool.close()
        if started:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    own = {"num_cpus": core_count(), "include_dashboard": False} if address == "local" else {}
    try:
        if ":" in address:  # Ray tries for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
        ray.init(address, log_to_driver=False, logging_level="error", **own)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ClusterError(
            f"no Ray cluster at {address} ({reason}): start one with ray start --head, give its "
            "HOST:PORT, and the same RAY_AUTH_TOKEN"
        ) from error


class RayPool:
    """Actors, the orders that they have, and those that wait: see `latentdb.cluster.tasks.Pool`."""

    def __init__(self, ray: Any, store: str, open_codec: OpenCodec) -> None:
        self._ray = ray
        # No retry by Ray: an attempt has a number, which only this process gives.
        self._make = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Actor)
        self._arguments = store, open_codec
        self._attempts = count(1)
        self._waiting: list[tuple[int, int, Order]] = []  # a heap, by the number of the task
        self._starting: dict[Any, Any] = {}  # actors, by what they answer when they are ready
        self._working: dict[Any, tuple[Any, Order]] = {}
        self._idle: list[Any] = []
        self._losses: Counter[int] = Counter()
        cores = int(ray.cluster_resources().get("CPU", 0))
        if not cores:
            raise ClusterError("the Ray cluster has no CPU: start its nodes with --num-cpus")
        for _ in range(cores):
            self._start_actor()

    def submit(self, order: Order) -> None:
        attempt = next(self._attempts)
        heapq.heappush(self._waiting, (order.number, attempt, replace(order, attempt=attempt)))

    def results(self) -> Iterator[tuple[Order, TaskResult]]:
        while self._waiting or self._working:
            while self._waiting and self._idle:
                actor, (_, _, order) = self._idle.pop(), heapq.heappop(self._waiting)
                self._working[actor.run.remote(order)] = actor, order
            refs = [*self._starting, *self._working]
            if not refs:
                raise ClusterError(
                    "every worker of the Ray cluster was lost: what is finished is committed, run "
                    "the same command to resume"
                )
            seconds = None if self._working or self._losses else _START_SECONDS
            done, _ = self._ray.wait(refs, num_returns=1, timeout=seconds)
            if not done:
                raise ClusterError(
                    f"no worker of the Ray cluster was ready after {_START_SECONDS:.0f} s: see "
                    "ray status, and whether others use its CPUs"
                )
            for ref in done:
                found = self._finished(ref)
                if found is not None:
                    yield found

    def wait(self) -> None:
        """Wait until every worker has loaded the model."""
        while self._starting:
            done, _ = self._ray.wait(list(self._starting), num_returns=1)
            self._finished(done[0])

    def notes(self) -> Sequence[str]:
        if not self._losses:
            return ()
        lost = counted(self._losses.total(), "worker")
        return (f"{lost} of the cluster ended unasked; their tasks were done again by others",)

    def close(self) -> None:
        """End the workers."""
        for actor in [
            *self._idle,
            *self._starting.values(),
            *(actor for actor, _ in self._working.values()),
        ]:
            self._ray.kill(actor)
        self._idle, self._starting, self._working = [], {}, {}

    def _start_actor(self) -> None:
        actor = self._make.remote(*self._arguments)
        self._starting[actor.ready.remote()] = actor

    def _finished(self, ref: Any) -> tuple[Order, TaskResult] | None:
        """What an actor answered; None if that was that it is ready, or it was lost."""
        order = None
        if ref in self._starting:
            actor = self._starting.pop(ref)
        else:
            actor, order = self._working.pop(ref)
        try:
            answer = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(actor)
            raise _cause(error) from error
        except self._ray.exceptions.RayError as error:
            self._lose(order, error)
            return None
        self._idle.append(actor)
        return None if order is None else (order, answer)

    def _lose(self, order: Order | None, error: Exception) -> None:
        """Replace an actor that ended, and give its order to another."""
        cause = getattr(error, "cause", None) or error.__cause__
        number = -1 if order is None else order.number
        self._losses[number] += 1
        if self._losses[number] >= _MOST_LOSSES:
            reason = " ".join(str(cause or error).split())[:300]
            what = "start" if order is None else f"do task {number}"
            raise ClusterError(
                f"{_MOST_LOSSES} workers ended when they were to {what} ({reason}): see the logs "
                "of Ray; what is finished is committed, the same command resumes"
            )
        if order is not None:
            self.submit(order)
        self._start_actor()


def _cause(error: Any) -> LatentDBError:
    """The error of a worker, if it is one that latentdb raises; else what it was, in a line."""
    cause = error.cause if isinstance(error.cause, Exception) else error
    if isinstance(cause, LatentDBError):
        return cause
    text = " ".join(str(cause).split())
    return ClusterError(f"a worker failed ({type(cause).__name__}: {text[-300:]})")


class _Actor:
    """A `Worker` in a process of Ray."""

    def __init__(self, store: str, open_codec: OpenCodec) -> None:
        import ray

        address = ray.util.get_node_ip_address()
        number = ray.get_runtime_context().get_node_id()[:6]
        self._worker = Worker(store, open_codec, f"{socket.gethostname()} {address} {number}")

    def ready(self) -> None:
        """Answers when the model is loaded."""

    def run(self, order: Order) -> TaskResult:
        return self._worker.run(order)
