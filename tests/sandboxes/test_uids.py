"""Host user ids are leased under a lock, never twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from executor_service.sandboxes.uids import SLOT, NoUidLeft, UidRange, configured_range


def test_two_services_never_lease_the_same_ids(tmp_path: Path):
    """Two ranges over one lock directory give disjoint slots."""
    one, two = UidRange(3_000_000, 4 * SLOT, tmp_path), UidRange(3_000_000, 4 * SLOT, tmp_path)
    leases = [one.lease(), two.lease(), one.lease(), two.lease()]
    assert len({lease.base for lease in leases}) == 4
    with pytest.raises(NoUidLeft):
        one.lease()
    leases[0].release()
    assert two.lease().base == leases[0].base


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (2_000_000, 65_536)),
        ("alice:100000:65536\n", (2_000_000, 65_536)),
        ("root:500000:65536\n", (500_000, 65_536)),
        ("codecell:700000:8192\nroot:x:y\n", (700_000, 8192)),
        ("root:500000:10\n", (2_000_000, 65_536)),
    ],
)
def test_the_range_comes_from_subuid(tmp_path: Path, text: str, expected: tuple[int, int]):
    """A sensible entry of ours, else the default."""
    file = tmp_path / "subuid"
    file.write_text(text)
    assert configured_range(file) == expected


def test_a_missing_subuid_gives_the_default(tmp_path: Path):
    """No file, no error."""
    assert configured_range(tmp_path / "none") == (2_000_000, 65_536)
