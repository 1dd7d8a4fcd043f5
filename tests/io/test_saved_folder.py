"""The folder appears whole or not at all, and nothing of anybody else's is touched."""

import errno
import hashlib
import json
import os
from dataclasses import replace

import pytest
from saved import outputs, quantized

import ribs
from ribs.io import folder as files
from small import in_children, loader, network, search


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def result():
    return quantized(network(), loader()[0], 4)


def test_a_saved_folder_is_replaced(result, tmp_path):
    quantized(network(), loader()[0], 8).save(tmp_path / "a")
    result.save(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]
    assert ribs.load(tmp_path / "a", network()).bits == result.bits


def test_parents_are_made_and_empty_folders_and_links_used(result, tmp_path):
    result.save(tmp_path / "x" / "y")
    (tmp_path / "empty").mkdir()
    result.save(tmp_path / "empty")
    (tmp_path / "link").symlink_to(tmp_path / "x" / "y", target_is_directory=True)
    result.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "x" / "y") == content(tmp_path / "empty") == content(tmp_path / "link")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ([""], "is a file; give a folder"),
        (["notes.txt"], "holds 'notes.txt', which ribs did not write"),
        (["result.json", "weights.safetensors"], "is not one that ribs wrote"),
        (["weights.safetensors"], "is not one that ribs wrote"),
    ],
)
def test_what_is_not_ours_is_refused_and_stays(names, what, result, tmp_path):
    for name in names:
        path = tmp_path / "a" / name if name else tmp_path / "a"
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    with pytest.raises(FileExistsError, match=what):
        result.save(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]
    assert all((tmp_path / "a" / name if name else tmp_path / "a").read_text() == "{}" for name in names)


def test_ours_with_a_file_of_the_users_is_refused(result, tmp_path):
    result.save(tmp_path / "a")
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="'notes"):
        result.save(tmp_path / "a")


def save_until(number, fail, result, folder):
    """Save, with `fail` in the place of one of the calls that change the disk; whether there was such a call."""
    calls = []

    def instead(original):
        def call(*arguments, **named):
            calls.append(original)
            return fail() if len(calls) == number + 1 else original(*arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdir", "fsync", "rename"):
            patch.setattr(os, name, instead(getattr(os, name)))
        result.save(folder)
    return len(calls) > number


def no_room():
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize("fail", [no_room, interrupted])
def test_what_fails_leaves_what_was_there(fail, result, tmp_path):
    old = quantized(network(), loader()[0], 8)
    old.save(tmp_path / "a")
    result.save(tmp_path / "b")
    before, after = content(tmp_path / "a"), content(tmp_path / "b")
    number, failed, more = 0, 0, True
    while more:
        try:
            more = save_until(number, fail, result, tmp_path / "a")
        except (OSError, KeyboardInterrupt) as error:
            failed += 1
            # Only an interruption may come when all is done.
            assert content(tmp_path / "a") == before or (error.args == () and content(tmp_path / "a") == after)
        assert sorted(os.listdir(tmp_path)) == ["a", "b"]
        old.save(tmp_path / "a")
        number += 1
    assert failed >= len(files.NAMES) + 4  # the folder, its files, their names, and both renames


def test_killed_at_any_call_a_whole_folder_is_left(result, tmp_path):
    old = quantized(network(), loader()[0], 8)
    old.save(tmp_path / "old")
    result.save(tmp_path / "new")
    whole = [content(tmp_path / name) for name in ("old", "new")]
    for number in range(len(files.NAMES) + 6):
        folder = tmp_path / str(number)
        old.save(folder / "a")
        [child] = in_children(lambda n=number, f=folder: save_until(n, lambda: os._exit(1), result, f / "a"))
        os.waitpid(child, 0)
        found = {path.name.split("-")[0]: content(path) for path in folder.iterdir()}
        assert found.get("a", found.get(".a.old")) in whole, number
    assert found.keys() == {"a"} and found["a"] == whole[1]  # the last was not killed


def test_nothing_to_load_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"result\.json"):
        ribs.load(tmp_path / "a", network())


def test_a_newer_format_names_the_version_that_reads_it(result, tmp_path):
    result.save(tmp_path / "a")
    path = tmp_path / "a" / "result.json"
    newer = json.loads(path.read_text()) | {"version": files.VERSION + 1, "ribs": "7.8.9"}
    path.write_text(json.dumps(newer))
    what = "was written in format 4, and this is ribs .*, which reads format 3; update to ribs 7.8.9, which wrote it"
    with pytest.raises(ribs.FormatError, match=what):
        ribs.load(tmp_path / "a", network())
    with pytest.raises(FileExistsError, match=r"7\.8\.9"):
        result.save(tmp_path / "a")


def test_the_first_format_is_read(tmp_path):
    """It had neither costs nor proofs in the history, and knew of no sums that read what layers read or zero points."""
    found = search()
    found.save(tmp_path / "a")
    path = tmp_path / "a" / "result.json"
    old = json.loads(path.read_text()) | {"version": 1}
    for record in old["content"]["history"]:
        assert record.pop("spent") and record.pop("gaps")
    assert old["content"]["trace"].pop("residuals") == {}
    for layer in old["content"]["layers"].values():
        assert layer["weight"].pop("symmetric")
    head = {name: old[name] for name in ("format", "version", "ribs")}
    text = json.dumps([head, old["content"]], sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps(old | {"checksum": hashlib.sha256(text.encode()).hexdigest()}))
    loaded = ribs.load(tmp_path / "a", network())
    assert loaded.history == tuple(replace(record, spent={}, gaps=()) for record in found.history)
    assert outputs(loaded.model, loader()[0])[0].equal(outputs(found.model, loader()[0])[0])
    loaded.save(tmp_path / "a")
    assert ribs.load(tmp_path / "a", network()).history == loaded.history


def test_nothing_is_pickled(result, tmp_path, monkeypatch):
    """Neither way goes through pickle, whatever torch might do by itself."""
    import pickle

    for name in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    result.save(tmp_path / "a")
    loaded = ribs.load(tmp_path / "a", network(seed=1))
    assert outputs(loaded.model, loader()[0])[0].equal(outputs(result.model, loader()[0])[0])
