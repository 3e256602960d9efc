"""Saving and restoring in order: round trips, which checkpoints stay, foreign files, configs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.checkpoints.manager import Checkpoints
from experiments.errors import CheckpointError
from tests.helpers.checkpoint_states import PHASES, bits, make_state, odd_state, small_state


def names(workdir: Path) -> list[str]:
    return sorted(entry.name for entry in (workdir / "checkpoints").iterdir())


@pytest.mark.parametrize("phase", ["odd", *PHASES])
def test_a_state_comes_back_bit_for_bit(tmp_path: Path, phase: str) -> None:
    state = odd_state() if phase == "odd" else make_state(3, phase)
    info = {"seconds": 1.25, "metrics": {"loss": [0.1, None]}, "phase": "normal"}
    writer = Checkpoints(tmp_path)
    writer.save(12, state, info)
    writer.close()
    found = Checkpoints(tmp_path).restore_latest(state)
    assert found is not None
    assert bits(found[0]) == bits(state)
    assert found[1:] == (info, [])


def test_an_empty_folder_has_nothing_to_restore(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "new" / "run")
    assert checkpoints.steps() == []
    assert checkpoints.restore_latest(small_state(0)) is None


@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_checkpoints_stay(tmp_path: Path, keep: int) -> None:
    checkpoints = Checkpoints(tmp_path, keep=keep)
    for step in (0, 9, 10, 100):
        checkpoints.save(step, small_state(step), {})
    assert checkpoints.steps() == [0, 9, 10, 100][-keep:]
    assert len(names(tmp_path)) == keep
    found = checkpoints.restore_latest(small_state(0))
    assert found is not None
    assert bits(found[0]) == bits(small_state(100))


def test_a_save_does_not_remove_itself(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (7, 3):
        checkpoints.save(step, small_state(step), {})
    assert checkpoints.steps() == [3, 7]


def test_keep_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Checkpoints(tmp_path, keep=0)


def test_a_second_save_of_a_step_replaces_the_first(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, small_state(1), {"phase": "before the ticket"})
    checkpoints.save(5, small_state(2), {"phase": "after it"})
    found = checkpoints.restore_latest(small_state(0))
    assert found is not None
    assert bits(found[0]) == bits(small_state(2))
    assert found[1:] == ({"phase": "after it"}, [])
    assert names(tmp_path) == ["5"]


def test_a_save_that_was_killed_is_undone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, small_state(step), {})
    folder = tmp_path / "checkpoints"
    (folder / "2").rename(folder / "2.replaced")
    shutil.copytree(folder / "3", folder / "3.replaced")
    shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp-17")
    assert Checkpoints(tmp_path, primary=False).steps() == [1, 3]
    assert Checkpoints(tmp_path).steps() == [1, 2, 3]
    assert names(tmp_path) == ["1", "2", "3"]


def test_foreign_files_are_neither_read_nor_touched(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    (folder / "notes").mkdir(parents=True)
    (folder / "99").write_text("a file")
    (folder / "backup.replaced").write_text("not ours")
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 2):
        checkpoints.save(step, small_state(step), {})
    assert checkpoints.steps() == [2]
    assert names(tmp_path) == ["2", "99", "backup.replaced", "notes"]
    with pytest.raises(CheckpointError, match=r"99.*the checkpoint of step 2 is intact$"):
        checkpoints.save(99, small_state(99), {})
    assert (folder / "99").read_text() == "a file"


def a_file(path: Path) -> None:
    path.write_text("a file")


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def a_folder_of_another_name(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("99", a_file),
        ("007", a_file),
        ("99", a_dangling_link),
        ("2", a_dangling_link),
        ("007", a_folder_of_another_name),
        ("00", a_folder_of_another_name),
        ("\u0663", a_folder_of_another_name),
        ("\u00b2", a_folder_of_another_name),
    ],
)
def test_what_is_no_checkpoint_but_has_a_number_for_its_name_is_named(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, small_state(1), {})
    make(tmp_path / "checkpoints" / name)
    what = make.__name__.replace("_", " ")
    with pytest.raises(CheckpointError, match=rf"^no folder of a step .*: {name} \({what}\); move"):
        checkpoints.restore_latest(small_state(1))
    assert checkpoints.steps() == [1]


@pytest.mark.parametrize(
    "name", ["2.orbax-checkpoint-tmp", "2.orbax-checkpoint-tmp-3", "1.replaced", "1.damaged"]
)
def test_links_under_temporary_names_are_not_followed(tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("a stranger's")
    checkpoints = Checkpoints(tmp_path)
    for step in (0, 1):
        checkpoints.save(step, small_state(step), {})
    (tmp_path / "checkpoints" / name).symlink_to(elsewhere)
    checkpoints = Checkpoints(tmp_path)
    (tmp_path / "checkpoints" / "1" / "state.npz").write_bytes(b"damaged")
    assert checkpoints.restore_latest(small_state(1))[1] == {}
    checkpoints.save(2, small_state(2), {})
    assert names(tmp_path) == ["0", "1.damaged", "2"]
    assert not (tmp_path / "checkpoints" / "1.damaged").is_symlink()
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"^cannot write to .*run/checkpoints: [^\n]+$"):
        Checkpoints(tmp_path / "file" / "run")


def test_a_reader_does_not_write(tmp_path: Path) -> None:
    reader = Checkpoints(tmp_path / "run", primary=False)
    reader.save(1, small_state(1), {})
    assert reader.steps() == []
    assert reader.restore_latest(small_state(1)) is None
    assert not (tmp_path / "run").exists()


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(TypeError, match="set is not JSON"):
        checkpoints.save(1, small_state(1), {"classes": {1, 2}})
    assert names(tmp_path) == []
