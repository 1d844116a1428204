"""New ids, paths, sizes and times of image files for rows that stay as they are.

Row numbers do not change, so that the search index stays valid.  One commit a segment:
after a kill the rows of other segments have their old paths, and the next run goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from latentdb.base.errors import InvalidInputError
from latentdb.images.sources import image_exists
from latentdb.store.roots import Root, Roots, known_roots
from latentdb.store.rows import FileStats, Ints, Rows
from latentdb.store.writer import Writer


@dataclass(frozen=True, slots=True)
class Stamp:
    """Absolute path, size in bytes and time of last change of an image file; its new id.

    The id is None where it stays.
    """

    path: str
    size: int
    mtime_ns: int
    id: str | None = None


@dataclass(frozen=True)
class RelocateReport:
    """What `relocate` did.

    Attributes
    ----------
    rows
        Rows whose path was changed.
    missing
        Those whose image is not at its new path.
    """

    rows: int
    missing: int


def restamp(writer: Writer, stamps: Mapping[int, Stamp]) -> None:
    """Give rows the stamps of their files, and new ids to those that were renamed.

    Parameters
    ----------
    stamps
        By row number, of live rows that were made from files.  No row has one of the new ids.
    """
    wanted = np.array(sorted(stamps), np.int64)

    def change(rows: Rows, numbers: Ints) -> Rows | None:
        positions = np.flatnonzero(np.isin(numbers, wanted))
        if not len(positions) or rows.paths is None or rows.file_stats is None:
            return None
        names, paths = list(rows.ids), list(rows.paths)
        sizes, times = rows.file_stats.sizes.copy(), rows.file_stats.mtimes_ns.copy()
        for position in positions.tolist():
            stamp = stamps[int(numbers[position])]
            paths[position], sizes[position] = stamp.path, stamp.size
            times[position] = stamp.mtime_ns
            names[position] = names[position] if stamp.id is None else stamp.id
        stats = FileStats(sizes, times, rows.file_stats.digests)
        return replace(rows, ids=names, paths=paths, file_stats=stats, hashes=None)

    _rewrite(writer, change, wanted)


def relocate(writer: Writer, old: str, new: str) -> RelocateReport:
    """Replace the beginning of paths, whole folders of it, in all rows and roots.

    A folder within a root becomes a root of its own, so that the ids of its images stay.

    Parameters
    ----------
    old, new
        Absolute paths of a folder, before and after it was moved.

    Raises
    ------
    InvalidInputError
        If no image of the store lies below `old`.
    """
    roots = known_roots(writer.snapshot)
    above, below = old.rstrip(os.sep) + os.sep, new.rstrip(os.sep) + os.sep
    changed = missing = 0

    def change(rows: Rows, _: Ints) -> Rows | None:
        nonlocal changed, missing
        if rows.paths is None or not any(path.startswith(above) for path in rows.paths):
            return None
        paths = list(rows.paths)
        for position, path in enumerate(paths):
            if path.startswith(above):
                paths[position] = below + path.removeprefix(above)
                changed += 1
                missing += not image_exists(paths[position])
        return replace(rows, paths=paths)

    _rewrite(writer, change, None)
    later = _relocated(roots, old, new) if changed else roots.moved(old, new)
    if later.all != writer.snapshot.manifest.roots and (changed or later.all != roots.all):
        writer.set_roots(later.all)
    elif not changed:
        raise InvalidInputError(
            f"no image of this store lies below {above}: latentdb list --columns path shows paths"
        )
    return RelocateReport(changed, missing)


def _relocated(roots: Roots, old: str, new: str) -> Roots:
    moved, holder = roots.moved(old, new), roots.find(old)
    if holder is None or holder.path == old:
        return moved
    target = roots.find(new)
    if target is not None and target.name(new) == holder.name(old):
        return moved
    return Roots([*moved.all, Root(new, holder.name(old) + "/")])


def _rewrite(
    writer: Writer, change: Callable[[Rows, Ints], Rows | None], wanted: Ints | None
) -> None:
    """Replace each segment of which a function gives other rows; None for all row numbers."""
    for entry in writer.snapshot.manifest.segments:
        snapshot = writer.snapshot
        segment = next(one for one in snapshot.segments if one.entry == entry)
        if wanted is not None:
            first, stop = np.searchsorted(wanted, (entry.first_row, entry.last_row + 1))
            if first == stop:
                continue
        live = snapshot.live_positions(segment)
        numbers = segment.rows[live]
        rows = change(segment.read(live), numbers)
        if rows is not None:
            writer.replace_segments([entry], rows, numbers)
