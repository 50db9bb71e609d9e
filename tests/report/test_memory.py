"""How high the memory rises: measured from beside, on every system, and nothing is reset for it."""

from __future__ import annotations

import subprocess
import sys
import threading
import types

import psutil
import pytest
import torch

from finepruning.report import memory
from finepruning.report.memory import PeakMemory

CPU = torch.device("cpu")


def alone(code: str) -> str:
    """What ``code`` prints in a process of its own.

    A shell stands between: a new process begins with the record of the one that it is started from.
    """
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


MEASURE = """
import time, torch
from finepruning.report.memory import PeakMemory
{before}
with PeakMemory(torch.device("cpu")) as memory:
    big = torch.ones({size} // 4)
    {hold}
    del big
    print(memory.above_start())
"""


@pytest.mark.parametrize(
    ("before", "hold"),
    [
        ("", "time.sleep(0.1)"),
        ("", ""),  # too short to be looked at: the system's own record is taken
        # Below a height of long ago, which is in the record.
        ("old = torch.ones(100_000_000); del old", "time.sleep(0.2)"),
    ],
)
def test_what_was_there_for_a_while(before: str, hold: str) -> None:
    peak = int(alone(MEASURE.format(size=200_000_000, before=before, hold=hold)))
    assert peak == pytest.approx(200e6, rel=0.1)


def test_what_was_there_before_does_not_count() -> None:
    code = MEASURE.format(size=4_000_000, before="old = torch.ones(50_000_000)", hold="")
    assert int(alone(code)) < 20e6


def test_several_at_once() -> None:
    code = """
import threading, time, torch
from finepruning.report.memory import PeakMemory
peaks, begun, ended = [], threading.Barrier(5), threading.Barrier(5)
def one():
    with PeakMemory(torch.device("cpu")) as memory:
        begun.wait()
        ended.wait()
        peaks.append(memory.above_start())
threads = [threading.Thread(target=one) for _ in range(4)]
[t.start() for t in threads]
begun.wait()
big = torch.ones(50_000_000)
ended.wait()
[t.join() for t in threads]
print(min(peaks), max(peaks))
"""
    for peak in map(int, alone(code).split()):
        assert peak == pytest.approx(200e6, rel=0.1)


def test_nothing_is_written_for_it() -> None:
    """No counter of the process is reset, such as by /proc/self/clear_refs."""
    code = """
import os, sys, torch
import finepruning
net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
written = []
def audit(event, args):
    if event == "open":
        path, mode, flags = args
        writes = any(c in str(mode) for c in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        if writes:
            written.append(str(path))
    if event.startswith("os.") and event not in (
        "os.listdir", "os.scandir", "os.getxattr", "os.walk", "os.putenv", "os.unsetenv"
    ):
        written.append(f"{event} {args}")
sys.addaudithook(audit)
finepruning.personalize(net, torch.randn(64, 8))
print(written)
"""
    assert alone(code) == "[]"


def test_it_stops() -> None:
    before = threading.active_count()
    with PeakMemory(CPU) as running:
        assert threading.active_count() == before + 1
        assert any(t.name == "peak memory" and t.daemon for t in threading.enumerate())
    assert threading.active_count() == before
    running.stop()
    with pytest.raises(KeyboardInterrupt), PeakMemory(CPU):
        raise KeyboardInterrupt
    assert threading.active_count() == before
    assert running.above_start() >= 0


def test_systems_that_keep_other_records(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = types.SimpleNamespace(ru_maxrss=3_000)
    record = types.ModuleType("resource")
    record.RUSAGE_SELF = 0  # type: ignore[attr-defined]
    record.getrusage = lambda who: usage  # type: ignore[attr-defined]
    peak = PeakMemory(CPU)
    peak.stop()
    monkeypatch.setitem(sys.modules, "resource", record)
    monkeypatch.setattr(memory.psutil, "MACOS", False)
    assert peak._lifetime_peak() == 3_000 * 1024
    monkeypatch.setattr(memory.psutil, "MACOS", True)
    assert peak._lifetime_peak() == 3_000, "bytes there"
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows
    info = types.SimpleNamespace(rss=5, peak_wset=7)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: info)
    assert peak._lifetime_peak() == 7


NO_SYSTEM = """
import ctypes, ctypes.util, pathlib, sys, tempfile
import numpy, psutil, torch, greenlet, safetensors.torch, tqdm, PIL.Image
def refused(*args, **kwargs):
    raise OSError("no C library")
ctypes.CDLL = ctypes.PyDLL = refused
ctypes.util.find_library = lambda name: None
{system}
import finepruning
for name in finepruning.__all__:
    getattr(finepruning, name)
net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
result = finepruning.personalize(net, torch.randn(64, 8), sparsity=0.5)
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "me")
    result.save(path)
    finepruning.load(path, net)
print(result.report.sparsity, result.report.peak_memory >= 0)
"""
SYSTEMS = {
    "Linux": "",
    "Windows": 'sys.modules["resource"] = None; sys.platform = "win32"',
    "macOS": 'psutil.MACOS, psutil.LINUX, sys.platform = True, False, "darwin"',
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_personalises_on_other_systems(system: str) -> None:
    """Where there is no ``resource``, and no C library can be loaded by name."""
    assert alone(NO_SYSTEM.format(system=SYSTEMS[system])) == "0.5 True"
