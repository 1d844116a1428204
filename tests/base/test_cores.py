"""The number of threads: affinity, OMP_NUM_THREADS and the quota of control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentdb.base import cores
from latentdb.base.cores import cgroup_cores, core_count


def test_at_least_one_and_no_more_than_there_are() -> None:
    assert 1 <= core_count() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_cpu_affinity_is_respected() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from latentdb.base.cores import core_count; print(core_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("1", 1), ("3", 3), ("2,1", 2), ("64", 8), ("", 8), ("0", 8), ("all", 8), ("-1", 8)],
)
def test_omp_num_threads_is_respected(
    asked: str, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "_ROOT", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert core_count() == expected


V1 = "cpu.cfs_quota_us", "cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "nonsense"}, None),
        ("0::/", {}, None),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "100000 100000", "a/cpu.max": "300000 100000"}, 1),
        ("0::/docker/of-the-host", {"cpu.max": "200000 100000"}, 2),
        ("0::/../outside", {"cpu.max": "200000 100000"}, 2),
        ("0::/a", {"unified/a/cpu.max": "400000 100000"}, 4),
        (
            "4:cpu,cpuacct:/",
            {f"cpu,cpuacct/{V1[0]}": "250000", f"cpu,cpuacct/{V1[1]}": "100000"},
            3,
        ),
        ("1:cpu:/a", {f"cpu/a/{V1[0]}": "100000\n", f"cpu/a/{V1[1]}": "100000\n"}, 1),
        ("1:cpu:/", {f"cpu/{V1[0]}": "-1", f"cpu/{V1[1]}": "100000"}, None),
        ("1:cpu:/", {f"cpu/{V1[0]}": "100000", f"cpu/{V1[1]}": "0"}, None),
        ("2:cpuacct:/", {f"cpu/{V1[0]}": "100000", f"cpu/{V1[1]}": "100000"}, None),
        ("no group", {"cpu.max": "100000 100000"}, None),
        (None, {"cpu.max": "100000 100000"}, None),
    ],
)
def test_the_quota_of_control_groups_is_respected(
    cgroup: str | None,
    files: dict[str, str],
    expected: int | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if cgroup is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(f"3:memory:/a\n{cgroup}\n")
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert cgroup_cores(tmp_path) == expected
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "_ROOT", tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert core_count() == (expected or 8)
