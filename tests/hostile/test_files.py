# ruff: noqa: E501  (the attacking programs are text)
"""Cases 47 to 61: files that are not what they seem, traps where the service writes, archives, leftovers."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

pytestmark = pytest.mark.hostile

PROMPT = 20.0  # seconds: "at once" on a busy machine
MIB = 1 << 20


def url(session: Any, path: str) -> str:
    """Where a file is; a path of any bytes stays as it is."""
    return f"{session.path}/files/{quote(path, safe='/')}"


def code_of(response: httpx2.Response) -> str:
    """The error code of a refusal."""
    assert response.headers["content-type"] == "application/problem+json", response.text[:500]
    return str(response.json()["code"])


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar archive as a hostile tool would write it."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """One header."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o755
    return info


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the service is gone")


def test_47_a_sparse_file_of_a_pebibyte_is_not_read(attack, house):
    """A file that says 1 PiB is neither collected nor held in memory, and whoever downloads it may leave."""
    make = "import os\nwith open('huge', 'wb') as f: os.ftruncate(f.fileno(), 1 << 50)\nopen('small', 'w').write('s')\n"
    began = time.monotonic()
    ended = attack.run(make, collect=["*"])
    assert time.monotonic() - began < PROMPT
    assert ended["outcome"] == "ok"
    assert ended["files_omitted"] == [{"path": "huge", "size": 1 << 50, "reason": "too_large"}]
    assert {"small"} == {file["path"] for file in ended["files"]}

    session = attack.session()
    assert {"path": "huge", "size": 1 << 50} in session.execute(make)["files"]
    before = resident(house.process.pid)
    with session.http.stream("GET", url(session, "huge")) as response:
        assert (response.status_code, response.headers["content-length"]) == (200, str(1 << 50))
        taken = 0
        for chunk in response.iter_bytes():
            taken += len(chunk)
            if taken > 8 * MIB:
                break
    refused = session.http.get(f"{session.path}/archive")
    assert (refused.status_code, code_of(refused)) == (413, "payload_too_large")
    last = session.http.get(url(session, "huge"), headers={"range": f"bytes={(1 << 50) - 2}-"})
    assert (last.status_code, last.content) == (206, b"\0\0")
    assert resident(house.process.pid) - before < 64 * MIB
    assert session.execute("1")["outcome"] == "ok"


def test_48_a_hundred_links_to_a_large_file(attack):
    """100 symbolic links to 32 MB are no files, and 100 hard links to 9 MB give one content, not 900 MB."""
    ended = attack.run(
        "import os\nopen('big', 'wb').write(bytes(32 << 20))\nfor n in range(100): os.symlink('big', f'link{n:02}')\n",
        collect=["*"],
        limits={"disk_bytes": 64 * MIB},
    )
    reasons = {each["path"]: each["reason"] for each in ended["files_omitted"]}
    assert ended["outcome"] == "ok"
    assert ended["files"] == []
    assert reasons == {"big": "too_large", **{f"link{n:02}": "not_a_file" for n in range(100)}}

    ended = attack.run(
        "import os\nopen('big', 'wb').write(b'x' * (9 << 20))\nfor n in range(99): os.link('big', f'hard{n:02}')\n",
        collect=["big", "hard*"],
    )
    assert ended["outcome"] == "ok"
    assert sum(file["size"] for file in ended["files"]) <= 10 * MIB
    assert len(ended["files"]) + len(ended["files_omitted"]) == 100


