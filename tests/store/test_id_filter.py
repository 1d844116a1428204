"""Look-ups of hashes: they may say yes to anything, but no only to what is in no segment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentdb.base.files import checksum
from latentdb.store.id_filter import IdFilter
from latentdb.store.manifest import FileEntry, SegmentEntry
from latentdb.store.rows import Rows
from latentdb.store.segment import Segment, dump

Hashes = NDArray[np.uint64]


def made(folder: Path, name: str, hashes: Hashes) -> Segment:
    """A segment whose ids have these hashes."""
    count = len(hashes)
    ids = [str(number) for number in range(count)]
    made = dump(Rows(ids, np.zeros((count, 1), np.float32), hashes=hashes), np.arange(count))
    (folder / name).write_bytes(made.data)
    file = FileEntry(name, len(made.data), checksum(made.data))
    entry = SegmentEntry(file, count, 0, count - 1, made.layout)
    return Segment(folder, entry, 1, {})


def missed(lookup: IdFilter, segments: Sequence[Segment], asked: Hashes) -> set[int]:
    """Hashes that a segment has, and that the filter leaves out."""
    left = set(asked.tolist()) - set(asked[lookup.possible(segments, asked)].tolist())
    return left & {int(one) for segment in segments for one in segment.hashes}


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.booleans()), min_size=1, max_size=8),
    st.integers(0, 2**32),
    st.sampled_from([4, 12, 64]),
)
def test_no_hash_of_a_segment_is_left_out(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, bool]],
    seed: int,
    bits: int,
) -> None:
    folder = tmp_path_factory.mktemp("lookup")
    draw = np.random.default_rng(seed)  # few bits: many hashes are the same

    def some(count: int) -> Hashes:
        return draw.integers(0, 2**64, count, np.uint64) >> np.uint64(64 - bits)

    lookup, segments = IdFilter(), []
    assert lookup.possible([], some(5)).tolist() in ([], list(range(5)))
    for number, (count, dropped) in enumerate(steps):
        if dropped and segments:
            segments.pop(0)
        segments.append(made(folder, f"s{number}", some(count)))
        own = np.concatenate([segment.hashes for segment in segments])
        asked = np.concatenate([some(50), draw.choice(own, 50)])
        for _ in range(3):
            assert missed(lookup, segments, asked) == set()


def test_most_of_the_others_are_left_out_once_it_is_worth_it(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    segments = [
        made(tmp_path, f"s{number}", draw.integers(0, 2**64, 2000, np.uint64))
        for number in range(5)
    ]
    others = draw.integers(0, 2**64, 400, np.uint64)
    lookup = IdFilter()
    large = made(tmp_path, "large", draw.integers(0, 2**64, 20_000, np.uint64))
    assert len(lookup.possible([large], others[:1])) == 1  # bisecting for one costs less
    assert len(lookup.possible(segments, others)) == 0
    # A long-lived writer's segments come and go: what is gone is forgotten in the end.
    for number in range(40):
        segments[number % 5] = made(
            tmp_path, f"t{number}", draw.integers(0, 2**64, 2000, np.uint64)
        )
        assert len(lookup.possible(segments, others)) == 0
    assert lookup.possible([], others).size == 0


def test_threads_may_share_it(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    segments = [
        made(tmp_path, f"s{number}", draw.integers(0, 2**64, 500, np.uint64))
        for number in range(24)
    ]
    lookup, found = IdFilter(), []

    def ask(seed: int) -> None:
        some = np.random.default_rng(seed)
        for upto in range(1, len(segments) + 1):
            asked = some.choice(segments[upto - 1].hashes, 200)
            found.append(missed(lookup, segments[:upto], asked))

    threads = [Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [set()] * 4 * len(segments)
