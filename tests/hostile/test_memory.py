"""Hostile programs, cases 16 to 25: memory.

Where no control group holds memory it is read every 100 ms, so programs here hold what they took.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hostile.watching import PROMPT

pytestmark = pytest.mark.hostile

MiB = 1 << 20
HOG = "import time\nprint('before', flush=True)\nhog = b'x' * ({size} << 20)\ntime.sleep(120)\nprint('after')"


def test_16_one_huge_allocation_in_a_run(attack):
    """A run that takes more than its memory is `out_of_memory`, with what it printed."""
    ran = attack.run(HOG.format(size=600), limits={"memory_bytes": 128 * MiB, "wall_time": 300})
    assert (ran["outcome"], ran["stdout"]) == ("out_of_memory", "before\n")
    assert ran["duration"] < PROMPT


def test_16_one_huge_allocation_in_a_session(attack):
    """An execution that takes too much loses its kernel as `out_of_memory`; the next one works."""
    session = attack.session(limits={"memory_bytes": 160 * MiB})
    ran = session.execute(HOG.format(size=600), limits={"wall_time": 300})
    assert (ran["outcome"], ran["stdout"], ran["state_lost"]) == ("out_of_memory", "before\n", True)
    assert ran["duration"] < PROMPT
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"


def test_16_an_impossible_allocation(attack):
    """What no machine has is Python's own MemoryError, which is an `error` and costs no state."""
    code = "b'x' * (1 << 60)"
    ran = attack.run(code)
    assert (ran["outcome"], ran["exit_code"]) == ("error", 1)
    assert "MemoryError" in ran["stderr"]
    session = attack.session()
    session.execute("kept = 7")
    ran = session.execute(code)
    assert (ran["outcome"], ran["error"]["name"], ran["state_lost"]) == ("error", "MemoryError", False)
    assert session.execute("kept")["result"]["text/plain"] == "7"


CHILDREN = """
import os, time
print('before', flush=True)
for _ in range(12):
    if os.fork() == 0:
        hog = b'x' * (40 << 20)
        time.sleep(120)
os.wait()
"""


def test_17_many_children_sum_over_the_limit(attack):
    """Children of which each is small count together."""
    limits = {"memory_bytes": 192 * MiB, "wall_time": 60}
    ran = attack.run(CHILDREN, limits=limits)
    assert (ran["outcome"], ran["stdout"]) == ("out_of_memory", "before\n")
    session = attack.session(limits={"memory_bytes": 192 * MiB})
    ran = session.command("python3 -", stdin=CHILDREN, limits={"wall_time": 60})
    assert (ran["outcome"], ran["stdout"]) == ("out_of_memory", "before\n")
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"


SHARED = """
import mmap, time
print('before', flush=True)
memory = mmap.mmap(-1, 600 << 20)
memory[:] = bytes(len(memory))
time.sleep(120)
"""


def test_17_memory_shared_with_nobody(attack):
    """Memory that could be shared with children, and lies in no file, counts as well."""
    ran = attack.run(SHARED, limits={"memory_bytes": 192 * MiB, "wall_time": 60})
    assert (ran["outcome"], ran["stdout"]) == ("out_of_memory", "before\n")


def test_17_shared_memory_counts_once(attack):
    """Children that look at the same pages, in a file or not, are not charged for each look."""
    code = """
import mmap, os, time
memory = mmap.mmap(-1, 60 << 20)
memory[:] = bytes(len(memory))
with open("/dev/shm/x", "wb+") as file:
    file.truncate(60 << 20)
    stored = mmap.mmap(file.fileno(), 60 << 20)
stored[:] = bytes(len(stored))
for _ in range(4):
    if os.fork() == 0:
        memory[:] = bytes(len(memory))
        stored[:] = bytes(len(stored))
        time.sleep(1)
        os._exit(0)
for _ in range(4):
    print(os.wait()[1])
"""
    ran = attack.run(code, limits={"memory_bytes": 320 * MiB, "wall_time": 60})
    assert (ran["outcome"], ran["stdout"]) == ("ok", "0\n" * 4)


FILL = """
import os
def fill(path):
    with open(path, "wb", buffering=0) as file:
        written = 0
        try:
            while True:
                written += file.write(bytes(1 << 20))
        except OSError as error:
            return f"{error.strerror} after {written >> 20} MiB"
"""


