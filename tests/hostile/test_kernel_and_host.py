# ruff: noqa: E501  (the attacking programs are text)
"""Cases 62 to 71: the service's secrets, other processes, namespaces, system calls, devices, IPC, the host.

Case 71 needs no program: there are no language-level guards, so every case here shows the walls.
"""

from __future__ import annotations

import asyncio
import json
import platform
import secrets
import socket
import time
from typing import Any

import pytest
import websockets

pytestmark = pytest.mark.hostile

X86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="calls of other tables exist on x86_64")
MIB = 1 << 20
CALL = """
import ctypes, errno, os, signal, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *args):
    ctypes.set_errno(0)
    got = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    return got if got >= 0 else errno.errorcode.get(ctypes.get_errno(), "?")
X86 = os.uname().machine == "x86_64"
"""


def three_ways(attack: Any, program: str) -> list[str]:
    """What a program prints as a run, in a session's kernel, and as a session's command."""
    session = attack.session()
    session.http.put(f"{session.path}/files/probe.py", content=program.encode()).raise_for_status()
    ended = [attack.run(program), session.execute(program), session.command("python3 probe.py")]
    for each in ended:
        assert each["outcome"] == "ok", each
    return [each["stdout"] for each in ended]


SECRETS = """
import os, re
needle = re.compile(b"house-[s]ecret|CODECELL_[T]EST")
seen = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline", "task/%s/environ" % pid, "auxv"):
        try:
            text = open(f"/proc/{pid}/{name}", "rb").read()
        except OSError:
            continue
        if needle.search(text):
            seen.append((pid, name))
# The whole of this process's memory: a fork of a warm interpreter may hold what that one had.
with open("/proc/self/mem", "rb", 0) as memory, open("/proc/self/maps") as maps:
    for line in maps:
        first, last = (int(word, 16) for word in line.split()[0].split("-"))
        if " r" not in line or last - first > 256 << 20 or "[v" in line:
            continue
        for start in range(first, last, 1 << 20):
            try:
                memory.seek(start)
                if needle.search(memory.read(min(1 << 20, last - start))):
                    seen.append((line.strip(), "memory"))
            except (OSError, ValueError, OverflowError):
                break
print(seen, len(os.environ) < 30, [key for key in os.environ if "SECRET" in key or "KEY" in key or key == "CODECELL_ZYGOTE"])
"""


def test_62_the_environment_of_the_service(attack):
    """The service's secret is in no environment, no command line and no memory that a program can read."""
    assert three_ways(attack, SECRETS) == ["[] True []\n"] * 3


DESCRIPTORS = """
import os
found = {}
for name in os.listdir("/proc/self/fd"):
    try:
        found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        pass  # that of the listing itself
import json
print(json.dumps(found))
"""


def test_62_no_descriptor_leaks_into_a_program(attack):
    """A program has three descriptors; a kernel has no file and no process of anyone else's."""
    run, kernel, command = (json.loads(text) for text in three_ways(attack, DESCRIPTORS))
    assert set(run) == {"0", "1", "2"}
    assert set(command) == {"0", "1", "2"}
    for target in {*run.values(), *command.values(), *kernel.values()}:
        assert target.startswith(("pipe:", "socket:", "anon_inode:[event", "/dev/null")), target


def test_62_no_descriptor_leaks_into_a_terminal(attack, house):
    """A shell on a terminal has that terminal, and nothing else."""
    session = attack.session()

    async def look() -> str:
        address = f"{house.url.replace('http', 'ws')}{session.path}/terminal"
        async with websockets.connect(address) as terminal:
            await terminal.send(b"stty -echo; ls -l /proc/$$/fd; env; echo all''told\n")
            text = ""
            async with asyncio.timeout(20):
                while "alltold" not in text:
                    text += (await terminal.recv()).decode(errors="replace")
            return text

    text = asyncio.run(look())
    targets = {line.rpartition(" -> ")[2].strip() for line in text.splitlines() if " -> " in line}
    assert targets
    assert all(target.startswith("/dev/pts/") or target == "/dev/tty" for target in targets), targets
    assert "house-secret" not in text


