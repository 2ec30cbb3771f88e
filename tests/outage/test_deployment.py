"""Where SQLite does not work it is refused, with the reason: on a network file system, and from two hosts."""

from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from app.db import Database, refuse_network_file
from app.errors import ConfigurationError, Unavailable
from app.jobs import presence
from app.jobs.ids import new_id

LOCAL = "/dev/sda1 / ext4 rw,relatime 0 0\ntmpfs /tmp tmpfs rw 0 0\n"


@pytest.mark.parametrize(
    "line",
    [
        "files:/data /srv/share nfs4 rw 0 0",
        "files:/data /srv nfs rw 0 0",
        "//files/data /srv/share cifs rw 0 0",
        "me@files: /srv/share fuse.sshfs rw 0 0",
        "C:\\134 /srv/share 9p rw 0 0",
        "/dev/sdb /srv/share ext4 rw 0 0\nfiles:/data /srv/share ceph rw 0 0",
    ],
)
def test_sqlite_on_a_network_file_system_is_refused_in_one_line(line: str) -> None:
    with pytest.raises(ConfigurationError, match="network file system") as refused:
        refuse_network_file(make_url("sqlite:////srv/share/twofold.db"), f"{LOCAL}{line}\n")

    assert "/srv/share/twofold.db" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "mounts",
    [
        "",
        LOCAL,
        f"{LOCAL}files:/data /srv/other nfs4 rw 0 0\n",
        f"{LOCAL}files:/data /srv nfs4 rw 0 0\n/dev/sdb /srv/share xfs rw 0 0\n",
        "none / 9p rw 0 0\n",
        f"{LOCAL}files:/data /srv/share\\040of\\040ours nfs rw 0 0\n",
    ],
)
def test_sqlite_on_a_disk_of_this_machine_is_taken(mounts: str) -> None:
    refuse_network_file(make_url("sqlite:////srv/share/twofold.db"), mounts)


def test_the_mounts_of_this_machine_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"{LOCAL}files:/data {tmp_path} nfs rw 0 0\n")
    monkeypatch.setattr("app.db.MOUNTS", mounts)

    with pytest.raises(ConfigurationError):
        Database(make_url(f"sqlite:///{tmp_path}/twofold.db"))
    Database(make_url("postgresql+psycopg:///twofold"))


@pytest.mark.parametrize(
    ("host", "change", "is_refused"),
    [
        ("elsewhere", "pid = 1", True),
        ("here", "pid = 1", False),
        ("elsewhere", "stopped_at = seen_at", False),
        ("elsewhere", "seen_at = '2020-01-01T00:00:00.000Z'", False),
    ],
    ids=["lives elsewhere", "lives here", "has left", "died long ago"],
)
def test_a_live_runner_on_another_host_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch, host: str, change: str, is_refused: bool
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    with database.writing() as session:
        presence.register(session, new_id(), 1)
        session.execute(text(f"UPDATE runners SET {change}"))

    with database.reading() as session:
        if is_refused:
            with pytest.raises(Unavailable, match="elsewhere:1 uses this SQLite file, and this host is here"):
                presence.refuse_other_hosts(session, 60.0, "here")
        else:
            presence.refuse_other_hosts(session, 60.0, "here")
