"""The number of threads that every pool uses."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_ROOT = Path("/")
# Where cgroup v1 is mounted, by distribution, and v2, alone and beside v1.
_V1_MOUNTS = ["cpu", "cpu,cpuacct", "cpuacct,cpu"]
_V2_MOUNTS = ["", "unified"]


def core_count() -> int:
    """Threads to run at once, at least 1.

    The least of the cores in the CPU affinity of the process, the CPU quota of its
    control groups (version 1 or 2, rounded up) and ``OMP_NUM_THREADS``.
    """
    if hasattr(os, "sched_getaffinity"):
        limits = [len(os.sched_getaffinity(0))]
    else:
        limits = [os.cpu_count() or 1]
    # A list such as "4,2" is for nested regions; the first is for the outermost.
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdecimal() and int(asked):
        limits.append(int(asked))
    quota = cgroup_cores(_ROOT)
    return min(limits) if quota is None else min(*limits, quota)


@cache  # reading it takes as long as a query
def cgroup_cores(root: Path) -> int | None:
    """Cores that the control groups of this process allow, rounded up; None for no limit.

    Parameters
    ----------
    root
        The folder that holds ``proc`` and ``sys``.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):  # not Linux, or hidden
        return None
    quotas = [quota for line in lines for quota in _quotas(root / "sys/fs/cgroup", line)]
    return max(1, math.ceil(min(quotas))) if quotas else None


def _quotas(mounts: Path, line: str) -> Iterator[float]:
    """The quota, in cores, of a group and of each group above it."""
    _, controllers, path = line.split(":", 2) if line.count(":") > 1 else ("", "none", "")
    if not controllers:
        folders, files = _V2_MOUNTS, ["cpu.max"]
    elif "cpu" in controllers.split(","):
        folders, files = _V1_MOUNTS, ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    else:
        return
    # In a container the path may be that of the host: then only the mount itself exists here.
    inner = Path(path.lstrip("/"))
    groups = [inner, *inner.parents] if ".." not in inner.parts else [Path()]
    for folder in (mounts / name / group for name in folders for group in groups):
        try:
            quota, period = " ".join((folder / name).read_text() for name in files).split()
            if quota not in ("max", "-1"):
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