def test_49_a_link_planted_where_the_service_writes(attack):
    """An upload, a move and an archive replace a planted link or refuse it; nothing is written through it."""
    session = attack.session()
    session.execute(
        "import os\nos.mkdir('/tmp/trap'); open('/tmp/trap/target', 'w').write('untouched')\n"
        "os.symlink('/tmp/trap/target', 'file'); os.symlink('/tmp/trap', 'directory'); os.symlink('/tmp/trap/target', 'moved')\n"
        "os.symlink('/tmp/trap/new', 'dangling')\n"
    )
    for name in ("file", "dangling"):
        assert session.http.put(url(session, name), content=b"mine").status_code == 200
    assert session.http.put(url(session, "source"), content=b"mine").status_code == 200
    assert session.http.post(url(session, "source"), json={"op": "move", "to": "moved"}).status_code == 204
    unpacked = session.http.put(
        f"{session.path}/archive", content=tar_of((member("directory/target"), b"mine"))
    )
    assert (unpacked.status_code, code_of(unpacked)) == (422, "invalid_path")
    bomb = tar_of((member("way", tarfile.SYMTYPE, "/tmp/trap"), b""), (member("way/target"), b"mine"))
    assert session.http.put(f"{session.path}/archive", content=bomb).status_code == 422
    seen = session.command(
        "cat /tmp/trap/target; ls /tmp/trap; readlink file dangling moved; cat file dangling moved"
    )
    assert seen["stdout"] == "untouched" + "target\n" + "mine" * 3

    # As Judge0's CVE-2024-28185: the next program's own text is written where the last one left a link.
    session.execute(
        "import os\nfor name in ('main.py', 'main.sh', 'script'): os.symlink('/tmp/trap/target', name)\n"
    )
    session.execute("echo harmless", language="bash")
    assert session.command("cat /tmp/trap/target")["stdout"] == "untouched"


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "/proc/1/environ", "/proc/self/fd/2", "/proc/1/root/etc/passwd"]
)
def test_50_an_output_that_is_a_link_out(attack, target):
    """A link among the outputs is never collected, and following it gives what the sandbox's code can see, no more."""
    plant = f"import os\nos.symlink({target!r}, 'out.txt')\n"
    ended = attack.run(plant, collect=["*.txt", "**/*.txt"])
    assert (ended["outcome"], ended["files"]) == ("ok", [])
    assert [(each["path"], each["reason"]) for each in ended["files_omitted"]] == [("out.txt", "not_a_file")]

    session = attack.session()
    session.execute(plant)
    for path in ("out.txt", target):
        answer = session.http.get(
            url(session, path) if path != target else f"{session.path}/files/{quote(target, safe='')}"
        )
        if target == "/etc/passwd":
            assert answer.text == session.command("cat /etc/passwd")["stdout"]
            assert answer.text != Path("/etc/passwd").read_text()
        else:
            assert (answer.status_code, code_of(answer)) in ((422, "invalid_path"), (404, "file_not_found"))


def test_50_a_file_helper_has_no_file_of_the_host(attack):
    """No descriptor of the helper leads to the service's log or any other file, by whatever name it is asked for."""
    session = attack.session()
    processors = session.command("cat /run/codecell/cpus")["stdout"]  # the guest's, and the sandbox's own
    for number in range(40):
        for base in ("/proc/self/fd", "/proc/thread-self/fd", "/dev/fd"):
            answer = session.http.get(f"{session.path}/files/{quote(f'{base}/{number}', safe='')}")
            assert answer.status_code in (404, 422) or answer.text == processors, (
                base,
                number,
                answer.content[:200],
            )
    for name in ("environ", "mem", "maps", "cmdline", "auxv"):
        answer = session.http.get(f"{session.path}/files/{quote(f'/proc/self/{name}', safe='')}")
        assert b"house-secret" not in answer.content
        assert str(Path(__file__).parent).encode() not in answer.content


def test_51_what_is_no_file_hangs_no_reader(attack):
    """FIFO, socket, devices and a terminal are refused as files, left out of outputs and archives, all at once."""
    make = (
        "import os, socket\nos.mkfifo('fifo')\ns = socket.socket(socket.AF_UNIX); s.bind('socket'); s.listen()\n"
        "for name in ('zero', 'random', 'tty', 'full', 'ptmx', 'stdin'): os.symlink(f'/dev/{name}', name)\n"
        "os.symlink('loop', 'loop')\n"
    )
    names = ("fifo", "socket", "zero", "random", "tty", "full", "ptmx", "stdin", "loop")
    began = time.monotonic()
    ended = attack.run(make, collect=["*"])
    assert ended["outcome"] == "ok"
    assert {each["path"]: each["reason"] for each in ended["files_omitted"]} == dict.fromkeys(
        names, "not_a_file"
    )

    session = attack.session()
    session.execute(make)
    for name in names:
        answer = session.http.get(url(session, name))
        assert (answer.status_code, code_of(answer)) == (422, "invalid_path"), name
        assert session.http.head(url(session, name)).status_code in (200, 422), name
    moved = session.http.post(url(session, "fifo"), json={"op": "move", "to": "/tmp/fifo"})
    assert moved.status_code in (204, 422)
    archive = session.http.get(f"{session.path}/archive")
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
        assert all(each.isdir() or each.isreg() or each.issym() for each in tar)
    assert time.monotonic() - began < 2 * PROMPT


