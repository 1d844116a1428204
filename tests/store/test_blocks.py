"""Arrays that are verified block by block, shared by threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from latentdb.base.errors import CorruptStoreError
from latentdb.store.blocks import BLOCK, MappedArray

ARRAY = np.arange(40 * BLOCK // 8)  # 40 blocks of int64


def mapped(array: Any = ARRAY, whole: Any = ARRAY) -> MappedArray:
    raw = whole.view("u1").data
    sums = [
        xxhash.xxh3_64_intdigest(raw[start : start + BLOCK]) for start in range(0, len(raw), BLOCK)
    ]
    return MappedArray(array, np.array(sums, "<u8"), "a.h5: numbers")


class Positions(np.ndarray[Any, Any]):
    """Positions in whose arithmetic another thread has its turn."""

    turn: Callable[[], object]

    def __mul__(self, other: Any) -> Any:
        self.turn()
        return np.asarray(self) * other


class Start(int):
    """The same of a single position."""

    turn: Callable[[], object]

    def __mul__(self, other: Any) -> Any:
        self.turn()
        return int(self) * other


def test_rows_are_taken_while_another_thread_verifies_the_whole_array() -> None:
    numbers = mapped()
    positions = np.array([3, 20_000]).view(Positions)
    positions.turn = numbers.whole
    assert numbers.take(positions).tolist() == [3, 20_000]


def test_a_range_is_read_while_another_thread_verifies_the_whole_array() -> None:
    numbers = mapped()
    start = Start(5)
    start.turn = numbers.whole
    assert numbers.range(start, 8).tolist() == [5, 6, 7]


@pytest.mark.parametrize("read", [lambda a: a.take(np.array([3])), lambda a: a.range(3, 4)])
def test_a_block_is_verified_while_another_thread_verifies_the_whole_array(
    read: Callable[[MappedArray], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers, digest = mapped(), xxhash.xxh3_64_intdigest

    def meanwhile(data: Any) -> int:
        monkeypatch.setattr(xxhash, "xxh3_64_intdigest", digest)
        numbers.whole()
        return digest(data)

    monkeypatch.setattr(xxhash, "xxh3_64_intdigest", meanwhile)
    assert read(numbers).tolist() == [3]


def test_damage_is_found_by_every_read() -> None:
    damaged = ARRAY.copy()
    damaged[9 * BLOCK // 8] += 1
    numbers = mapped(damaged)
    assert numbers.take(np.array([0, 1])).tolist() == [0, 1]
    for _ in range(2):
        with pytest.raises(CorruptStoreError, match=f"block from byte {9 * BLOCK}"):
            numbers.take(np.array([9 * BLOCK // 8]))
        with pytest.raises(CorruptStoreError, match="numbers is damaged"):
            numbers.whole()


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=40),
    st.integers(1, 2_000),
    st.integers(0, 2**64 - 1),
)
def test_a_search_among_hashes_is_that_of_numpy(some: list[int], copies: int, wanted: int) -> None:
    """However uneven they are: 2,000 copies of 40 lie in ten blocks."""
    array = np.sort(np.repeat(np.array(some, np.uint64), copies))
    for number in (wanted, *some[:3]):
        assert mapped(array, array).search(np.uint64(number)) == array.searchsorted(
            np.uint64(number)
        )
