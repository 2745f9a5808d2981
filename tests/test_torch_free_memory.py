"""The memory that is taken for free is what the system has and what its control groups allow."""

import pytest

pytest.importorskip("torch")

import torch

from hessops_torch.data import free_memory as module
from hessops_torch.data.free_memory import free_memory

CPU = torch.device("cpu")
AVAILABLE = 10_000 * 1024
NAMES = {
    "unified": ("memory.max", "memory.current", "inactive_file"),
    "legacy": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
every_kind = pytest.mark.parametrize("kind", NAMES)


class System:
    """Files in a folder, in place of those that the kernel shows."""

    def __init__(self, folder, kind):
        self.folder = folder
        self.kind = kind
        self.root = folder / "memory" if kind == "legacy" else folder

    def belongs_to(self, name):
        line = f"4:cpu,memory:{name}" if self.kind == "legacy" else f"0::{name}"
        (self.folder / "membership").write_text(f"9:name=systemd:/elsewhere\n{line}\n")

    def limit(self, name, most, used, reclaimable=0):
        group = self.root / name.lstrip("/")
        group.mkdir(parents=True, exist_ok=True)
        limit, use, part = NAMES[self.kind]
        (group / limit).write_text(f"{most}\n")
        (group / use).write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 7\n{part} {reclaimable}\nslab 3\n")


@pytest.fixture
def system(tmp_path, monkeypatch):
    def make(kind):
        (tmp_path / "meminfo").write_text(
            f"MemTotal: 90000 kB\nMemAvailable: {AVAILABLE // 1024} kB\n"
        )
        monkeypatch.setattr(module, "_MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(module, "_MEMBERSHIP", tmp_path / "membership")
        monkeypatch.setattr(module, "_CGROUPS", tmp_path)
        return System(tmp_path, kind)

    return make


@every_kind
def test_without_limits_it_is_what_the_system_has(system, kind):
    system = system(kind)
    assert free_memory(CPU) == AVAILABLE
    system.belongs_to("/")
    assert free_memory(CPU) == AVAILABLE
    system.limit("/", "max" if kind == "unified" else 2**63 - 4096, 500)
    assert free_memory(CPU) == AVAILABLE


@every_kind
def test_a_limit_counts_with_what_can_be_given_back(system, kind):
    system = system(kind)
    system.belongs_to("/jobs/job 1:a")
    system.limit("/jobs/job 1:a", 5000, 3000, reclaimable=400)
    assert free_memory(CPU) == 2400


@every_kind
def test_limits_of_groups_around_it_count(system, kind):
    system = system(kind)
    system.belongs_to("/jobs/job/task")
    system.limit("/jobs/job/task", 9000, 0)
    system.limit("/jobs/job", 5000, 4000)
    system.limit("/jobs/another", 10, 0)
    assert free_memory(CPU) == 1000


@every_kind
def test_a_container_that_sees_its_own_group_as_the_root(system, kind):
    system = system(kind)
    system.belongs_to("/containers/7")
    system.limit("/", 5000, 4500)
    assert free_memory(CPU) == 500


@every_kind
def test_a_group_beyond_its_limit_has_nothing_left(system, kind):
    system = system(kind)
    system.belongs_to("/job")
    system.limit("/job", 5000, 6000, reclaimable=10)
    assert free_memory(CPU) == 0


def test_a_system_that_says_nothing(tmp_path, monkeypatch):
    for name in ("_MEMINFO", "_MEMBERSHIP", "_CGROUPS"):
        monkeypatch.setattr(module, name, tmp_path / "none")
    assert free_memory(CPU) == 2 * 2**30


def test_this_machine():
    assert 0 < free_memory(CPU) < 2**50
