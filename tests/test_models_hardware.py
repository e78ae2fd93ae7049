"""Hardware detection: limits of control groups, and nvidia-smi's answers."""

from __future__ import annotations

import time

import psutil
import pytest

from reviewmill.models.hardware import ControlGroup, Gpu, control_group, detect


def write(root, files) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Put a program named nvidia-smi, with this shell script, on an otherwise empty PATH."""

    def install(script: str) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))

    return install


def test_this_machine_is_plausible(tmp_path) -> None:
    machine = detect(tmp_path / "not" / "there")
    assert machine.cpu
    assert 1 <= machine.physical_cores <= machine.logical_cores <= psutil.cpu_count()
    assert 0 < machine.memory_available <= machine.memory_total <= psutil.virtual_memory().total
    assert machine.disk_free > 0
    assert detect().disk_free is None


def test_tightest_limit_of_version_2_counts(tmp_path) -> None:
    write(
        tmp_path,
        {
            "membership": "0::/pod/app\n",
            "cg/cpu.max": "max 100000",
            "cg/pod/cpu.max": "150000 100000",
            "cg/pod/memory.max": "1000000",
            "cg/pod/memory.current": "400000",
            "cg/pod/app/cpu.max": "max 100000",
            "cg/pod/app/memory.max": "max",
        },
    )
    assert control_group(tmp_path / "cg", tmp_path / "membership") == ControlGroup(1.5, 1_000_000, 400_000)


def test_limits_of_version_1(tmp_path) -> None:
    write(
        tmp_path,
        {
            "membership": "5:cpu,cpuacct:/app\n4:memory:/app\n3:pids:/app\n",
            "cg/cpu/app/cpu.cfs_quota_us": "200000\n",
            "cg/cpu/app/cpu.cfs_period_us": "100000\n",
            "cg/memory/memory.limit_in_bytes": "9223372036854771712",
            "cg/memory/app/memory.limit_in_bytes": "2000000",
            "cg/memory/app/memory.usage_in_bytes": "5",
        },
    )
    assert control_group(tmp_path / "cg", tmp_path / "membership") == ControlGroup(2.0, 2_000_000, 5)


def test_no_limits(tmp_path) -> None:
    assert control_group(tmp_path, tmp_path / "none") == ControlGroup(None, None, None)


def test_cards_are_read(smi) -> None:
    smi('echo "NVIDIA H200, 143771, 143167"; echo "NVIDIA GeForce RTX 3060, 12288, 11000"; echo "Odd, [N/A], [N/A]"')
    assert detect().gpus == (
        Gpu("NVIDIA H200", 143771 << 20, 143167 << 20),
        Gpu("NVIDIA GeForce RTX 3060", 12288 << 20, 11000 << 20),
    )


def test_cards_tell_what_they_can_compute_and_old_drivers_do_not(smi) -> None:
    smi(
        'case "$1" in *compute_cap*) echo "NVIDIA H200, 143771, 143167, 9.0"; echo "Odd, name, 8192, 8000, [N/A]";; '
        '*) echo "NVIDIA H200, 143771, 143167";; esac'
    )
    assert detect().gpus == (
        Gpu("NVIDIA H200", 143771 << 20, 143167 << 20, (9, 0)),
        Gpu("Odd, name", 8192 << 20, 8000 << 20),
    )


def test_a_driver_that_does_not_know_the_question_is_asked_less(smi) -> None:
    smi('case "$1" in *compute_cap*) echo "Field is not valid"; exit 2;; *) echo "NVIDIA T4, 15360, 15000";; esac')
    assert detect().gpus == (Gpu("NVIDIA T4", 15360 << 20, 15000 << 20),)


def test_driver_that_fails_means_no_card(smi) -> None:
    smi('echo "NVIDIA-SMI has failed" ; exit 9')
    assert detect().gpus == ()


@pytest.mark.clock
def test_driver_that_hangs_costs_two_seconds(smi) -> None:
    smi("exec /bin/sleep 30")
    began = time.monotonic()
    assert detect().gpus == ()
    assert time.monotonic() - began < 4
