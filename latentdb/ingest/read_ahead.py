"""Batches of decoded images, read by threads a few batches ahead of the encoder.

One thread searches the folders and looks up the ids in the store, some dozens at
a time; one thread a core opens, compares and decodes the files.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import numpy as np

from latentdb.base.cores import core_count
from latentdb.images.discover import BadFile, Candidate
from latentdb.ingest.planner import Batch, ImagePlanner
from latentdb.model.codec import BATCH

_TASK_FILES = 64  # files that a thread reads in one go
_FIRST_TASK_FILES = 8  # the first tasks are small, so that the encoder begins at once
_SMALL_TASKS = 6  # two of each size: 8, 16, 32
_BATCH_BYTES = 64 << 20  # of pixels in a batch
_BATCH_TASKS = 64  # most tasks in a batch: of unchanged files it takes many to fill one
_BATCH_SECONDS = 1.0  # longest wait for a batch to fill


@contextmanager
def read_batches(
    planner: ImagePlanner,
    candidates: Iterable[Candidate | BadFile] | None = None,
    *,
    eager: bool = True,
) -> Iterator[Iterator[Batch]]:
    """Batches in the order of the search, read by threads that end with the context.

    At most two batches wait in memory, besides what the threads are reading.

    Parameters
    ----------
    candidates
        The files to read; those of the planner's search by default.
    eager
        Whether the first batches are small, so that the encoder begins at once.
    """
    if candidates is None:
        candidates = planner.search.candidates()
    reader = _BatchReader(planner, candidates, _SMALL_TASKS if eager else 0)
    reader.start()
    try:
        yield reader.batches()
    finally:
        reader.stop()


class _BatchReader:
    """The threads of `read_batches`."""

    def __init__(
        self,
        planner: ImagePlanner,
        candidates: Iterable[Candidate | BadFile],
        small_tasks: int,
    ) -> None:
        self._planner = planner
        self._small_tasks = small_tasks
        self._candidates = iter(candidates)
        image_bytes = int(np.prod(planner.preprocessing.shape))
        self._batch_images = max(1, min(BATCH, _BATCH_BYTES // image_bytes))
        self._task_files = min(_TASK_FILES, self._batch_images)
        self._threads = core_count()
        waiting = self._threads + self._batch_images // self._task_files
        self._queue: queue.Queue[Future[Batch] | BaseException | None] = queue.Queue(waiting)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._search, name="latentdb-search", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        while self._thread.is_alive():  # it may be waiting for room in the queue
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def batches(self) -> Iterator[Batch]:
        """What the tasks read, concatenated until it is worth encoding."""
        results: list[Batch] = []
        since = time.monotonic()
        for number, result in enumerate(self._task_results()):
            results.append(result)
            images = sum(len(each.pixels) for each in results)
            full = images + self._task_files > self._batch_images or len(results) == _BATCH_TASKS
            if full or number < self._small_tasks or time.monotonic() - since > _BATCH_SECONDS:
                yield Batch.concat(results)
                results, since = [], time.monotonic()
        if results:
            yield Batch.concat(results)

    def _task_results(self) -> Iterator[Batch]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item.result()

    def _search(self) -> None:
        try:
            with ThreadPoolExecutor(self._threads, "latentdb-read") as pool:
                for number in range(1 << 62):
                    size = self._task_files
                    if number < self._small_tasks:
                        size = min(size, _FIRST_TASK_FILES << number // 2)
                    candidates = list(islice(self._candidates, size))
                    if not candidates or self._stop.is_set():
                        break
                    stored = self._planner.look_up(candidates)
                    task = pool.submit(self._planner.read, candidates, stored, self._stop)
                    self._queue.put(task)
            self._queue.put(None)
        except BaseException as error:  # raised again by the thread that iterates
            self._queue.put(error)
