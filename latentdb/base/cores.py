"""The number of cores that every thread pool uses."""

from __future__ import annotations

import os


def core_count() -> int:
    """Cores this process may use: those of its CPU affinity, where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
