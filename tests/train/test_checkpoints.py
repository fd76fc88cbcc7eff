"""Checkpoints cannot lie: whatever is changed in one is named and the one before is taken, or
changes nothing.
"""

import os
import random
import resource
import shutil
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import torch.distributed.checkpoint as dcp

from flowportrait.errors import CheckpointError, TrainingError
from flowportrait.train import checkpoint, digests
from flowportrait.train.checkpoint import Checkpoints, load, newest_whole
from flowportrait.train.parallel import Ranks
from flowportrait.train.run import Run, RunConfig, Turn

ALONE = Ranks()


def state_of(update):
    """Weights, moments and words, all of them functions of the update."""
    rng = torch.Generator().manual_seed(update)
    draw = lambda *shape: torch.randn(shape, generator=rng)  # noqa: E731
    return {
        "module": {"w": draw(40, 3), "b": draw(3).bfloat16()},
        "told": f"update {update}",
        "optimizer": {"state.w.exp_avg": draw(40, 3)},
    }


def flat(state):
    return {
        name: value
        for part in state.values()
        if isinstance(part, dict)
        for name, value in part.items()
    }


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints of updates 1 and 2."""
    checkpoints = Checkpoints(tmp_path, ALONE)
    for update in (1, 2):
        checkpoints.save(update, state_of(update))
    return tmp_path


def taken_from(run):
    """The update whose state resuming gives, with what was said of newer ones."""
    path, broken = newest_whole(run, ALONE)
    update = int(path.name[-7:])
    state = state_of(0)
    load(path, state, ALONE)
    assert state["told"] == f"update {update}"
    got, wanted = flat(state), flat(state_of(update))
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    return update, broken


def test_what_was_saved_comes_back(run):
    assert taken_from(run) == (2, [])


@pytest.mark.parametrize("count", [1, 64])
def test_flipped_bytes_are_named_or_harmless(run, count):
    """In every file of a checkpoint, at random places."""
    rng, refused = random.Random(count), 0
    files = sorted(path for path in (run / "checkpoint-0000002").iterdir())
    assert {path.name for path in files} == {".metadata", "__0_0.distcp", "digests.json"}
    for path in files:
        whole = path.read_bytes()
        for _ in range(40):
            content = bytearray(whole)
            for at in rng.sample(range(len(whole)), count):
                content[at] ^= rng.randint(1, 255)
            path.write_bytes(content)
            update, broken = taken_from(run)
            if update == 1:
                refused += 1
                assert broken[0][0].name == "checkpoint-0000002" and "\n" not in broken[0][1]
                assert path.name in broken[0][1] or path.name == "digests.json"
        path.write_bytes(whole)
    assert refused > 100 and taken_from(run) == (2, [])


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "digests.json"])
def test_missing_and_cut_off_files_are_named(run, name):
    path = run / "checkpoint-0000002" / name
    whole = path.read_bytes()
    for keep in (0, 1, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:keep])
        update, broken = taken_from(run)
        assert update == 1 and name in broken[0][1]
    path.unlink()
    update, broken = taken_from(run)
    assert update == 1 and broken[0][1] == f"{name} is not there"


def test_without_a_whole_one_the_run_does_not_begin_anew(run):
    for path in run.glob("checkpoint-*/__0_0.distcp"):
        path.write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"checkpoint-0000002: is incomplete \(__0_0.distcp is not what was"
    ):
        newest_whole(run, ALONE)


def test_the_last_ones_are_kept_and_what_was_left_behind_goes(run):
    checkpoints = Checkpoints(run, ALONE, kept=2)
    for update in (3, 9):
        checkpoints.save(update, state_of(update))
    assert [path.name[-1] for path in checkpoint.all_of(run)] == ["9", "3"]
    # 9 was damaged, and the run went on from 3.
    checkpoints.save(4, state_of(4))
    assert [path.name[-1] for path in checkpoint.all_of(run)] == ["4", "3"]
    checkpoints.save(4, state_of(4))
    assert {path.name for path in run.iterdir()} == {"checkpoint-0000003", "checkpoint-0000004"}


def test_a_checkpoint_from_before_there_were_digests(tmp_path):
    """It is read; what can be seen to be wrong with it is named."""
    for update in (1, 2):
        dcp.save(
            state_of(update), checkpoint_id=tmp_path / f"checkpoint-{update:07d}", no_dist=True
        )
    assert taken_from(tmp_path) == (2, [])
    path = tmp_path / "checkpoint-0000002" / "__0_0.distcp"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert taken_from(tmp_path)[0] == 1
    path.write_bytes(bytes(len(whole)))
    with pytest.raises(
        CheckpointError, match=r"checkpoint-0000002: cannot be read \(.*\); give another --resume"
    ):
        load(path.parent, state_of(0), ALONE)
    path.unlink()
    assert taken_from(tmp_path)[1][0][1] == "__0_0.distcp is not there"
    path.write_bytes(whole)
    (path.parent / ".metadata").write_bytes(b"\x80")
    assert taken_from(tmp_path)[0] == 1


def test_written_beside_the_training_it_is_the_state_of_its_update(tmp_path):
    checkpoints, state = Checkpoints(tmp_path, ALONE, beside=True), state_of(1)
    checkpoints.save(1, state)
    for value in flat(state).values():
        value.zero_()  # training goes on
    checkpoints.save(2, state_of(2))
    checkpoints.wait()
    assert taken_from(tmp_path) == (2, [])
    shutil.rmtree(tmp_path / "checkpoint-0000002")
    assert taken_from(tmp_path) == (1, [])


def test_a_disk_without_room_is_named_before_anything_is_written(run, monkeypatch):
    usage = shutil.disk_usage(run)._replace(free=500)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        CheckpointError,
        match=rf"{run}: a checkpoint needs 0.0 MB, 0.0 MB are free; free some space",
    ):
        Checkpoints(run, ALONE).save(3, state_of(3))
    assert taken_from(run) == (2, [])


@contextmanager
def files_of_at_most(num_bytes):
    """Writing more into a file fails as on a full disk, with another word."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("beside", [False, True])
