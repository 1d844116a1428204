"""Near duplicates as groups in which everyone is near to everyone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows nearer than a threshold, each once.

    Attributes
    ----------
    first, second
        int64 ``[p]`` numbers of rows, first < second.
    distance
        float64 ``[p]``.
    """

    first: Ints
    second: Ints
    distance: Doubles


def complete_linkage(pairs: Pairs) -> list[Ints]:
    """Groups of at least two rows, all of whose pairs are among the given ones.

    Complete linkage (Sørensen 1948): of all groups, the two whose farthest pair is nearest
    are joined, as long as every row of one is paired with every row of the other.
    Connected components would chain: a~b and b~c put a and c together, however far apart.

    Returns
    -------
    list of ndarray
        int64 rows of each group, ascending; groups by their first row.
    """
    members: dict[int, list[int]] = {}
    group: dict[int, int] = {}
    for row in np.unique(np.concatenate([pairs.first, pairs.second])).tolist():
        members[row], group[row] = [row], row
    seen: dict[int, Counter[int]] = {row: Counter() for row in members}  # pairs between groups
    for number in np.argsort(pairs.distance, kind="stable").tolist():
        # The pairs come nearest first: with its last pair a union is complete.
        one, other = group[int(pairs.first[number])], group[int(pairs.second[number])]
        seen[one][other] += 1
        seen[other][one] += 1
        if seen[one][other] < len(members[one]) * len(members[other]):
            continue
        small, large = sorted((one, other), key=lambda name: len(seen[name]))
        for row in members[small]:
            group[row] = large
        members[large] += members.pop(small)
        for third, count in seen.pop(small).items():
            del seen[third][small]
            if third != large:
                seen[large][third] += count
                seen[third][large] += count
    found = [np.array(sorted(rows), np.int64) for rows in members.values() if len(rows) > 1]
    return sorted(found, key=lambda rows: int(rows[0]))