TRACE = (
    CALL
    + """
me = os.getpid()
own = {me} | {int(name) for name in os.listdir("/proc") if name.isdigit() and os.stat(f"/proc/{name}").st_uid == 1000 and
              b"nursery" not in open(f"/proc/{name}/cmdline", "rb").read()}
others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in own]
buffer = ctypes.create_string_buffer(64)
vector = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(buffer), 64))
remote = ctypes.create_string_buffer(struct.pack("QQ", 0x400000, 64))
libc.ptrace.restype = ctypes.c_long
broken = []
for pid in others:
    for request in (16, 0x4206):  # PTRACE_ATTACH, PTRACE_SEIZE
        if libc.ptrace(request, pid, None, None) == 0:
            broken.append((pid, "ptrace", request))
    for number in (310, 311) if X86 else (270, 271):  # process_vm_readv, process_vm_writev
        if call(number, pid, vector, 1, remote, 1, 0) != "EPERM":
            broken.append((pid, "process_vm", number))
    for name in ("mem", "environ", "maps", "fd/0", "root/etc/passwd", "cwd/x", "exe", "fdinfo/0", "syscall", "stack", "auxv", "map_files", "ns/user", "pagemap"):
        try:
            os.open(f"/proc/{pid}/{name}", os.O_RDONLY)
            broken.append((pid, name))
        except OSError:
            pass
    if call(438, os.pidfd_open(pid), 0, 0) != "EPERM":  # pidfd_getfd
        broken.append((pid, "pidfd_getfd"))
    if call(312 if X86 else 272, me, pid, 0, 0, 0) != "EPERM":  # kcmp
        broken.append((pid, "kcmp"))
print(len(others) > 0, broken)
"""
)


def test_63_tracing_the_guest_and_its_helpers(attack):
    """Process 1, the handlers and the kernel's relay can be neither traced nor read, and give up no descriptor."""
    assert three_ways(attack, TRACE) == ["True []\n"] * 3


RACE = (
    CALL
    + """
import time
end, top, tries = time.monotonic() + 4, os.getpid(), 0
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
won = None
while won is None and time.monotonic() < end:
    tries += 1
    with open("/proc/loadavg") as file:
        top = int(file.read().split()[-1])
    for _ in range(12):
        for pid in range(max(top - 1, os.getpid() + 1), top + 4):
            if libc.ptrace(0x4206, pid, None, None) == 0:
                won = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
print(won, tries > 10)
"""
)


def test_63_tracing_a_file_helper_while_it_starts(attack):
    """A helper of the files API has the user's uid, and yet at no instant of its life a debugger can seize it."""
    session = attack.session()
    session.http.put(f"{session.path}/files/race.py", content=RACE.encode()).raise_for_status()
    started = session.http.post(
        f"{session.path}/commands", json={"argv": ["python3", "race.py"], "detach": True}
    ).json()
    address = f"{session.path}/commands/{started['id']}"
    while (ended := session.http.get(address).json())["state"] == "running":
        for _ in range(50):
            session.http.get(f"{session.path}/files/race.py")
    assert ended["stdout"] == "None True\n", ended


STRIKE = """
import os, signal, sys, time
refused = 0
for _ in range(3):
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        if pid not in (os.getpid(), os.getppid() if {spare} else 0):
            try:
                os.kill(pid, signal.{signal})
            except PermissionError:
                refused += 1
            except ProcessLookupError:
                pass
print("refused", refused > 0, flush=True)
time.sleep({rest})
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
def test_63_killing_or_stopping_the_guest_and_its_helpers(attack, name):
    """Striking every process in sight ends, at most, the attacker's own sandbox: in bounded time, with a true outcome."""
    program = STRIKE.format(signal=name, rest=60, spare=False)
    began = time.monotonic()
    run = attack.run(program, limits={"wall_time": 2})
    session = attack.session()
    execution = session.execute(program, limits={"wall_time": 2})
    session.http.get(f"{session.path}/files")
    assert time.monotonic() - began < 45
    if attack.own_uids:  # not even a signal
        assert (run["outcome"], run["stdout"]) == ("timeout", "refused True\n")
        assert (execution["outcome"], execution["stdout"]) == ("timeout", "refused True\n")
    assert run["outcome"] in ("timeout", "sandbox_died", "error")
    assert execution["outcome"] in ("timeout", "sandbox_died", "error")
    assert attack.run("print('next')")["stdout"] == "next\n"


