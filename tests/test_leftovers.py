"""What ended jobs leave on a node is told from what running ones use, and from what others own."""

from __future__ import annotations

import mmap
import os
import tempfile

import pytest

from hpcmpi import leftovers, processes

SEGMENT = "mpich_shm_1a2b3c_0"


@pytest.fixture
def node(tmp_path, monkeypatch):
    """Folders for shared memory and for temporary files."""
    shared, temporary = tmp_path / "shm", tmp_path / "tmp"
    shared.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(leftovers, "_SHARED", shared)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return shared, temporary


def make(path, *, old=True):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(8192))
    if old:
        os.utime(path, (1, 1))
    return path


def make_folder(path):
    make(path / "file")
    os.utime(path, (1, 1))
    return path


def test_files_of_ended_jobs_are_found_with_their_sizes_and_removed(node):
    shared, temporary = node
    names = [SEGMENT, "mpich_shm_0_1", "sm_segment.node7.1000.fe6d0001.0", "hpcmpi-123-456"]
    files = [make(shared / name) for name in names]
    files.append(make(temporary / "hpcmpi-roll-call-123-456789"))
    folders = [make_folder(temporary / name) for name in ("ompi.4242", "prte.node7.1000")]
    found = leftovers.stale()
    assert {one.path for one in found} == {*files, *folders}
    assert all(one.nbytes >= 8192 for one in found)
    assert leftovers.remove_stale() == found
    assert not [*shared.iterdir(), *temporary.iterdir()]
    assert leftovers.remove_stale() == []


def test_files_in_use_young_ones_and_those_of_other_names_stay(node):
    shared, temporary = node
    kept = [make(shared / SEGMENT, old=False), make(shared / "mpich_shm_notes"), make(shared / "sem.other")]
    kept += [make(temporary / "hpcmpi-results.h5"), make(temporary / "hpcmpi-scratchy")]
    with make(shared / "mpich_shm_2_0").open("r+b") as file, mmap.mmap(file.fileno(), 0):
        file.close()  # mapped, no longer open
        with make(temporary / "hpcmpi-scratch-abcd1234").open(), make(temporary / "ompi.7" / "data").open():
            os.utime(temporary / "ompi.7", (1, 1))
            assert leftovers.stale() == []
    assert {one.path.name for one in leftovers.stale()} == {"mpich_shm_2_0", "hpcmpi-scratch-abcd1234", "ompi.7"}
    leftovers.remove_stale()
    assert sorted(path for folder in node for path in folder.iterdir()) == sorted(kept)


def test_link_to_a_folder_is_removed_and_not_what_it_leads_to(node, tmp_path):
    precious = make_folder(tmp_path / "precious")
    link = node[1] / "ompi.1"
    link.symlink_to(precious)
    os.utime(link, (1, 1), follow_symlinks=False)
    leftovers.remove_stale()
    assert not link.is_symlink()
    assert (precious / "file").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_files_of_other_users_stay(node):
    path = make(node[0] / SEGMENT)
    os.chown(path, 4321, -1)
    os.utime(path, (1, 1))
    assert leftovers.stale() == []


def test_doctor_lists_and_cleans(hpcmpi, tmp_path):
    folder = make_folder(tmp_path / "ompi.4242")
    listed = hpcmpi(0, "doctor", TMPDIR=str(tmp_path))
    assert listed.returncode == 0, listed.stderr
    assert str(folder) in listed.stdout.replace("\n", "").replace(" ", "")
    assert "hpcmpi doctor --clean" in listed.stdout
    assert folder.exists()
    cleaned = hpcmpi(2, "doctor", "--clean", TMPDIR=str(tmp_path))
    assert cleaned.returncode == 0, cleaned.stderr
    assert "Removed" in cleaned.stdout
    assert not folder.exists()


def test_a_process_is_told_from_another_that_got_its_id():
    pid, started = os.getpid(), processes.birth(os.getpid())
    assert started == processes.birth(pid)
    assert processes.is_alive(pid, started)
    assert not processes.is_alive(pid, "another-1")
    assert processes.send(pid, started, 0)
    assert not processes.send(pid, "another-1", 9)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert processes.birth(child) == ""  # a zombie has ended
    os.waitpid(child, 0)
    assert processes.birth(child) == ""
