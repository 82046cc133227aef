"""The test support for PgBouncer: unpacking it, or giving the reason why not, and starting and stopping it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from rig.pgbouncer import ROOT, VERSIONS, PgBouncer
from rig.postgres import LaunchError, Postgres
from tests.servers.poolers import NEW, pooler

pytestmark = pytest.mark.servers

# The commands that the installer needs before it looks for apt.
TOOLS = ["sh", "mkdir", "rm", "grep", "tail", "tee", "id", "cat"]


def unpack(folder: Path, **environment: str) -> list[str]:
    """Run the installer and return the reasons that it wrote."""
    subprocess.run(
        ["sh", ROOT / "rig/pgbouncer.sh", folder], env={**os.environ, **environment}, check=True, timeout=100
    )
    return [(folder / f"pgbouncer-{version}/missing").read_text() for version in VERSIONS]


def test_the_installer_says_that_apt_is_missing(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in TOOLS:
        (tools / name).symlink_to(shutil.which(name) or name)
    reasons = unpack(tmp_path / "build", PATH=str(tools))
    assert reasons == [f"PgBouncer {version} cannot be had here: this machine has no apt\n" for version in VERSIONS]


@pytest.mark.skipif(not shutil.which("apt-get"), reason="this machine has no apt")
def test_the_installer_says_that_the_mirror_is_unreachable(tmp_path: Path) -> None:
    release = subprocess.run(
        ["sh", "-c", ". /etc/os-release && echo $VERSION_CODENAME"], capture_output=True, text=True, check=True
    ).stdout
    (tmp_path / "list").write_text(f"deb http://127.0.0.1:9/debian {release.strip()} main\n")
    (tmp_path / "conf").write_text(f'Dir::Etc::sourcelist "{tmp_path}/list"; Dir::Etc::sourceparts "-";')
    reasons = unpack(tmp_path / "build", APT_CONFIG=str(tmp_path / "conf"))
    assert all("cannot be had here: " in reason and "127.0.0.1" in reason for reason in reasons), reasons
    assert sorted(path.name for path in (tmp_path / "build").glob("*/*")) == ["missing"] * len(VERSIONS)


def test_a_missing_pgbouncer_skips_the_test_or_fails_it_in_ci(
    launched: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The skip names the reason; with CI=true it is a failure instead."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no PgBouncer 9\.9 here"), pooler("9.9", launched):
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="make pgbouncer"), pooler("9.9", launched):
        pass
    with pytest.raises(LaunchError, match=r"no PgBouncer 9\.9 here"), PgBouncer.launch("9.9", launched):
        pass


def test_pgbouncer_stops_starts_again_and_ends_with_its_block(launched: Postgres) -> None:
    with pooler(NEW, launched) as bouncer:
        folder = Path(bouncer.folder)
        assert takes_connections(bouncer.port)
        bouncer.stop()
        assert not takes_connections(bouncer.port)
        bouncer.start()
        assert takes_connections(bouncer.port) and "process up" in bouncer.log()
    assert not takes_connections(bouncer.port) and not folder.exists()


def test_an_unknown_setting_fails_the_launch(launched: Postgres) -> None:
    with pytest.raises(LaunchError, match="nonsense"), pooler(NEW, launched, nonsense=1):
        pass


def takes_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