NAMESPACES = (
    CALL
    + """
flags = {"mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000, "time": 0x80}
broken = []
def expect(what, got, *wanted):
    if got == 0 and "clone" in what and os.getpid() != me:
        os._exit(0)
    if got not in (wanted or ("EPERM",)):
        broken.append((what, got))
me = os.getpid()
number = {"unshare": 272, "clone": 56, "clone3": 435, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161,
          "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442,
          "swapon": 167, "open_by_handle_at": 304} if X86 else {
          "unshare": 97, "clone": 220, "clone3": 435, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
          "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442,
          "swapon": 224, "open_by_handle_at": 265}
for name, flag in flags.items():
    expect(f"unshare {name}", call(number["unshare"], flag))
    expect(f"unshare user+{name}", call(number["unshare"], flag | flags["user"]))
    expect(f"clone {name}", call(number["clone"], flag | signal.SIGCHLD, 0, 0, 0, 0))
    expect(f"clone user+{name}", call(number["clone"], flag | flags["user"] | signal.SIGCHLD, 0, 0, 0, 0))
    args = struct.pack("=8Q", flag, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    expect(f"clone3 {name}", call(number["clone3"], ctypes.create_string_buffer(args), 64), "ENOSYS")
for target in ("/proc/self/ns/user", "/proc/self/ns/mnt"):
    expect(f"setns {target}", call(number["setns"], os.open(target, os.O_RDONLY), 0))
expect("setns pidfd", call(number["setns"], os.pidfd_open(1), 0x10000000))
expect("mount", call(number["mount"], b"none", b"/tmp", b"tmpfs", 0, 0))
expect("mount bind", call(number["mount"], b"/", b"/tmp", 0, 4096, 0))
expect("remount", call(number["mount"], b"none", b"/usr", 0, 4096 | 32, 0))
for name in ("umount2", "pivot_root", "chroot", "swapon"):
    expect(name, call(number[name], b"/tmp", b"/tmp"))
for name in ("open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "open_by_handle_at"):
    expect(name, call(number[name], -1, b"/", 0, 0, 0))
import subprocess
for command in (["unshare", "-Ur", "id", "-u"], ["unshare", "-Urm", "true"], ["mount", "-t", "tmpfs", "x", "/tmp"], ["chroot", "/tmp", "/x"], ["nsenter", "-t", "1", "-a", "true"], ["bwrap", "--bind", "/", "/", "true"]):
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            broken.append((command, done.stdout))
    except FileNotFoundError:
        pass
print(broken)
"""
)


def test_64_new_namespaces_and_mounts(attack):
    """No new namespace by any call or flag, also below the one that an ordinary user's sandbox has; no mount, no chroot."""
    assert three_ways(attack, NAMESPACES) == ["[]\n"] * 3


SYSTEM_CALLS = (
    CALL
    + """
broken = []
x86 = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
       "add_key": 248, "request_key": 249, "keyctl": 250, "kexec_load": 246, "kexec_file_load": 320, "init_module": 175, "finit_module": 313,
       "delete_module": 176, "reboot": 169, "acct": 163, "quotactl": 179, "syslog": 103, "settimeofday": 164, "clock_settime": 227,
       "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "fanotify_init": 300, "lookup_dcookie": 212, "vhangup": 153,
       "move_pages": 279, "migrate_pages": 256, "set_mempolicy": 238, "mbind": 237, "kcmp": 312, "pidfd_getfd": 438, "process_madvise": 440,
       "uselib": 134, "nfsservctl": 180, "swapoff": 168, "_sysctl": 156, "landlock_nothing": 9999}
arm = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
       "add_key": 217, "request_key": 218, "keyctl": 219, "kexec_load": 104, "init_module": 105, "finit_module": 273, "reboot": 142,
       "settimeofday": 170, "sethostname": 161, "fanotify_init": 262, "kcmp": 272, "pidfd_getfd": 438}
for name, number in (x86 if X86 else arm).items():
    got = call(number, 0, 0, 0, 0, 0, 0)
    if got != "EPERM":
        broken.append((name, got))
for family in range(64):
    for high in (0, 1 << 32):  # the kernel looks at 32 bits: what a filter may do wrong
        got = call(41 if X86 else 198, family | high, socket.SOCK_RAW if family == 16 else socket.SOCK_STREAM, 0)
        if family in (1, 2, 10, 16):  # 16 is netlink, whose protocol 0 is routing
            if isinstance(got, str) and (not high or got != "EPERM"):  # with odd bits it may be refused
                broken.append((family, high, got))
        elif got != "EPERM":
            broken.append((family, got))
for protocol in range(1, 24):  # netlink: routing is 0; audit, netfilter, uevent, crypto, ...
    got = call(41 if X86 else 198, 16, socket.SOCK_RAW, protocol)
    if got != "EPERM":
        broken.append(("netlink", protocol, got))
for family in (socket.AF_INET, socket.AF_INET6):
    for kind in (socket.SOCK_RAW, socket.SOCK_PACKET if hasattr(socket, "SOCK_PACKET") else 10):
        got = call(41 if X86 else 198, family, kind, 1)
        if not isinstance(got, str):
            broken.append(("raw", family, kind))
for request in (0x5412, 0x541C, 0x5412 | 1 << 32):  # TIOCSTI, TIOCLINUX
    got = call(16 if X86 else 29, 0, request, ctypes.create_string_buffer(b"x"))
    if got != "EPERM":
        broken.append(("ioctl", request, got))
if call(135 if X86 else 92, 0x0040000) != "EPERM":
    broken.append("personality")
print(broken)
"""
)


