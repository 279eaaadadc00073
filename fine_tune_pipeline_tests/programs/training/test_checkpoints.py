"""Checkpoints are whole whatever happens between any two operations on files."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fine_tune_pipeline.programs.training.checkpoints import MANIFEST, Checkpoints, DamagedCheckpoint, NoRoomForCheckpoint, verify


def filled(text: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "weights").write_text(text * 100, encoding="utf-8")
        (folder / "deeper").mkdir()
        (folder / "deeper" / "state").write_text(text, encoding="utf-8")

    return fill


def state_of(checkpoint: Path) -> str:
    verify(checkpoint)
    return (checkpoint / "deeper" / "state").read_text(encoding="utf-8")


def test_the_newest_are_kept_in_order(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for text in "abcd":
        checkpoints.write(filled(text))
    assert [state_of(path) for path in checkpoints.all()] == ["c", "d"]
    assert [path.name for path in Checkpoints(tmp_path / "c", keep=2).all()] == ["000003", "000004"]


def test_a_forgotten_one_is_gone_and_its_number_may_come_again(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.forget(checkpoints.write(filled("a")))
    assert checkpoints.all() == []
    assert state_of(checkpoints.write(filled("b"))) == "b"


@pytest.mark.parametrize("harm", ["changed", "missing", "no manifest"])
def test_harm_is_found_and_named(harm: str, tmp_path: Path):
    checkpoint = Checkpoints(tmp_path, keep=1).write(filled("a"))
    name = MANIFEST if harm == "no manifest" else "deeper/state"
    if harm == "changed":
        (checkpoint / name).write_text("b", encoding="utf-8")
    else:
        (checkpoint / name).unlink()
    with pytest.raises(DamagedCheckpoint, match=f"{checkpoint}: .*{name}.*remove this folder"):
        verify(checkpoint)


def test_a_full_disk_leaves_nothing_of_the_new_and_all_of_the_old(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.write(filled("a"))

    def full(folder: Path) -> None:
        (folder / "half").write_text("half", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(NoRoomForCheckpoint, match=f"no room for a checkpoint in {tmp_path} .No space left on device"):
        checkpoints.write(full)
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]
    assert state_of(tmp_path / "000001") == "a"


class PowerLoss(BaseException):
    """The machine is off."""


class Machine:
    """Goes off before the operation on files of that number. Content that was not flushed is lost then."""

    OPERATIONS = ("mkdir", "replace", "fsync", "rmdir", "unlink")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, off_at: int) -> None:
        self.done = 0
        self.flushed: set[int] = set()
        self._off_at = off_at
        for name in self.OPERATIONS:
            monkeypatch.setattr(os, name, self._counting(getattr(os, name), name))

    def _counting(self, own: Callable[..., object], name: str) -> Callable[..., object]:
        def operation(*arguments: object, **options: object) -> object:
            if self.done == self._off_at:
                raise PowerLoss
            self.done += 1
            if name == "fsync":
                assert isinstance(arguments[0], int)
                self.flushed.add(os.fstat(arguments[0]).st_ino)
            return own(*arguments, **options)

        return operation

    def lose(self, folder: Path) -> None:
        """What was not flushed."""
        for path in folder.rglob("*"):
            if path.is_file() and path.stat().st_ino not in self.flushed:
                path.write_bytes(b"")


def lives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The states of the checkpoints that are found after power loss before every operation of writing the third of them, keep=2."""
    off_at = 0
    while True:
        place = folder / str(off_at)
        checkpoints = Checkpoints(place, keep=2)
        for text in "ab":
            checkpoints.write(filled(text))
        kept = {path.stat().st_ino for path in place.rglob("*")}
        with monkeypatch.context() as patch:
            machine = Machine(patch, off_at=off_at)
            machine.flushed |= kept
            try:
                checkpoints.write(filled("c"))
            except PowerLoss:
                went_off = True
            else:
                went_off = False
        machine.lose(place)
        yield [state_of(path) for path in Checkpoints(place, keep=2).all()]
        shutil.rmtree(place)
        if not went_off:
            return
        off_at += 1


def test_power_loss_between_any_two_operations_leaves_whole_checkpoints_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = list(lives(tmp_path, monkeypatch))
    assert len(seen) > 10
    assert all(states in (["a", "b"], ["a", "b", "c"], ["b", "c"]) for states in seen), seen
    assert seen[0] == ["a", "b"]
    assert seen[-1] == ["b", "c"]