def test_a_disk_that_fills_up_in_writing_is_named(run, beside):
    checkpoints = Checkpoints(run, ALONE, beside=beside)
    with (
        files_of_at_most(3000),
        pytest.raises(
            CheckpointError,
            match=(
                rf"{run}: the checkpoint of update 3 cannot be written \(.+\); it needs .* are"
                r" free; free some space or lower "
                "run.checkpoints_kept, and resume with --resume auto"
            ),
        ),
    ):
        checkpoints.save(3, state_of(3))
        checkpoints.wait()
    assert {path.name for path in run.iterdir()} == {"checkpoint-0000001", "checkpoint-0000002"}
    checkpoints.save(3, state_of(3))
    checkpoints.wait()
    assert taken_from(run) == (3, [])


def test_its_files_are_for_whom_the_user_says(tmp_path):
    before = os.umask(0o027)
    try:
        Checkpoints(tmp_path, ALONE).save(1, state_of(1))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*/*")} == {0o640}


def test_a_digest_names_every_file(run):
    named = digests.Digests.model_validate_json(
        (run / "checkpoint-0000002" / "digests.json").read_text()
    ).files
    assert set(named) == {".metadata", "__0_0.distcp"}


def test_updates_minutes_and_a_signal_bring_a_checkpoint(tmp_path):
    config = RunConfig(directory=tmp_path, num_updates=10, checkpoint_every=5, checkpoint_minutes=1)
    run, written = Run(config, config), []
    assert run.turn(0, 1) == Turn(stops=False, saves=False)
    assert run.turn(4, 5).saves and run.turn(3, 6).saves
    run._saved_at -= 61
    assert run.turn(1, 2).saves
    run.save(SimpleNamespace(save=written.append))
    assert written == [run.checkpoints] and not run.turn(1, 2).saves
    with run.stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
    assert run.turn(1, 2) == Turn(stops=True, saves=True)
    assert run.turn(9, 10) == Turn(stops=False, saves=True)  # at its end it ends anyway


def test_a_log_that_cannot_be_written_is_one_line(tmp_path):
    config = RunConfig(directory=tmp_path, num_updates=1)
    run = Run(config, config)
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(
        TrainingError,
        match=r"log.jsonl: cannot be written \(.+\); free some space, and resume with",
    ):
        run.log(update=1)