def test_52_a_file_swapped_while_it_is_read(attack):
    """What is swapped between look and read comes whole, as one version or the other, or not at all."""
    session = attack.session()
    session.command(
        "printf A%.0s {1..5000} > a; printf B%.0s {1..300000} > b; mkfifo f; echo secret > /tmp/s"
    )
    swap = "while :; do for x in a b f /tmp/s /etc/shadow /dev/zero; do ln -sf $x n; mv -T n t; cp -f a u; mv -T u t; cp b u; mv u t; done; done"
    session.http.post(f"{session.path}/commands", json={"command": swap, "detach": True}).raise_for_status()
    allowed = (b"A" * 5000, b"B" * 300000, b"secret\n")
    whole = 0
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        try:
            answer = session.http.get(url(session, "t"))
            part = session.http.get(url(session, "t"), headers={"range": "bytes=0-9"})
        except httpx2.RemoteProtocolError:
            continue  # a broken stream is an honest answer
        if answer.status_code == 200:
            assert answer.content in allowed
            whole += 1
        else:
            assert answer.status_code in (404, 422), answer.text
        if part.status_code == 206:
            assert part.content
            assert any(content.startswith(part.content) for content in allowed)
    assert whole


BAD_PATHS = ["../up", "a/../../up", "/absolute", "nul\0", "back\\slash", "..", "."]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_53_uploads_that_aim_elsewhere(attack, path):
    """A path that leaves the workspace, or can be none, is refused before anything runs."""
    body = {"language": "python", "code": "print('ran')", "files": [{"path": path, "content": "x"}]}
    refused = attack.http.post("/v1/runs", json=body)
    assert (refused.status_code, code_of(refused)) == (422, "invalid_path")


def test_53_uploads_into_a_session_that_aim_elsewhere(attack):
    """`..`, NUL, a file below a file and two files that cannot both be are refused, however they are written."""
    both = {
        "language": "python",
        "code": "1",
        "files": [{"path": "a", "content": ""}, {"path": "a/b", "content": ""}],
    }
    refused = attack.http.post("/v1/runs", json=both)
    assert (refused.status_code, code_of(refused)) == (422, "invalid_path")
    session = attack.session()
    session.command("touch plain")
    for raw in ("..%2Fup", "%2e%2e/%2e%2e/up", "a/%2e%2e/%2e%2e/up", "a%00b", "plain/below", "%ff%fe"):
        answer = session.http.put(f"{session.path}/files/{raw}", content=b"x")
        assert (answer.status_code, code_of(answer)) == (422, "invalid_path"), raw
    for path in ("/etc/hosts", "/usr/bin/new", "/opt/codecell/env/new", "/proc/self/comm", "/new"):
        answer = session.http.put(f"{session.path}/files/{quote(path, safe='')}", content=b"x")
        assert answer.status_code in (404, 422), path
        assert code_of(answer) in ("invalid_path", "file_not_found")
        answer = session.http.post(url(session, "plain"), json={"op": "move", "to": path})
        assert answer.status_code in (404, 422), path
        assert code_of(answer) in ("invalid_path", "file_not_found")
    assert session.command("ls -A")["stdout"] == "plain\n"


def test_54_directories_a_thousand_deep(attack):
    """A tree of 1,000 levels and one deeper than any path are listed, packed and deleted, promptly."""
    make = (
        "import os\nhome = os.getcwd()\n"
        "for top, depth in (('deep', 1000), ('deeper', 5000)):\n"
        "    os.mkdir(top); os.chdir(top)\n"
        "    for _ in range(depth): os.mkdir('d'); os.chdir('d')\n"
        "    open('bottom.txt', 'w').write('down here')\n"
        "    os.chdir('/'); os.chdir(home)\n"
    )
    began = time.monotonic()
    ended = attack.run(make, collect=["**/bottom.txt"], limits={"disk_bytes": 128 * MIB})
    assert ended["outcome"] == "ok", ended
    assert [file["content"] for file in ended["files"]] == ["down here"]
    session = attack.session()
    session.execute(make)
    assert session.http.get(f"{session.path}/files", params={"recursive": True}).status_code in (200, 413)
    with session.http.stream("GET", f"{session.path}/archive") as answer:
        assert answer.status_code in (200, 413)
        answer.read()
    for top in ("deep", "deeper"):
        assert session.http.delete(url(session, top)).status_code == 204
    assert session.command("ls")["stdout"] == ""
    assert time.monotonic() - began < 3 * PROMPT