def test_65_system_calls_that_are_not_allowed(attack):
    """io_uring, BPF, keys and the like, raw, packet, VSOCK and ALG sockets, and terminal injection fail with EPERM."""
    assert three_ways(attack, SYSTEM_CALLS) == ["[]\n"] * 3


OTHER_TABLES = (
    CALL
    + """
import mmap
broken = []
for number in (39, 41, 59, 272, 425, 512, 513, 520, 545):  # x32: getpid, socket, execve, unshare, io_uring_setup and its own
    pid = os.fork()
    if pid == 0:
        os._exit(0 if call(0x40000000 | number, 0, 0, 0, 0, 0, 0) in ("EPERM", "ENOSYS") else 3)
    status = os.waitpid(pid, 0)[1]
    if status != 0 and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS):
        broken.append(("x32", number, status))
def by_int80(number, argument):
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    # push rbx; mov ebx, argument; mov eax, number; int 0x80; pop rbx; ret
    code.write(b"\\x53\\xbb" + struct.pack("<I", argument) + b"\\xb8" + struct.pack("<I", number) + b"\\xcd\\x80\\x5b\\xc3")
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return function()
for name, number, argument in (("getpid", 20, 0), ("unshare", 310, 0x10000000), ("socketcall", 102, 1), ("io_uring_setup", 425, 1), ("ptrace", 26, 0)):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if by_int80(number, argument) < 0 else 3)
    status = os.waitpid(pid, 0)[1]
    if not (os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0):
        broken.append(("int 0x80", name))
print(broken)
"""
)


@X86_64
def test_65_system_calls_by_another_table(attack):
    """The 32-bit gate and the x32 table lead around no rule."""
    assert three_ways(attack, OTHER_TABLES) == ["[]\n"] * 3


DEVICES = """
import os, stat
broken = []
for kind in (stat.S_IFCHR, stat.S_IFBLK):
    for major, minor in ((1, 1), (1, 2), (1, 3), (8, 0), (10, 229), (10, 232), (253, 0), (254, 0)):
        for place in ("/workspace", "/tmp", "/dev/shm", "/dev"):
            try:
                os.mknod(f"{place}/node", 0o666 | kind, os.makedev(major, minor))
                broken.append((place, kind, major, minor))
            except OSError:
                pass
for name in ("mem", "kmem", "port", "kmsg", "sda", "vda", "vdb", "nvme0n1", "loop0", "loop-control", "dm-0", "mapper/control", "kvm", "fuse", "net/tun",
             "vsock", "vhost-vsock", "userfaultfd", "uinput", "input", "snapshot", "btrfs-control", "hpet", "rtc", "console", "tty0", "tty1", "dri", "nvidia0", "hugepages"):
    if os.path.lexists(f"/dev/{name}"):
        broken.append(name)
allowed = {"null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm"}
broken += sorted(set(os.listdir("/dev")) - allowed - {"mqueue"})  # which may be there, empty and closed
if os.path.lexists("/dev/mqueue") and (os.listdir("/dev/mqueue") or os.access("/dev/mqueue", os.W_OK)):
    broken.append("mqueue")
os.mkfifo("/workspace/fifo")
print(broken)
"""


