"""The private root that every local sandbox starts from: what a sandbox sees of the host, and no more.

Built once, by the nursery, in its own mount namespace: a small tmpfs that holds an `/etc` of our own
making and read-only binds of `/usr`, the image's environment and its base interpreter. A sandbox adds
its own `/proc`, `/workspace`, `/tmp`, `/dev/shm`, `/dev/pts` and `/run` (see `rooms`).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable

from executor_service.guest import linux

ENV = "/opt/codecell/env"
BASE = "/opt/codecell/base"
LIB = "/opt/codecell/lib"
CA_BUNDLE = "/run/codecell-ca/ca.crt"  # there where a sandbox has a way out and the operator gave a bundle
USER, RELAY = 1000, 1001
TERMINALS = 64  # the host has 4096 for all

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib32": "usr/lib32", "lib64": "usr/lib64"}
_ACCOUNTS = (
    "root:x:0:0:root:/:/usr/sbin/nologin\n"
    "user:x:1000:1000:user:/workspace:/bin/bash\n"
    "relay:x:1001:1001:relay:/:/usr/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
)
_GROUP = "root:x:0:\ntty:x:5:\nuser:x:1000:\nrelay:x:1001:\nnogroup:x:65534:\n"
_NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\n"
_HOSTS = "127.0.0.1 localhost sandbox\n::1 localhost\n"
# What toolchains and libraries under /usr look for in /etc, copied as far as others may read it.
_COPIED = (
    "ld.so.cache", "ld.so.conf", "alternatives", "fonts", "localtime", "timezone", "mime.types", "protocols",
    "services", "ssl/certs/ca-certificates.crt", "ssl/openssl.cnf", "inputrc", "magic", "perl", "php", "R",
    "java-11-openjdk", "java-17-openjdk", "java-21-openjdk", "java-25-openjdk",
)  # fmt: skip
_PROC_HIDDEN_FILES = (
    "kcore",
    "keys",
    "key-users",
    "latency_stats",
    "timer_list",
    "sched_debug",
    "kallsyms",
    "kmsg",
)
_PROC_HIDDEN_DIRS = ("acpi", "scsi", "asound", "driver")
_PROC_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")


def build(root: str, env_dir: str, base_prefix: str, guest_dir: str, ca_bundle: str | None = None) -> None:
    """Build the template at the empty directory `root` and make it the root of this mount namespace.

    Raises:
        OSError: the kernel or a security module refuses a mount.
    """
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("root", root, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=32m,nr_inodes=4096,mode=755")
    for directory in (
        "dev/shm",
        "dev/pts",
        "etc",
        "proc",
        "run",
        "sys/devices/system/cpu",
        "tmp",
        "var",
        "workspace",
    ):
        os.makedirs(f"{root}/{directory}", mode=0o755, exist_ok=True)
    _bind_tree("/usr", f"{root}/usr")
    for name, target in _LINKS.items():
        if os.path.islink(f"/{name}"):
            os.symlink(target, f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            _bind_tree(f"/{name}", f"{root}/{name}")
    _bind_tree(env_dir, root + ENV)
    if not base_prefix.startswith("/usr/") and base_prefix != "/usr":
        _bind_tree(base_prefix, root + BASE)
    os.makedirs(f"{root}{LIB}/executor_service")
    _write(f"{root}{LIB}/executor_service/__init__.py", "")
    _bind_tree(guest_dir, f"{root}{LIB}/executor_service/guest")
    _make_etc(f"{root}/etc")
    _make_dev(f"{root}/dev")
    if ca_bundle:  # below /run, which each sandbox covers with its own: see `rooms`
        os.makedirs(os.path.dirname(root + CA_BUNDLE))
        _copy(ca_bundle, root + CA_BUNDLE)
    os.symlink("../tmp", f"{root}/var/tmp")
    for name in ("online", "possible", "present"):
        os.symlink("/run/codecell/cpus", f"{root}/sys/devices/system/cpu/{name}")
    linux.mount("proc", f"{root}/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    # For what packages insist on writing while a zygote imports them; every sandbox covers it with its own.
    for place in ("tmp", "workspace"):
        linux.mount(
            place,
            f"{root}/{place}",
            "tmpfs",
            linux.MS_NOSUID | linux.MS_NODEV,
            "size=16m,nr_inodes=1024,mode=700",
        )
    os.chdir(root)
    linux.pivot_root(".", ".")
    linux.umount(".")
    os.chdir("/")
    linux.mount(
        "root",
        "/",
        None,
        linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV,
    )


def rooms(disk_bytes: int, owner: int, *, ca_bundle: bool = False) -> int:
    """Mount what a sandbox has for itself; called in its own namespaces. `owner` owns the workspace.

    With `ca_bundle` the template's is there too, if it has one. Returns a descriptor for `set_cpus`.
    """
    flags = linux.MS_NOSUID | linux.MS_NODEV
    # An inode costs about 1 KiB of kernel memory: one for each 8 KiB of disk, at least 4096.
    inodes = max(4096, disk_bytes // 8192)
    limits = f"size={disk_bytes},nr_inodes={inodes},uid={owner},gid={owner}"
    linux.mount("proc", "/proc", "proc", flags | linux.MS_NOEXEC)
    _mask_proc()
    linux.mount("workspace", "/workspace", "tmpfs", flags, f"{limits},mode=755")
    linux.mount("tmp", "/tmp", "tmpfs", flags, f"{limits},mode=1777")
    linux.mount("shm", "/dev/shm", "tmpfs", flags | linux.MS_NOEXEC, f"{limits},mode=1777")
    linux.mount(
        "devpts",
        "/dev/pts",
        "devpts",
        linux.MS_NOSUID | linux.MS_NOEXEC,
        f"newinstance,ptmxmode=666,mode=600,uid={owner},gid={owner},max={TERMINALS}",
    )
    return _run(flags | linux.MS_NOEXEC, owner, ca_bundle=ca_bundle and os.path.exists(CA_BUNDLE))


def _run(flags: int, owner: int, *, ca_bundle: bool) -> int:
    """Make `/run`; a descriptor of the file behind `set_cpus`.

    User code may have the guest's own uid, so only a read-only mount keeps it from writing here. The
    descriptor was opened through the writable mount below, which no path reaches any more.
    """
    bundle = os.open(CA_BUNDLE, os.O_PATH | os.O_CLOEXEC) if ca_bundle else -1
    linux.mount("run", "/run", "tmpfs", flags, "size=1m,nr_inodes=64,mode=755")
    os.mkdir("/run/codecell", 0o755)
    os.mkdir("/run/kernel", 0o711)
    cpus = os.open("/run/codecell/cpus", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    set_cpus(cpus, 1)
    if ca_bundle:
        os.mkdir(os.path.dirname(CA_BUNDLE), 0o755)
        _write(CA_BUNDLE, "")
    linux.mount("/run", "/run", None, linux.MS_BIND)
    _make_read_only("/run", linux.MS_NOEXEC)
    if ca_bundle:
        linux.mount(f"/proc/self/fd/{bundle}", CA_BUNDLE, None, linux.MS_BIND)
        os.close(bundle)
    linux.mount(
        "kernel", "/run/kernel", "tmpfs", flags, f"size=1m,nr_inodes=64,uid={owner},gid={owner},mode=711"
    )
    return cpus


def set_cpus(fd: int, count: int) -> None:
    """Tell the C library, and so `os.cpu_count()`, how many processors there are."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"0\n" if count <= 1 else b"0-%d\n" % (count - 1), 0)


