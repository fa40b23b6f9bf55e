"""Memory, processor quota and disk: every limit that applies counts, whoever sets it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hpcmpi import dtypes, machine
from hpcmpi.machine import Machine

KIB, MIB, GIB = 2**10, 2**20, 2**30
GROUP = "/sys/fs/cgroup/system.slice/job_7/step_0"
SLURM = ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE")


@pytest.fixture
def files(monkeypatch):
    """The only files that the machine has; and no Slurm."""
    content: dict[str, str] = {}
    monkeypatch.setattr(machine, "_read", content.get)
    for variable in SLURM:
        monkeypatch.delenv(variable, raising=False)
    return content


def inside_group(files, **own):
    files["/proc/self/cgroup"] = "0::/system.slice/job_7/step_0\n"
    files |= {f"{GROUP}/{name.replace('_', '.', 1)}": text for name, text in own.items()}


def test_without_any_limit_there_is_no_quota_and_no_end_of_memory(files):
    assert machine.cpu_quota() is None
    assert machine.available_memory() == 2**63 - 1
    assert files == {}


@pytest.mark.parametrize(
    ("limit", "quota"), [("max 100000", None), ("200000 100000", 2.0), ("50000 100000", 0.5), ("150000 100000\n", 1.5)]
)
def test_quota_of_the_control_group(files, limit, quota):
    inside_group(files, cpu_max=limit)
    assert machine.cpu_quota() == quota


@pytest.mark.parametrize("outer", ["/system.slice/job_7", "/system.slice", ""])
def test_the_tightest_quota_of_all_levels_holds(files, outer):
    inside_group(files, cpu_max="800000 100000")
    files[f"/sys/fs/cgroup{outer}/cpu.max"] = "300000 100000"
    assert machine.cpu_quota() == 3.0
    files[f"/sys/fs/cgroup{outer}/cpu.max"] = "max 100000"
    assert machine.cpu_quota() == 8.0


@pytest.mark.parametrize(("quota", "found"), [("-1\n", None), ("250000\n", 2.5)])
def test_quota_of_version_1(files, quota, found):
    files |= {
        "/proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n",
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": quota,
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    assert machine.cpu_quota() == found


def test_groups_outside_of_the_mounted_tree_are_no_error(files):
    files["/proc/self/cgroup"] = "0::/../../other\n"
    assert machine.cpu_quota() is None


def free(files, kib=8 * GIB // KIB):
    files["/proc/meminfo"] = f"MemTotal:  999999999 kB\nMemFree:  1 kB\nMemAvailable:   {kib} kB\n"


def test_memory_is_what_the_kernel_calls_available(files):
    free(files)
    assert machine.available_memory() == 8 * GIB


def test_memory_of_the_control_group_gives_cache_back(files):
    free(files)
    inside_group(
        files,
        memory_max=f"{4 * GIB}\n",
        memory_current=f"{3 * GIB}\n",
        memory_stat=f"anon 5\nfile {GIB}\ninactive_file {GIB // 2}\nactive_file 7\n",
    )
    assert machine.available_memory() == 4 * GIB - 3 * GIB + GIB // 2


def test_memory_of_an_outer_group_holds_too_and_max_is_no_limit(files):
    free(files)
    inside_group(files, memory_max="max\n", memory_current=f"{GIB}\n")
    assert machine.available_memory() == 8 * GIB
    outer = "/sys/fs/cgroup/system.slice"
    files |= {f"{outer}/memory.max": f"{2 * GIB}\n", f"{outer}/memory.current": f"{GIB}\n"}
    assert machine.available_memory() == GIB


def test_memory_of_version_1(files):
    free(files)
    v1 = "/sys/fs/cgroup/memory/memory"
    files |= {f"{v1}.limit_in_bytes": f"{2 * GIB}\n", f"{v1}.usage_in_bytes": f"{GIB}\n"}
    assert machine.available_memory() == GIB
    files[f"{v1}.limit_in_bytes"] = "9223372036854771712\n"
    assert machine.available_memory() == 8 * GIB


def test_a_group_over_its_limit_has_nothing_left_and_not_less(files):
    inside_group(files, memory_max=str(GIB), memory_current=str(2 * GIB))
    assert machine.available_memory() == 0


@pytest.mark.parametrize(
    ("variables", "granted"),
    [
        ({"SLURM_MEM_PER_NODE": "3072"}, 3 * GIB),
        ({"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "5"}, 5 * GIB),
        ({"SLURM_MEM_PER_NODE": "3072", "SLURM_MEM_PER_CPU": "1", "SLURM_CPUS_ON_NODE": "1"}, 3 * GIB),
        ({"SLURM_MEM_PER_CPU": "1024"}, 8 * GIB),
        ({"SLURM_MEM_PER_NODE": "99999999"}, 8 * GIB),
        ({"SLURM_MEM_PER_NODE": "0"}, 8 * GIB),
        ({"SLURM_MEM_PER_CPU": "0", "SLURM_CPUS_ON_NODE": "5"}, 8 * GIB),
    ],
    ids=["per node", "per cpu", "per node first", "per cpu of unknown", "more than there is", "all", "all per cpu"],
)
def test_memory_that_slurm_granted_is_a_limit_and_zero_means_all(files, monkeypatch, variables, granted):
    free(files)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert machine.available_memory() == granted


def test_peak_memory_is_this_processs_own_high_water_mark(files):
    files["/proc/self/status"] = "Name:\tpython\nVmPeak:\t 999 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1 kB\n"
    assert machine.peak_memory() == 2 * MIB
    files.clear()
    assert machine.peak_memory() > MIB


def test_this_machine_has_cores_memory_and_disk(tmp_path):
    assert machine.affinity() == os.sched_getaffinity(0)
    assert 0 < machine.available_memory() < 2**63 - 1
    assert machine.free_disk(tmp_path) > 0
    assert machine.peak_memory() > MIB


def test_peak_memory_does_not_fall_when_memory_is_given_back():
    kept = bytearray(b"x") * (64 * MIB)
    peak = machine.peak_memory()
    assert peak > len(kept)
    del kept
    assert machine.peak_memory() > peak - MIB  # the kernel counts in lots


def test_a_file_that_is_not_there_is_nothing_said(tmp_path):
    assert machine._read(str(tmp_path / "missing")) is None
    assert machine._read(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("vendor", "family", "flags", "slow"),
    [
        ("AuthenticAMD", 25, "avx2 avx512f avx512vl", True),
        ("AuthenticAMD", 26, "avx2 avx512f avx512vl", False),
        ("AuthenticAMD", 25, "avx2 sse4", False),
        ("GenuineIntel", 25, "avx2 avx512f avx512vl", False),
    ],
)
def test_processors_that_compress_slowly_are_known(monkeypatch, vendor, family, flags, slow):
    text = f"vendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 17\nflags\t\t: fpu {flags} x\n"
    monkeypatch.setattr(machine, "_read", {"/proc/cpuinfo": text}.get)
    assert machine.stores_compressed_slowly() == slow


def test_oversubscription_counts_threads_over_cores_and_is_at_least_one():
    assert Machine(ranks_per_node=4, threads=3, cores_per_node=8).oversubscription == 1.5
    assert Machine(ranks_per_node=2, threads=2, cores_per_node=8).oversubscription == 1.0


def test_measured_is_the_machine_of_the_profile_or_the_default_one(monkeypatch, tmp_path):
    monkeypatch.setenv("HPCMPI_MACHINE", str(tmp_path / "machine.json"))
    assert machine.measured() == Machine()
    machine.save_profile({"flops": 3e9, "measured": "today"})
    assert machine.measured() == Machine(flops=3e9)


@pytest.mark.parametrize(
    ("dtype", "size", "real", "flops", "double"),
    [
        ("float16", 2, 2, 2, "float64"),
        ("float32", 4, 4, 2, "float64"),
        ("float64", 8, 8, 2, "float64"),
        ("int16", 2, 2, 2, "float64"),
        ("complex64", 8, 4, 8, "complex128"),
        ("complex128", 16, 8, 8, "complex128"),
    ],
)
def test_the_table_of_dtypes(dtype, size, real, flops, double):
    assert (dtypes.itemsize(dtype), dtypes.real_itemsize(dtype), dtypes.flops_per_term(dtype)) == (size, real, flops)
    assert dtypes.double_precision(dtype) == double


def test_the_address_space_of_a_process_is_memory():
    """In a process of its own, as a limit cannot be raised again."""
    program = (
        "import resource; from hpcmpi import machine; assert machine.address_space() is None;"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)); room = machine.address_space();"
        "assert 2 << 30 < room < 3 << 30, room; assert machine.available_memory() <= room"
    )
    names = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