def test_66_devices(attack):
    """No device node can be made, and only the harmless ones are there."""
    assert attack.run(DEVICES)["stdout"] == "[]\n"
    assert attack.session().execute(DEVICES)["stdout"] == "[]\n"


SETUID = (
    CALL
    + """
import shutil, stat, subprocess
broken = []
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
if status["NoNewPrivs"] != "1" or status["Seccomp"] != "2" or any(int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")):
    broken.append(status)
if set(status["Uid"].split() + status["Gid"].split()) != {"1000"} or status["Groups"].split() not in ([], ["65534"], ["1000"]):
    broken.append((status["Uid"], status["Groups"]))
for change in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.setresuid(0, 0, 0), lambda: os.setuid(1001), lambda: os.chown("/workspace", 0, 0)):
    try:
        change()
        broken.append("changed uid or gid")
    except PermissionError:
        pass
    except OSError as error:
        if error.errno != errno.EINVAL:  # an id that does not exist in this namespace
            broken.append(repr(error))
header, data = struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *[0xFFFFFFFF] * 6)
if call(126 if X86 else 91, ctypes.create_string_buffer(header), ctypes.create_string_buffer(data)) != "EPERM":
    broken.append("capset")
for capability in range(41):
    libc.prctl(47, 2, capability, 0, 0)  # PR_CAP_AMBIENT_RAISE
shutil.copy("/usr/bin/id", "/workspace/id")
os.chmod("/workspace/id", 0o6755)
report = subprocess.run(["/workspace/id"], capture_output=True, text=True).stdout
if "uid=1000(user) gid=1000(user)" not in report or "euid" in report:
    broken.append(report)
if not os.statvfs("/usr").f_flag & os.ST_NOSUID:  # as in a container: then no file may ask for it
    for top, _, files in os.walk("/"):
        for path in (os.path.join(top, name) for name in files if not top.startswith("/proc")):
            try:
                if os.lstat(path).st_mode & 0o6000 and path != "/workspace/id":
                    broken.append(path)
                os.getxattr(path, "security.capability", follow_symlinks=False)
                broken.append(("capability", path))
            except OSError:
                pass
for command in (["su", "-c", "id"], ["sudo", "-n", "id"], ["pkexec", "id"], ["newgrp", "root"], ["mount"], ["passwd", "-d", "root"], ["chsh", "-s", "/bin/sh"]):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL)
        if "uid=0" in done.stdout:
            broken.append((command, done.stdout))
    except (OSError, subprocess.TimeoutExpired):
        pass
print(broken)
"""
)


def test_67_setuid_binaries_and_other_ways_up(attack):
    """No binary, capability or change of ids gives more than uid 1000 without any capability."""
    assert three_ways(attack, SETUID) == ["[]\n"] * 3


def test_68_ipc_between_sandboxes(attack):
    """Shared memory, semaphores, message queues, keys and abstract sockets of one sandbox and of the host are in no other."""
    name = "codecell-test-" + secrets.token_hex(4)
    make = CALL + (
        f"name, key = {name!r}, 0xC0DECE11\n"
        "shm = libc.shmget(key, 4096, 0o1666); sem = libc.semget(key, 1, 0o1666); msg = libc.msgget(key, 0o1666)\n"
        "keep = socket.socket(socket.AF_UNIX); keep.bind('\\0' + name); keep.listen()\n"
        "mq = call(240 if X86 else 180, name.encode(), os.O_CREAT | os.O_RDWR, 0o666, 0)\n"
        "print(shm >= 0, sem >= 0, msg >= 0, not isinstance(mq, str))\n"
    )
    look = CALL + (
        f"name, key = {name!r}, 0xC0DECE11\n"
        "found = [libc.shmget(key, 4096, 0o666), libc.semget(key, 1, 0o666), libc.msgget(key, 0o666)]\n"
        "found += [call(240 if X86 else 180, name.encode(), os.O_RDWR, 0, 0)]\n"
        "for target in (name, 'host-' + name):\n"
        "    try:\n"
        "        socket.socket(socket.AF_UNIX).connect('\\0' + target); found.append(target)\n"
        "    except OSError as error: found.append(errno.errorcode[error.errno])\n"
        "found += [len(open('/proc/sysvipc/' + kind).readlines()) - 1 for kind in ('shm', 'sem', 'msg')]\n"
        "found += [line.split()[-1] for line in open('/proc/net/unix') if '@' in line]\n"
        "found += [call(number, 0, 0, 0, 0, 0) for number in ((248, 249, 250) if X86 else (217, 218, 219))]\n"
        "found += [open('/proc/keys').read(), os.uname().nodename, libc.sethostname(b'x', 1)]\n"
        "print(found)\n"
    )
    with socket.socket(socket.AF_UNIX) as host:
        host.bind("\0host-" + name)
        host.listen()
        holder = attack.session()
        # Where no control group counts them, semaphores and messages are refused.
        counted = attack.http.get("/v1/info").json()["isolation"]["memory"]["enforced"] == "exact"
        assert holder.execute(make)["stdout"] == f"True {counted} {counted} True\n"
        nothing = [
            -1,
            -1,
            -1,
            "ENOENT",
            "ECONNREFUSED",
            "ECONNREFUSED",
            0,
            0,
            0,
            "EPERM",
            "EPERM",
            "EPERM",
            "",
            "sandbox",
            -1,
        ]
        assert attack.run(look)["stdout"] == f"{nothing}\n"
        assert attack.session().execute(look)["stdout"] == f"{nothing}\n"
        assert holder.execute("libc.shmget(key, 4096, 0o666) == shm")["result"] == {"text/plain": "True"}


