"""Text files that are never half written."""

import os
import resource

import pytest

from experiments.records.atomic import write_text


def test_a_file_is_replaced_in_one_piece(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file.json"
    assert write_text(path, "old") == path
    replace, seen = os.replace, []

    def watched(source, target):
        seen.append((path.read_text(), source.read_text()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_text(path, "new é")
    assert seen == [("old", "new é")]
    assert path.read_text(encoding="utf-8") == "new é"
    assert [found.name for found in path.parent.iterdir()] == ["file.json"]


def test_a_full_disk_leaves_the_old_file_and_is_named(tmp_path):
    path = write_text(tmp_path / "file", "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{path}'"):
            write_text(path, "x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "folder").write_text("a file in the way")
    with pytest.raises(FileExistsError, match="/folder'"):
        write_text(tmp_path / "folder" / "file", "text")


def test_a_name_that_is_taken_is_named(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError, match="/file'"):
        write_text(tmp_path / "file", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
