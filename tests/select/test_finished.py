"""Reconstructions that are killed go on with the piece that was under way; files that are not theirs are not taken."""

import os
import signal

import pytest

import ribs
from ribs.recon.run import Reconstruction
from ribs.select import files
from ribs.select.errors import JournalError
from small import content, in_children, loader, network, search

FACTS = {"iterations": 6, "weight_lr": 0.2}
QDROP = ribs.QDrop(**FACTS, activation_lr=0.01)


def rebuilt(folder=None, **options):
    options = {"method": QDROP, "seed": 1} | options
    return ribs.reconstruct(network(), loader(2, 12), (2, 4), journal=folder, progress=False, **options)


def recribs(folder=None):
    finish = ribs.QDrop(**FACTS | {"iterations": 9})
    return search(data=loader(2, 12), bits=(2, 4), budget="3/3", reconstruct=QDROP, finish=finish, journal=folder)


@pytest.fixture
def pieces(monkeypatch):
    """The names of pieces that are reconstructed."""
    names, rebuild = [], Reconstruction.rebuild

    def counted(self, piece, *args, **kwargs):
        names.append(piece.name)
        return rebuild(self, piece, *args, **kwargs)

    monkeypatch.setattr(Reconstruction, "rebuild", counted)
    return names


def killed(run, number):
    """Run in a child that is killed when it is about to make its file of a number, counted from 0, visible."""

    def action():
        made, replace = [], os.replace

        def dying(*paths):
            if len(made) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            made.append(paths)
            replace(*paths)

        files.os.replace = dying  # the child's own
        run()

    [child] = in_children(action)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_killed_reconstruction_loses_the_piece_under_way(tmp_path, pieces):
    whole = content(rebuilt())
    for number in range(4):
        folder = tmp_path / str(number)
        assert killed(lambda into=folder: rebuilt(into), number) == (number < 3)
        pieces.clear()
        assert content(rebuilt(folder)) == whole
        assert pieces == ["0", "2", "5"][number:]


def test_a_search_that_is_killed_at_its_end_goes_on_there(tmp_path, pieces):
    whole = content(recribs())
    assert killed(lambda: recribs(tmp_path), 2)  # the first file is that of the losses
    pieces.clear()
    assert content(recribs(tmp_path)) == whole
    assert pieces == ["2", "5"]


def test_pieces_of_another_reconstruction_are_not_taken(tmp_path, pieces):
    rebuilt(tmp_path)
    others = [{"method": ribs.BRECQ(**FACTS)}, {"seed": 2}, {"store_mib": 512}, {"loss": lambda a, b: (a - b).mean(1)}]
    for options in others:
        pieces.clear()
        assert content(rebuilt(tmp_path, **options)) == content(rebuilt(**options))
        assert len(pieces) == 6
    assert len(list(tmp_path.iterdir())) == 3 * (1 + len(others))


DAMAGES = {
    "end": lambda whole: whole[:-1],
    "begin": lambda whole: whole[:40],
    "bit": lambda whole: whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused(damage, tmp_path):
    rebuilt(tmp_path)
    path = sorted(tmp_path.iterdir())[0]
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.raises(JournalError, match=r"\[journal\] .*piece-.* is damaged .*; delete it"):
        rebuilt(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"\[journal\] .*piece-"):
        rebuilt(tmp_path / "file")
