"""Where a result goes: through symbolic links, onto files with permissions, and beside other names of a file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcmpi.errors import OutputError
from hpcmpi.store import publication
from hpcmpi.store.publication import Writer

WRITER = Writer("job", 0)


def write(target: Path, content: str = "new", *, force: bool = True, writer: Writer = WRITER) -> None:
    """Reserve ``target``, fill the partial file and publish it."""
    place = publication.place(target, writer)
    publication.reserve(place, writer, force=force)
    place.partial.write_text(content)
    publication.publish(place, writer, force=force)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def other(tmp_path):
    """Another folder, to which links lead."""
    folder = tmp_path / "other"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("relative", [True, False])
def test_link_stays_and_its_target_is_written(tmp_path, other, exists, relative):
    link, target = tmp_path / "out.h5", other / "real.h5"
    link.symlink_to("other/real.h5" if relative else target)
    if exists:
        target.write_text("old")
    place = publication.place(link, WRITER)
    publication.reserve(place, WRITER, force=exists)
    assert place.partial.parent == other.resolve()
    assert {path.name for path in tmp_path.iterdir()} == {"out.h5", "other"}
    place.partial.write_text("new")
    publication.publish(place, WRITER, force=exists)
    assert link.is_symlink()
    assert target.read_text() == link.read_text() == "new"
    assert [path.name for path in other.iterdir()] == ["real.h5"]


def test_chain_of_links_and_a_link_in_the_path_lead_to_one_file(tmp_path, other):
    (tmp_path / "a.h5").symlink_to("b.h5")
    (tmp_path / "b.h5").symlink_to("through/real.h5")
    (tmp_path / "through").symlink_to("other")
    write(tmp_path / "a.h5")
    assert (other / "real.h5").read_text() == "new"
    assert all((tmp_path / name).is_symlink() for name in ("a.h5", "b.h5", "through"))


def test_existing_target_of_a_link_is_refused_without_force(tmp_path, other):
    (other / "real.h5").write_text("old")
    (tmp_path / "out.h5").symlink_to("other/real.h5")
    with pytest.raises(OutputError, match=r"out\.h5: exists; --force replaces it"):
        write(tmp_path / "out.h5", force=False)
    assert (other / "real.h5").read_text() == "old"


def test_links_that_lead_nowhere_are_named(tmp_path, other):
    loop, folder, lost = (tmp_path / name for name in ("loop.h5", "folder.h5", "lost.h5"))
    loop.symlink_to("loop2.h5")
    (tmp_path / "loop2.h5").symlink_to("loop.h5")
    folder.symlink_to("other")
    lost.symlink_to("missing/real.h5")
    with pytest.raises(OutputError, match=r"loop\.h5: is a symbolic link that leads back to itself"):
        write(loop)
    with pytest.raises(OutputError, match=rf"folder\.h5: is a folder, not a file \(a symbolic link to {other}\)"):
        write(folder)
    with pytest.raises(OutputError, match=r"lost\.h5: no such folder: .*missing \(a symbolic link to .*real\.h5\)"):
        write(lost)
    assert {path.name for path in tmp_path.iterdir()} == {"loop.h5", "loop2.h5", "folder.h5", "lost.h5", "other"}


def test_link_to_another_file_system_is_followed(tmp_path):
    shared = Path("/dev/shm")  # noqa: S108 - a file system that every machine with MPI has
    if shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("the temporary folder is in the same file system")
    target = shared / f"hpcmpi-test-{os.getpid()}.h5"
    (tmp_path / "out.h5").symlink_to(target)
    try:
        write(tmp_path / "out.h5")
        assert target.read_text() == "new"
        assert (tmp_path / "out.h5").is_symlink()
    finally:
        target.unlink(missing_ok=True)


def test_result_that_lost_the_name_is_kept_beside_the_target_of_the_link(tmp_path, other):
    (tmp_path / "out.h5").symlink_to("other/real.h5")
    place = publication.place(tmp_path / "out.h5", WRITER)
    publication.reserve(place, WRITER, force=False)
    place.partial.write_text("late")
    (other / "real.h5").write_text("first")
    with pytest.raises(OutputError, match=r"this run's result is in .*real\.job\.0\.h5"):
        publication.publish(place, WRITER, force=False)
    assert (other / "real.h5").read_text() == "first"
    assert (other / "real.job.0.h5").read_text() == "late"


@pytest.mark.parametrize("before", [0o600, 0o640, 0o444, 0o664])
def test_replaced_file_keeps_its_permissions(tmp_path, before):
    target = tmp_path / "out.h5"
    target.write_text("old")
    target.chmod(before)
    place = publication.place(target, WRITER)
    publication.reserve(place, WRITER, force=True)
    assert mode(place.partial) == before | 0o600, "what grows is readable for others than the old file, or not writable"
    place.partial.write_text("new")
    publication.publish(place, WRITER, force=True)
    assert (target.read_text(), mode(target)) == ("new", before)


def test_later_attempt_keeps_the_permissions_too(tmp_path):
    target = tmp_path / "out.h5"
    with h5py.File(target, "w") as file:
        file.create_group("sort").attrs.update({"job": "7", "attempt": 0, "written_by": "hpcmpi"})
    target.chmod(0o600)
    write(target, force=False, writer=Writer("7", 1))
    assert mode(target) == 0o600


def test_new_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "out.h5")
    finally:
        os.umask(before)
    assert mode(tmp_path / "out.h5") == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_replaced_file_keeps_its_owner_and_group(tmp_path):
    target = tmp_path / "out.h5"
    target.write_text("old")
    os.chown(target, 4321, 8765)
    target.chmod(0o660)
    write(target)
    about = target.stat()
    assert (about.st_uid, about.st_gid, mode(target)) == (4321, 8765, 0o660)


def test_group_that_cannot_be_kept_gets_no_more_than_everybody(tmp_path, monkeypatch):
    def refuse(*_arguments: object) -> None:
        raise PermissionError

    target = tmp_path / "out.h5"
    target.write_text("old")
    target.chmod(0o664)
    found = target.stat()
    monkeypatch.setattr(os, "fchown", refuse)
    monkeypatch.setattr(Path, "stat", lambda *_, **__: os.stat_result([*found[:5], found.st_gid + 1, *found[6:]]))
    descriptor = os.open(tmp_path / "partial", os.O_CREAT | os.O_WRONLY)
    try:
        publication._inherit(target, descriptor)
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o644
    finally:
        os.close(descriptor)


def test_other_hard_links_keep_the_old_content(tmp_path):
    target, second = tmp_path / "out.h5", tmp_path / "second.h5"
    target.write_text("old")
    second.hardlink_to(target)
    write(target)
    assert (target.read_text(), second.read_text()) == ("new", "old")


@pytest.mark.parametrize("dangling", [True, False])
def test_a_job_writes_through_a_link_and_its_status_lies_beside_the_name_given(hpcmpi, tmp_path, other, dangling):
    (tmp_path / "out.h5").symlink_to("other/real.h5")
    if not dangling:
        (other / "real.h5").write_text("old")
        (other / "real.h5").chmod(0o600)
    run = hpcmpi(2, "reduce", "--n", 100, "-o", "out.h5", *["--force"] * (not dangling))
    assert run.returncode == 0, run.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"out.h5", "out.h5.status.json", "other"}
    assert [path.name for path in other.iterdir()] == ["real.h5"]
    assert (tmp_path / "out.h5").is_symlink()
    assert dangling or mode(other / "real.h5") == 0o600
    with h5py.File(other / "real.h5") as file:
        assert file["reduce"].attrs["complete"]
    assert hpcmpi(0, "show", "out.h5").returncode == 0


def test_converted_graph_is_written_through_a_link(hpcmpi, tmp_path, other):
    (tmp_path / "edges.txt").write_text("0 1\n1 2\n")
    (tmp_path / "graph.h5").symlink_to("other/real.h5")
    run = hpcmpi(2, "graph", "convert", "edges.txt", "graph.h5")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "graph.h5").is_symlink()
    with h5py.File(other / "real.h5") as file:
        np.testing.assert_array_equal(file["graph/indptr"], [0, 1, 3, 4])


def test_output_whose_links_lead_in_a_circle_is_refused_before_computing(hpcmpi, tmp_path):
    (tmp_path / "out.h5").symlink_to("out.h5")
    run = hpcmpi(2, "reduce", "--n", 100, "-o", "out.h5")
    assert run.returncode == 73
    assert run.stderr == "hpcmpi: error: out.h5: is a symbolic link that leads back to itself, not to a file\n"