INOTIFY = (
    CALL
    + "n = 0\nwhile not isinstance(call(294 if X86 else 26, 0), str) and n < 5000: n += 1\nprint(0 < n <= 8)\n"
)
IN_FLIGHT = """
import array, os, resource, socket
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
null, keep, sent = os.open("/dev/null", os.O_RDONLY), [], 0
try:
    while sent < 100_000:
        keep += socket.socketpair()
        keep[-1].setblocking(False)
        try:
            while True:
                keep[-1].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 250))])
                sent += 250
        except BlockingIOError:
            pass
except OSError as error:
    pass
print(hard <= 4096, sent > 0)
"""


def test_68_what_linux_counts_for_all_sandboxes_together(attack):
    """Code that takes all inotify instances and floods sockets with descriptors takes none from the host or another sandbox.

    Containers have one uid on the host, for which Linux counts them together: there, what needs them may fail
    in another sandbox too, and nothing else does.
    """
    first, second = attack.session(), attack.session()
    for session in (first, second):
        seen = session.execute(INOTIFY)["stdout"]
        assert seen == "True\n" or attack.backend == "docker"
    assert first.execute(IN_FLIGHT)["stdout"] == "True True\n"
    for _ in range(5):  # more than are warm, so that sandboxes must be made
        assert attack.run("print('next')")["stdout"] == "next\n"
    assert attack.run("echo next", "bash")["stdout"] == "next\n"


HOST = """
import os, re, subprocess
broken = []
for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd", "/run/podman", "/run/crio", "/run/systemd", "/run/dbus", "/run/user", "/run/secrets",
             "/var/lib", "/var/cache", "/var/log", "/root", "/home", "/mnt", "/media", "/srv", "/boot", "/host", "/etc/shadow", "/etc/ssh", "/etc/sudoers",
             "/sys/fs", "/sys/class", "/sys/block", "/sys/kernel", "/sys/firmware", "/proc/kcore", "/proc/acpi/wakeup", "/proc/scsi/scsi", "/.dockerenv", "/opt/codecell/root"):
    try:
        size = os.stat(path).st_size if not os.path.isdir(path) else len(os.listdir(path))
        if path != "/proc/kcore" or open(path, "rb").read(1):
            broken.append((path, size))
    except OSError:
        pass
for top, names, files in os.walk("/"):
    names[:] = [name for name in names if os.path.join(top, name) not in ("/proc", "/usr", "/opt/codecell/env", "/opt/codecell/base")]
    broken += [os.path.join(top, name) for name in files if name in ("release_agent", "notify_on_release", "cgroup.procs", "tasks")]
if {line.split(":", 2)[2] for line in open("/proc/self/cgroup").read().split()} - {"/"}:
    broken.append(open("/proc/self/cgroup").read())
points = [line.split()[4] for line in open("/proc/self/mountinfo")]
rooms = re.compile(r"/|/usr(/.*)?|/lib\\w*|/bin|/sbin|/opt/codecell/.*|/dev/(null|zero|full|random|urandom|tty|shm|pts)|/proc(/.*)?|/tmp|/workspace|/run(/kernel)?")
broken += [point for point in points if not rooms.fullmatch(point)]
kinds = {line.partition(" - ")[2].split()[0] for line in open("/proc/self/mountinfo")}
broken += sorted(kinds & {"cgroup", "cgroup2", "sysfs", "securityfs", "debugfs", "bpf", "tracefs", "nfs", "9p", "fuse", "virtiofs", "mqueue", "configfs"})
print(broken)
"""