def _mask_proc() -> None:
    """What container engines mask: /proc of a user namespace still shows parts of the host."""
    for name in _PROC_HIDDEN_FILES:
        if os.path.exists(f"/proc/{name}"):
            linux.mount("/dev/null", f"/proc/{name}", None, linux.MS_BIND)
    for name in _PROC_HIDDEN_DIRS:
        if os.path.isdir(f"/proc/{name}"):
            linux.mount("none", f"/proc/{name}", "tmpfs", linux.MS_RDONLY, "size=0,nr_inodes=2")
    for name in _PROC_READ_ONLY:
        if os.path.exists(f"/proc/{name}"):
            linux.mount(f"/proc/{name}", f"/proc/{name}", None, linux.MS_BIND | linux.MS_REC)
            _make_read_only(f"/proc/{name}", linux.MS_NOEXEC)


def _bind_tree(source: str, target: str) -> None:
    """Bind `source` read-only, nosuid and nodev, with whatever is mounted below it."""
    os.makedirs(target, exist_ok=True)
    linux.mount(source, target, None, linux.MS_BIND | linux.MS_REC)
    for point in _mounts_below(target):
        _make_read_only(point)


def _make_read_only(point: str, more: int = 0) -> None:
    # In a user namespace flags that the mount already has may not be dropped.
    held = os.statvfs(point).f_flag & (
        os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME | os.ST_RELATIME
    )
    flags = linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("none", point, None, flags | more | _as_mount_flags(held))


def _as_mount_flags(held: int) -> int:
    pairs = (
        (os.ST_NOSUID, linux.MS_NOSUID),
        (os.ST_NODEV, linux.MS_NODEV),
        (os.ST_NOEXEC, linux.MS_NOEXEC),
        (os.ST_NOATIME, 1024),
        (os.ST_NODIRATIME, 2048),
        (os.ST_RELATIME, 1 << 21),
    )
    return sum(flag for seen, flag in pairs if held & seen)


def _mounts_below(point: str) -> Iterable[str]:
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        points = [line.split()[4].encode().decode("unicode_escape") for line in file]
    return [p for p in points if p == point or p.startswith(point + "/")]


def _make_etc(etc: str) -> None:
    texts = {
        "passwd": _ACCOUNTS,
        "group": _GROUP,
        "nsswitch.conf": _NSSWITCH,
        "hosts": _HOSTS,
        "hostname": "sandbox\n",
        "resolv.conf": "",
    }
    for name, text in texts.items():
        _write(f"{etc}/{name}", text)
    os.symlink("/proc/mounts", f"{etc}/mtab")
    for name in _COPIED:
        _copy_public(f"/etc/{name}", f"{etc}/{name}")


def _copy_public(source: str, target: str) -> None:
    """Copy what others may read; links stay links, except a link given by name (localtime)."""
    with contextlib.suppress(OSError):
        mode = os.stat(source).st_mode
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if stat.S_ISREG(mode) and mode & stat.S_IROTH:
            _copy(source, target)
        elif stat.S_ISDIR(mode):
            os.makedirs(target, exist_ok=True)
            for entry in os.scandir(source):
                if entry.is_symlink():
                    os.symlink(os.readlink(entry.path), f"{target}/{entry.name}")
                else:
                    _copy_public(entry.path, f"{target}/{entry.name}")


def _make_dev(dev: str) -> None:
    for name in _DEVICES:
        _write(f"{dev}/{name}", "")
        linux.mount(f"/dev/{name}", f"{dev}/{name}", None, linux.MS_BIND)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        os.symlink(target, f"{dev}/{name}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _copy(source: str, target: str) -> None:
    """Not by `shutil`, which every process 1 would have to import."""
    with open(source, "rb") as read, open(target, "wb") as write:
        write.write(read.read())