def test_18_shared_memory_filled(attack):
    """Shared memory has its size: past it there is an error, and nobody is killed."""
    code = FILL + "print(fill('/dev/shm/full'))\nos.unlink('/dev/shm/full')"
    limits = {"disk_bytes": 64 * MiB, "memory_bytes": 512 * MiB}
    session = attack.session(limits=limits)
    for ran in (attack.run(code, limits=limits), session.execute(code)):
        assert (ran["outcome"], ran["stdout"]) == ("ok", "No space left on device after 64 MiB\n")


SPARSE = """
import mmap, os
print('before', flush=True)
fd = os.open('/dev/shm/sparse', os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 1 << 30)
with mmap.mmap(fd, 1 << 30) as memory:
    for page in range(0, 1 << 30, 4096):
        memory[page] = 1
print('after')
"""


def test_18_sparse_shared_memory(attack):
    """Touching the pages of a sparse file larger than its place kills the program, and it alone."""
    limits = {"disk_bytes": 64 * MiB, "memory_bytes": 512 * MiB}
    ran = attack.run(SPARSE, limits=limits)
    assert (ran["outcome"], ran["signal"], ran["stdout"]) == ("error", "SIGBUS", "before\n")
    session = attack.session(limits=limits)
    ran = session.execute(SPARSE)
    assert (ran["outcome"], ran["error"]["name"], ran["state_lost"]) == ("error", "KernelDied", True)
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"


@pytest.mark.parametrize("place", ["/tmp", "/workspace", "/dev/shm"])
def test_19_files_count_as_memory(attack, place):
    """Files in memory count: what does not fit beside the program's memory ends it."""
    code = FILL + f"print('before', flush=True)\nprint(fill('{place}/full'))\nimport time; time.sleep(120)"
    limits = {"memory_bytes": 96 * MiB, "disk_bytes": 512 * MiB, "wall_time": 300}
    ran = attack.run(code, limits=limits)
    assert (ran["outcome"], ran["stdout"]) == ("out_of_memory", "before\n")
    assert ran["duration"] < PROMPT


def test_19_files_left_in_a_session(attack):
    """A session whose files hold all its memory is no trap: its caller is told, and can delete them."""
    session = attack.session(limits={"memory_bytes": 128 * MiB, "disk_bytes": 512 * MiB})
    ran = session.execute(
        FILL + "fill('/workspace/full')\nimport time; time.sleep(120)", limits={"wall_time": 300}
    )
    assert (ran["outcome"], ran["state_lost"]) == ("out_of_memory", True)
    assert attack.http.delete(f"{session.path}/files/full").status_code == 204
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"


SWAPPED = """
import ctypes, mmap, time
print('before', flush=True)
kept, libc, PAGEOUT = [], ctypes.CDLL(None), 21
for _ in range(40):
    memory = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = bytes(range(256)) * (len(memory) // 256)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(len(memory)), PAGEOUT)
    kept.append(memory)
time.sleep(120)
"""


def test_20_swap_is_no_way_out(attack):
    """Memory that the program asks to be swapped out still counts."""
    ran = attack.run(SWAPPED, limits={"memory_bytes": 160 * MiB, "wall_time": 60})
    assert (ran["outcome"], ran["stdout"]) == ("out_of_memory", "before\n")
    assert ran["duration"] < PROMPT


def test_21_limits_are_of_each_sandbox_alone(attack):
    """Two that use most of their memory at once do not disturb each other, nor does a third that dies."""
    limits = {"memory_bytes": 256 * MiB}
    sessions = [attack.session(limits=limits) for _ in range(2)]
    for session in sessions:
        assert session.execute("held = b'x' * (160 << 20)")["outcome"] == "ok"
    ran = attack.run(HOG.format(size=600), limits={**limits, "wall_time": 300})
    assert ran["outcome"] == "out_of_memory"
    for session in sessions:
        assert session.execute("len(held) >> 20")["result"]["text/plain"] == "160"


def test_22_an_idle_kernel_is_picked(attack):
    """When a command's memory costs the idle kernel its life, both are told, and a fresh kernel works."""
    session = attack.session(limits={"memory_bytes": 256 * MiB})
    assert session.execute("held = b'x' * (160 << 20)")["outcome"] == "ok"
    code = (
        "import os, time\n"
        "for _ in range(3):\n"
        "  if os.fork() == 0:\n"
        "    x = b'x' * (50 << 20); time.sleep(2); os._exit(0)\n"
        "os.wait(); os.wait(); os.wait()"
    )
    ran = session.command("python3 -", stdin=code, limits={"wall_time": 60})
    assert ran["outcome"] == "out_of_memory"
    again = session.execute("'held' in globals()")
    assert (again["result"]["text/plain"], again["state_lost"]) == ("False", True)
    assert session.execute("2 + 2")["state_lost"] is False