IN_CONTAINER = """
import os, re
broken = [path for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd", "/run/podman", "/run/crio", "/run/systemd", "/run/dbus", "/run/user", "/run/secrets", "/host")
          if os.path.lexists(path)]
for path in ("/root", "/home", "/mnt", "/media", "/srv", "/boot", "/run/codecell", "/run/codecell/guest", "/sys/class", "/sys/block", "/sys/kernel", "/sys/module", "/sys/firmware"):
    try:
        broken += [(path, name) for name in os.listdir(path)]
    except OSError:
        pass
for path in ("/etc/shadow", "/etc/gshadow", "/proc/kcore", "/proc/acpi/wakeup", "/proc/scsi/scsi", "/proc/keys", "/proc/timer_list"):
    try:
        broken += [path] if open(path, "rb").read(1) else []
    except OSError:
        pass
for top, _, files in os.walk("/sys"):
    broken += [path for path in (top, *(os.path.join(top, name) for name in files)) if os.access(path, os.W_OK)]
if {line.split(":", 2)[2] for line in open("/proc/self/cgroup").read().split()} - {"/"}:
    broken.append(open("/proc/self/cgroup").read())
ours = re.compile(r"/run/codecell/(guest|config.json)|/opt/codecell/lib|/run/codecell-ca/ca.crt|/sys/devices/system/cpu/(online|possible|present)|/etc/(hosts|hostname|resolv.conf)")
rooms = re.compile(r"/workspace|/tmp|/run/kernel|/dev(/shm|/pts|/mqueue)?|/proc|/sys/devices|/sys/fs/cgroup|/run/codecell/guest")
virtual = {"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay", "devtmpfs"}
for line in open("/proc/self/mountinfo").read().splitlines():
    words, _, more = line.partition(" - ")
    point, options, kind = words.split()[4], words.split()[5].split(","), more.split()[0]
    if kind not in virtual and not ours.fullmatch(point):
        broken.append(("a file system of the host's", line))
    if "rw" in options and not rooms.fullmatch(point) and not point.startswith("/proc/"):
        broken.append(("writable", line))
print(broken)
"""


def test_69_the_host_is_not_there(attack):
    """No engine's socket, no host directory, no cgroup file to write: nothing of the host is mounted but what runs programs."""
    assert three_ways(attack, IN_CONTAINER if attack.backend == "docker" else HOST) == ["[]\n"] * 3


FORGE = """
import os, socket, struct, json, array, glob
frame = b"".join((b"J", b"")) + json.dumps({"v": 1, "op": "configure", "memory_bytes": 1 << 40, "processes": 1 << 20, "sampled": False, "cpu_count": 64}).encode()
found = [line.split()[-1] for line in open("/proc/net/unix").readlines()[1:] if "/" in line or "@" in line]
talked = []
for path in {*found, *glob.glob("/run/**", recursive=True), "/run/guest.sock", "/run/codecell/guest.sock"}:
    if path.startswith("/run/kernel"):
        continue
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        try:
            sock.connect(path)
            sock.sendall(struct.pack("!BI", 0, len(frame)) + frame)
            talked.append((path, sock.recv(100)))
        except OSError:
            pass
for fd in range(3, 256):  # a socket of the guest's among our own descriptors
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            if sock.family == socket.AF_UNIX and sock.getsockname() and "kernel" not in str(sock.getsockname()):
                talked.append((fd, sock.getsockname()))
    except (OSError, ValueError):
        pass
print(talked)
"""


def test_69_forging_the_guests_frames(attack):
    """The guest's socket has no name and no descriptor that user code can find, so nobody else can give it orders."""
    assert three_ways(attack, FORGE) == ["[]\n"] * 3


