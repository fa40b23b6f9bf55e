"""The status file is always whole, and nobody takes back its last word."""

from __future__ import annotations

import json
from pathlib import Path

from hpcmpi.errors import Status
from hpcmpi.runner.status import StatusFile

ABOUT = {"run": "one", "ranks": [{"rank": 0, "host": "here", "pid": 1}, {"rank": 1, "host": "there", "pid": 2}]}


def read(folder: Path) -> dict[str, object]:
    assert [path.name for path in folder.iterdir()] == ["C.h5.status.json"], "something is left beside it"
    return json.loads((folder / "C.h5.status.json").read_text())


def test_states_from_start_to_end(tmp_path):
    file = StatusFile(tmp_path / "C.h5", ABOUT)
    file.phase("run", write=True)
    assert (read(tmp_path)["state"], read(tmp_path)["phase"]) == ("running", "run")
    for status, state in ((Status.DONE, "done"), (Status.WRONG, "wrong"), (Status.CHECKPOINTED, "checkpointed")):
        file = StatusFile(tmp_path / "C.h5", ABOUT | {"run": state, "started": "9"})
        file.end(status, "why")
        assert (read(tmp_path)["state"], read(tmp_path)["status"]) == (state, int(status))
    assert read(tmp_path)["reason"] == "why"


def test_rank_that_goes_on_for_a_moment_does_not_take_back_what_the_failed_one_wrote(tmp_path):
    first, failed = (StatusFile(tmp_path / "C.h5", ABOUT) for _ in range(2))
    first.phase("run", write=True)
    failed.phase("run", write=False)
    failed.end(Status.INTERNAL, "rank 1 (there): of nothing")
    first.phase("verify", write=True)
    assert (read(tmp_path)["state"], read(tmp_path)["phase"]) == ("failed", "run")


def test_next_job_replaces_the_word_of_the_one_before(tmp_path):
    StatusFile(tmp_path / "C.h5", ABOUT).end(Status.INTERNAL, "of nothing")
    StatusFile(tmp_path / "C.h5", ABOUT | {"run": "two"}).phase("run", write=True)  # in a container process ids recur
    assert read(tmp_path)["state"] == "running"


def test_run_that_lost_the_name_leaves_the_word_of_the_one_that_published(tmp_path):
    loser, winner = (StatusFile(tmp_path / "C.h5", ABOUT | {"run": run}) for run in ("one", "two"))
    loser.phase("run", write=True)
    winner.phase("run", write=True)
    winner.end(Status.DONE, "right")
    loser.phase("write", write=True)
    loser.end(Status.OUTPUT, "C.h5: exists")
    assert (read(tmp_path)["state"], read(tmp_path)["run"]) == ("done", "two")
    later = StatusFile(tmp_path / "C.h5", ABOUT | {"run": "three"})
    later._content["started"] = "9"
    later.phase("run", write=True)
    assert (read(tmp_path)["state"], read(tmp_path)["run"]) == ("running", "three")


def test_without_an_output_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = StatusFile(None, ABOUT)
    file.phase("run", write=True)
    file.end(Status.DONE)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_gone_is_no_reason_to_fail(tmp_path):
    file = StatusFile(tmp_path / "gone" / "C.h5", ABOUT)
    file.phase("run", write=True)
    file.end(Status.DONE)
    assert list(tmp_path.iterdir()) == []