def test_22_the_guest_may_be_picked(attack):
    """A small process that fills memory with files and asks to be spared gets a prompt, typed end."""
    code = (
        "echo up; echo 0 2>/dev/null > /proc/self/oom_score_adj; head -c 2G /dev/zero > /dev/shm/x; sleep 120"
    )
    limits = {"memory_bytes": 96 * MiB, "disk_bytes": 1024 * MiB}
    ran = attack.run(code, language="bash", limits={**limits, "wall_time": 300})
    assert ran["outcome"] in ("out_of_memory", "sandbox_died")
    assert ran["stdout"] == "up\n"
    assert ran["duration"] < PROMPT
    session = attack.session(limits=limits)
    ran = session.command(code, limits={"wall_time": 300})
    assert ran["outcome"] in ("out_of_memory", "sandbox_died")
    assert ran["duration"] < PROMPT
    answer = attack.http.post(f"{session.path}/executions", json={"code": "1 + 1"})
    if answer.status_code == 502:  # the file is still there and leaves no memory: the caller can delete it
        assert attack.http.delete(f"{session.path}/files/%2Fdev/shm/x").status_code == 204
        answer = attack.http.post(f"{session.path}/executions", json={"code": "1 + 1"})
    assert answer.status_code in (200, 410), answer.text


THREADS = """
import json, os, multiprocessing, numpy
a = numpy.random.rand(800, 800)
(a @ a).sum()
print(json.dumps([os.cpu_count(), multiprocessing.cpu_count(), len(os.listdir("/proc/self/task"))]))
"""


def test_23_the_leased_cores_are_seen(attack):
    """Programs and numeric libraries see the limit's number of processors, not the host's."""
    limits = {"cpus": 1.0}
    session = attack.session(limits=limits)
    ran = attack.run(THREADS, limits=limits)
    assert (ran["outcome"], ran["stderr"]) == ("ok", "")
    assert json.loads(ran["stdout"]) == [1, 1, 1]
    ran = session.execute(
        "import threading\nbefore = threading.active_count()\n"
        + THREADS.replace('len(os.listdir("/proc/self/task"))', "1")
    )
    assert json.loads(ran["stdout"]) == [1, 1, 1]
    tasks = (
        "import os\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "import numpy\n"
        "a = numpy.random.rand(800, 800)\n"
        "(a @ a).sum()\n"
        "len(os.listdir('/proc/self/task')) - before"
    )
    assert session.execute(tasks)["result"]["text/plain"] == "0"
    assert session.command("nproc", env={})["stdout"] == "1\n"


def test_24_numpy_works_within_small_limits(attack):
    """Limits do not break the libraries: numpy and pandas compute in 192 MiB."""
    code = (
        "import numpy, pandas\n"
        "print(int(numpy.linalg.det(numpy.eye(300))), pandas.DataFrame({'a': range(1000)}).a.sum())"
    )
    limits = {"memory_bytes": 192 * MiB, "processes": 16, "cpus": 0.5}
    session = attack.session(limits=limits)
    for ran in (attack.run(code, limits=limits), session.execute(code)):
        assert (ran["outcome"], ran["stdout"]) == ("ok", "1 499500\n")


def test_25_memory_held_from_earlier_cells(attack):
    """What earlier executions hold counts; after the kernel's loss the same code fits."""
    session = attack.session(limits={"memory_bytes": 256 * MiB})
    assert session.execute("first = b'x' * (150 << 20)")["outcome"] == "ok"
    second = "import time\nsecond = b'x' * (150 << 20)\ntime.sleep(1)"
    ran = session.execute(second)
    assert (ran["outcome"], ran["state_lost"]) == ("out_of_memory", True)
    assert session.execute(second)["outcome"] == "ok"


def test_memory_of_two_runs_at_once(attack):
    """Case 21 for runs: two at once, each with most of its limit, are both `ok`."""
    code = "import time\nheld = b'x' * (160 << 20)\ntime.sleep(1)\nprint(len(held))"
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: attack.run(code, limits={"memory_bytes": 256 * MiB}), range(2)))
    assert [ran["outcome"] for ran in runs] == ["ok", "ok"]