FAKE_KERNEL = """
import os, socket, time, threading
os.chdir("/run/kernel")
end = time.monotonic() + 20
def serve(name, answer):
    while time.monotonic() < end:
        try:
            os.unlink(name)
        except OSError:
            pass
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.bind(name); os.chmod(name, 0o777); sock.listen(); sock.settimeout(0.3)
            peer, _ = sock.accept()
            peer.sendall(answer)
        except OSError:
            pass
answers = (b"\\xff" * 100, b"\\xff\\0\\0\\0\\0\\0\\0\\0\\x01\\x7f\\x03\\0NULL" + bytes(48) + b"\\x02" + b"\\xff" * 8, os.urandom(4096), b"")
for name, answer in zip(("shell", "iopub", "stdin", "control"), answers):
    threading.Thread(target=serve, args=(name, answer), daemon=True).start()
time.sleep(20)
"""


def test_69_talking_to_the_kernels_sockets(attack):
    """Garbage to a kernel's sockets, and sockets of the attacker's in their place, cost the session its kernel at most."""
    session = attack.session()
    session.execute("kept = 1")
    garbage = (
        "import os, socket\nfor name in ('shell', 'iopub', 'stdin', 'control'):\n"
        "    for data in (b'', b'\\xff' * 9, os.urandom(65536), b'GET / HTTP/1.0\\r\\n\\r\\n'):\n"
        "        s = socket.socket(socket.AF_UNIX); s.connect('/run/kernel/' + name); s.sendall(data); s.close()\nprint('sent')\n"
    )
    assert session.command(f"python3 - <<'END'\n{garbage}END")["stdout"] == "sent\n"
    assert session.execute("kept")["result"] == {"text/plain": "1"}

    session.http.put(f"{session.path}/files/fake.py", content=FAKE_KERNEL.encode()).raise_for_status()
    session.http.post(
        f"{session.path}/commands", json={"argv": ["python3", "fake.py"], "detach": True}
    ).raise_for_status()
    time.sleep(0.3)
    began = time.monotonic()
    for verb, body in (("executions", {"code": "1"}), ("restart", None), ("executions", {"code": "2"})):
        answer = session.http.post(f"{session.path}/{verb}", json=body)
        assert answer.status_code in (200, 410, 502), answer.text
    assert time.monotonic() - began < 90
    assert attack.run("print('next')")["stdout"] == "next\n"


CORE = """
import ctypes, os, resource, signal, subprocess, sys
print(resource.getrlimit(resource.RLIMIT_CORE))
try:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("raised")
except (OSError, ValueError):
    pass
pid = os.fork()
if pid == 0:
    ctypes.string_at(0)
status = os.waitpid(pid, 0)[1]
print(os.WTERMSIG(status) == signal.SIGSEGV)
print(sorted(name for top in ("/workspace", "/tmp", "/dev/shm") for _, _, names in os.walk(top) for name in names if "core" in name.lower()))
try:
    open("/proc/self/coredump_filter", "w").write("0xff")
    open("/proc/sys/kernel/core_pattern", "w").write("|/workspace/run-me")
    print("changed the host's core pattern")
except OSError:
    pass
"""


def test_70_core_dumps(attack):
    """A crash leaves no core file, the limit cannot be raised, and the host's core pattern not be changed."""
    with open("/proc/sys/kernel/core_pattern") as file:
        pattern = file.read()
    assert three_ways(attack, CORE) == ["(0, 0)\nTrue\n[]\n"] * 3
    crashed = attack.run("import ctypes; ctypes.string_at(0)", collect=["**"])
    assert (crashed["outcome"], crashed["signal"], crashed["files"]) == ("error", "SIGSEGV", [])
    with open("/proc/sys/kernel/core_pattern") as file:
        assert file.read() == pattern


INHERITED = """
import os, resource, signal
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(os.umask(0o022) == 0o022, int(status["SigIgn"], 16) & ~(1 << 12 | 1 << 24), int(status["SigBlk"], 16))
"""


def test_71_there_are_no_language_level_guards_to_lean_on(attack):
    """The well-known way around restricted Python works at once, and leads to the same uid behind the same walls."""
    escape = (
        "popen = next(c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close').__init__.__globals__['popen']\n"
        "print(popen('id -u; cat /etc/shadow 2>&1; ls /root 2>&1').read())\n"
    )
    seen = attack.run("import os\n" + escape)["stdout"]
    assert seen.startswith("1000\n")
    assert "root:" not in seen
    assert seen.count("No such file") + seen.count("Permission denied") == 2
    assert attack.run(INHERITED)["stdout"] == "True 0 0\n"