def test_55_names_with_invalid_bytes(attack):
    """Names that are no UTF-8, have line breaks or look like options are listed as text, and can be read and deleted."""
    make = (
        "import os\n"
        "for name in (b'bad-\\xff-\\xfe', b'line\\nbreak\\r\\nX-Injected: 1', b'-rf', b'\\xed\\xa0\\x80', b'\\xe2\\x80\\xaetxt.exe', b'\"quoted\"; a=b'):\n"
        "    open(name, 'w').write('content')\n"
    )
    ended = attack.run(make, collect=["*"])
    assert ended["outcome"] == "ok"
    assert {"bad-\ufffd-\ufffd", "line\nbreak\r\nX-Injected: 1"} <= {file["path"] for file in ended["files"]}
    session = attack.session()
    assert session.execute(make)["outcome"] == "ok"
    names = [item["path"] for item in session.http.get(f"{session.path}/files").json()["items"]]
    assert len(names) == 6
    for name in names:
        answer = session.http.get(url(session, name))
        assert (answer.status_code, answer.text) == (200, "content"), name
        assert "x-injected" not in answer.headers
        assert session.http.delete(url(session, name)).status_code == 204
    assert session.http.get(f"{session.path}/files").json()["items"] == []


def gnu_sparse_of(size: int) -> bytes:
    """A tar of 1 KiB whose one member says that it has `size` bytes."""
    info = member("huge", tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398] = b"%011o\0" % (size - 1)  # one byte of content, at the very end
    header[398:410] = b"%011o\0" % 1
    header[124:136] = b"%011o\0" % 1
    header[483:495] = b"\x80" + b"\0" * 3 + size.to_bytes(8, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"x" + bytes(511 + 1024)


@pytest.mark.parametrize(
    ("name", "archive"),
    [
        ("traversal", tar_of((member("../up"), b"x"))),
        ("absolute", tar_of((member("/tmp/up"), b"x"))),
        ("inner traversal", tar_of((member("a/../../up"), b"x"))),
        ("link out", tar_of((member("l", tarfile.SYMTYPE, "../../etc"), b""))),
        ("link to the root", tar_of((member("l", tarfile.SYMTYPE, "/"), b""))),
        ("hard link out", tar_of((member("l", tarfile.LNKTYPE, "../../etc/passwd"), b""))),
        ("hard link to the root", tar_of((member("l", tarfile.LNKTYPE, "/etc/passwd"), b""))),
        ("device", tar_of((member("d", tarfile.CHRTYPE), b""))),
        ("fifo", tar_of((member("d", tarfile.FIFOTYPE), b""))),
        (
            "link and through it",
            tar_of((member("s", tarfile.SYMTYPE, "."), b""), (member("s/../../up"), b"x")),
        ),
        ("gzip bomb", __import__("gzip").compress(tar_of((member("zeros"), bytes(64 * MIB))))),
        ("zip", b"PK\x03\x04" + bytes(2000)),
        ("noise", bytes(range(256)) * 40),
        ("sparse bomb", gnu_sparse_of(1 << 44)),
        ("many", tar_of(*((member(f"f{n}"), b"") for n in range(40_000)))),
        ("too large", tar_of((member("zeros"), bytes(80 * MIB)))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_56_archives_that_are_bombs_or_aim_elsewhere(attack, house, name, archive):
    """An archive that leaves the directory or does not fit is refused; nothing is outside, nothing is half there."""
    session = attack.session(limits={"disk_bytes": 64 * MIB})
    before = session.command(
        "find / -xdev -newermt @0 -not -path '/proc/*' -not -path '/usr/*' 2>/dev/null | sort"
    )["stdout"]
    memory = resident(house.process.pid)
    began = time.monotonic()
    answer = session.http.put(f"{session.path}/archive", content=archive)
    assert time.monotonic() - began < PROMPT
    assert (answer.status_code, code_of(answer)) in (
        (422, "invalid_path"),
        (422, "invalid_request"),
        (507, "disk_full"),
    )
    assert resident(house.process.pid) - memory < 160 * MIB
    after = session.command(
        "find / -xdev -newermt @0 -not -path '/proc/*' -not -path '/usr/*' 2>/dev/null | sort"
    )["stdout"]
    assert {line for line in after.splitlines() if not line.startswith("/workspace")} == {
        line for line in before.splitlines() if not line.startswith("/workspace")
    }
    session.command("rm -rf /workspace/*")
    assert session.execute("open('x', 'w').write('fits')")["outcome"] == "ok"


LEAVE = """
import os, pathlib, socket
for place in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/run/kernel", "/run", "/workspace", "/workspace/.local"):
    try:
        os.makedirs(place, exist_ok=True)
        pathlib.Path(place, "left-behind").write_text("trace")
    except OSError:
        pass
"""
LOOK = """
import os
found = [os.path.join(top, name) for place in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/workspace")
         for top, _, names in os.walk(place) for name in names]
print(sorted(set(found)))
"""


def test_57_leftovers_of_the_last_run(attack):
    """What one run leaves in every writable place is seen by no later one, session or other language."""
    clean = attack.run(LOOK)["stdout"]
    for _ in range(4):
        assert attack.run(LEAVE)["outcome"] == "ok"
        assert attack.run(LOOK)["stdout"] == clean
    session = attack.session()
    assert session.execute(LEAVE)["outcome"] == "ok"
    assert "left-behind" in session.execute(LOOK)["stdout"]
    assert "left-behind" not in attack.session().execute(LOOK)["stdout"]
    listing = "find /tmp /var/tmp /dev/shm /run /workspace -name left-behind"
    assert attack.run(listing, "bash")["stdout"] == ""


PLANT = """
import os, site, sys, sysconfig
text = "open('/tmp/planted-ran', 'w').write('x'); print('planted')\\n"
lib = sysconfig.get_paths()["purelib"]
places = [f"{lib}/sitecustomize.py", f"{lib}/usercustomize.py", f"{lib}/evil.pth", f"{lib}/json.py", sys.executable,
          os.path.realpath(sys.executable), "/usr/bin/env", "/bin/bash", "/usr/lib/x.so", "/etc/ld.so.preload", "/etc/profile",
          "/opt/codecell/lib/executor_service/guest/main.py", "/opt/codecell/lib/executor_service/guest/boot/sitecustomize.py"]
for place in places:
    for attack in (lambda: open(place, "w").write(text), lambda: os.unlink(place), lambda: os.rename("/tmp/x", place), lambda: os.chmod(place, 0o777)):
        try:
            open("/tmp/x", "w").write(text)
            attack()
            print("CHANGED", place)
        except OSError:
            pass
home = os.path.expanduser("~")
for place in (site.getusersitepackages() + "/sitecustomize.py", site.getusersitepackages() + "/usercustomize.py", site.getusersitepackages() + "/evil.pth",
              home + "/.ipython/profile_default/startup/00.py", home + "/.bashrc", home + "/.profile", home + "/.pythonrc", home + "/.local/bin/ls",
              home + "/.config/matplotlib/matplotlibrc", home + "/sitecustomize.py", home + "/json.py", home + "/pip.conf"):
    os.makedirs(os.path.dirname(place), exist_ok=True)
    open(place, "w").write("import os; " + text if place.endswith(".pth") else text)
    os.chmod(place, 0o755)
print("done")
"""


def test_58_planted_tools_and_startup_files(attack):
    """Tools and start-up files that a run overwrote or planted are the next run's problem never, and no tool is writable."""
    for _ in range(3):
        planted = attack.run(PLANT)
        assert (planted["outcome"], planted["stdout"]) == ("ok", "done\n"), planted
        seen = attack.run(
            "import json, os, subprocess\nprint(json.dumps(os.path.exists('/tmp/planted-ran')), subprocess.run(['ls', '-A'], text=True, capture_output=True).stdout)"
        )
        assert seen["stdout"] == "false main.py\n\n"
    session = attack.session()
    assert session.execute(PLANT)["stdout"] == "done\n"
    assert session.http.post(f"{session.path}/restart").status_code == 200
    assert session.execute("6 * 7")["result"] == {
        "text/plain": "42"
    }  # its own startup files cannot keep it from working
    other = attack.session()
    seen = other.execute("import os; print(os.path.exists('/tmp/planted-ran'), os.listdir('/workspace'))")
    assert seen["stdout"] == "False []\n"


def test_59_the_working_directory_is_gone_or_unreadable(attack):
    """Deleting or closing the workspace harms nobody else: runs end, sessions say what is wrong and can be mended."""
    ruin = "import os, shutil\nshutil.rmtree('/workspace', ignore_errors=True)\nos.chmod('/workspace', 0)\nprint('ruined')\n"
    ended = attack.run(ruin, collect=["**"])
    assert (ended["outcome"], ended["stdout"], ended["files"]) == ("ok", "ruined\n", [])
    session = attack.session()
    assert session.execute(ruin)["outcome"] == "ok"
    began = time.monotonic()
    for answer in (
        session.http.get(f"{session.path}/files"),
        session.http.put(url(session, "x"), content=b"x"),
        session.http.get(f"{session.path}/archive"),
        session.http.put(f"{session.path}/archive", content=tar_of((member("x"), b"x"))),
    ):
        assert (answer.status_code, code_of(answer)) == (422, "invalid_path")
    command = session.command("echo ran")
    assert command["outcome"] == "error"
    assert "ermission" in command["stderr"] + str(command["detail"])
    assert session.execute("1 + 1")["result"] == {"text/plain": "2"}
    assert session.execute("echo ran", language="bash")["outcome"] in ("ok", "error")
    assert session.http.post(f"{session.path}/restart").status_code in (200, 502)
    if session.http.get(session.path).status_code == 200:
        mended = session.command("chmod 755 /workspace && echo mended", cwd="/tmp")
        assert mended["stdout"] == "mended\n"
        assert session.http.put(url(session, "x"), content=b"x").status_code == 200
        assert session.execute("open('x').read()")["result"] == {"text/plain": "'x'"}
    assert time.monotonic() - began < 2 * PROMPT


WRITE_SYSTEM = """
import os, subprocess
targets = ["/x", "/etc/passwd", "/etc/x", "/usr/x", "/usr/bin/x", "/bin/sh", "/opt/x", "/opt/codecell/x", "/opt/codecell/env/x",
           "/var/x", "/dev/x", "/sys/x", "/run/x", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname",
           "/proc/sys/vm/drop_caches", "/proc/sys/user/max_inotify_instances", "/proc/sysrq-trigger", "/proc/1/oom_score_adj", "/proc/1/mem", "/proc/1/comm",
           "/proc/1/clear_refs", "/proc/irq/default_smp_affinity", "/sys/kernel/mm/transparent_hugepage/enabled"]
for target in targets:
    for flags in (os.O_WRONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_TRUNC):
        try:
            fd = os.open(target, flags)
        except OSError:
            continue
        try:
            os.write(fd, b"1")
            print("WROTE", target)
        except OSError:
            pass
    for change in (lambda: os.mkdir(target), lambda: os.chmod(target, 0o777), lambda: os.rename(target, "/tmp/x"), lambda: os.symlink("/tmp", target), lambda: os.utime(target, (1, 1))):
        try:
            change()
            print("CHANGED", target)
        except OSError:
            pass
# Anything else that says it is writable, outside of what a sandbox has for itself.
own = ("/workspace", "/tmp", "/dev/shm", "/dev/pts", "/run/kernel", "/run/codecell")
devices = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "stdin", "stdout", "stderr", "fd")}
for top, names, files in os.walk("/"):
    if top in own or top == "/proc":
        names[:] = []
        continue
    for name in [".", *files]:
        path = os.path.normpath(os.path.join(top, name))
        if path not in devices and not os.path.islink(path) and os.access(path, os.W_OK):
            print("WRITABLE", path)
print("done")
"""


def test_60_writes_to_system_paths(attack):
    """Nothing but the sandbox's own rooms can be written, from a run, a kernel or a command."""
    assert attack.run(WRITE_SYSTEM)["stdout"] == "done\n"
    session = attack.session()
    assert session.execute(WRITE_SYSTEM)["stdout"] == "done\n"
    session.http.put(url(session, "probe.py"), content=WRITE_SYSTEM.encode()).raise_for_status()
    assert session.command("python3 probe.py")["stdout"] == "done\n"


def test_61_a_large_download_is_streamed(attack, house):
    """100 MB go out in chunks to several slow readers at once while the service's memory stays as it was."""
    session = attack.session()
    session.execute("open('large', 'wb').write(bytes(100 * 1000 * 1000))")
    before, peak, over = resident(house.process.pid), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.01):
            peak = max(peak, resident(house.process.pid))

    def download(pause: float) -> int:
        taken = 0
        with httpx2.stream("GET", house.url + url(session, "large"), timeout=60) as response:
            for chunk in response.iter_bytes(4 * MIB):
                taken += len(chunk)
                time.sleep(pause)
        return taken

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor() as pool:
            assert list(pool.map(download, (0.0, 0.02, 0.05))) == [100_000_000] * 3
        with httpx2.stream("GET", f"{house.url}{session.path}/archive", timeout=60) as response:
            assert sum(len(chunk) for chunk in response.iter_bytes()) > 100_000_000
    finally:
        over.set()
        watcher.join()
    assert peak - before < 48 * MIB
