"""Hostile programs, cases 45 and 46: the disk, in bytes and in files."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.hostile

MiB = 1 << 20
FILL_BYTES = """
import os
for place in ('/workspace', '/tmp', '/dev/shm'):
    with open(f'{place}/full', 'wb', buffering=0) as file:
        size = 0
        try:
            while True:
                size += file.write(bytes(1 << 16))
        except OSError as error:
            print(place, error.strerror, size <= 16 << 20)
"""
FULL = "".join(f"{place} No space left on device True\n" for place in ("/workspace", "/tmp", "/dev/shm"))
FILL_FILES = """
import os
count = 0
try:
    while True:
        os.mkdir(f'd{count}') if count % 2 else open(f'f{count}', 'w').close()
        count += 1
except OSError as error:
    print(error.strerror, 1000 < count < 10_000)
"""


def test_45_disk_filled_by_a_run(attack):
    """Each place has its size; past it there is an error in the program, and the run ends as it likes."""
    ran = attack.run(FILL_BYTES, limits={"disk_bytes": 16 * MiB}, collect=["*"])
    assert (ran["outcome"], ran["stdout"]) == ("ok", FULL)
    assert [each["path"] for each in ran["files_omitted"]] == ["full"]


def test_45_disk_filled_in_a_session(attack):
    """A full disk refuses uploads as `disk_full`; executions and commands go on, and deleting frees it."""
    session = attack.session(limits={"disk_bytes": 16 * MiB})
    ran = session.execute(FILL_BYTES)
    assert (ran["outcome"], ran["stdout"]) == ("ok", FULL)
    refused = attack.http.put(f"{session.path}/files/upload", content=b"x" * MiB)
    assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"
    assert session.command("echo alive")["stdout"] == "alive\n"
    assert session.execute("import tempfile\ntempfile.TemporaryFile()")["outcome"] in ("ok", "error")
    # A kernel may need a little room to start; a caller can always make some.
    restarted = attack.http.post(f"{session.path}/restart")
    assert restarted.status_code in (200, 502), restarted.text
    for path in ("full", "%2Ftmp/full", "%2Fdev/shm/full"):
        assert attack.http.delete(f"{session.path}/files/{path}").status_code == 204
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"
    assert attack.http.put(f"{session.path}/files/upload", content=b"x" * MiB).status_code == 200


def test_45_sparse_promises_and_deleted_files(attack):
    """Space of a deleted file that is still open counts; reserving more than there is fails."""
    code = """
import os
fd = os.open('x', os.O_RDWR | os.O_CREAT)
os.unlink('x')
try:
    os.posix_fallocate(fd, 0, 1 << 30)
except OSError as error:
    print(error.strerror)
try:
    while True:
        os.write(fd, bytes(1 << 16))
except OSError as error:
    print(error.strerror)
try:
    open('y', 'wb', buffering=0).write(bytes(1 << 16))
except OSError as error:
    print(error.strerror)
"""
    ran = attack.run(code, limits={"disk_bytes": 16 * MiB})
    assert (ran["outcome"], ran["stdout"]) == ("ok", "No space left on device\n" * 3)


def test_46_inodes_exhausted_by_a_run(attack):
    """So many files and directories, and not more; the run's outcome still comes."""
    ran = attack.run(FILL_FILES, limits={"disk_bytes": 16 * MiB, "wall_time": 60}, collect=["**/f*"])
    assert (ran["outcome"], ran["stdout"]) == ("ok", "No space left on device True\n")
    assert len(ran["files"]) <= 100


def test_46_inodes_exhausted_in_a_session(attack):
    """Without a free inode uploads are `disk_full`, listings work, and deleting frees it."""
    session = attack.session(limits={"disk_bytes": 16 * MiB})
    ran = session.execute(FILL_FILES, limits={"wall_time": 60})
    assert (ran["outcome"], ran["stdout"]) == ("ok", "No space left on device True\n")
    assert len(ran["files"]) <= 1000
    assert ran["files_truncated"] is True
    refused = attack.http.put(f"{session.path}/files/upload", content=b"x")
    assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")
    assert len(attack.http.get(f"{session.path}/files").json()["items"]) > 1000
    assert session.execute("1 + 1")["result"]["text/plain"] == "2"
    assert attack.http.delete(f"{session.path}/files/f0").status_code == 204
    assert attack.http.put(f"{session.path}/files/upload", content=b"x").status_code == 200
