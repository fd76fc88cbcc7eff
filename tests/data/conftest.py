"""What the tests of `prepare` share."""

import films
import pytest

from flowportrait.prepare import dataset


@pytest.fixture
def remembered_faces(monkeypatch):
    """No network looks twice at one picture."""
    films.remember_faces(monkeypatch.setattr)


@pytest.fixture
def here(monkeypatch):
    """Sources are prepared by this process, which need not load all again."""

    def prepare_all(preparer, sources, count):
        return ((source, preparer.prepare(source)) for source in sources)

    monkeypatch.setattr(dataset, "prepare_all", prepare_all)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Three good films and four bad ones, prepared at a stretch by one process; one of them kills
    it.
    """
    root = tmp_path_factory.mktemp("made")
    (root / "films" / "more").mkdir(parents=True)
    films.film(root / "films" / "first.mp4", [("a", 60, 60), ("", 30, 10)])
    films.film(root / "films" / "german.mp4", [("a", 60, 90)], level=0.6)
    films.film(root / "films" / "loud.mp4", [("a", 60, 90)], level=films.LOUD)
    films.film(root / "films" / "the last.mp4", [("b", 60, 60)])
    films.film(root / "films" / "more" / "first.mp4", [("ab", 72, 120)])
    (root / "films" / "empty.mp4").touch()
    (root / "films" / "text.mov").write_text("text")
    (root / "films" / "notes.txt").write_text("no video")
    code, out, err = films.run(root, root / "films", "-o", root / "one", "--json", *films.PLUGGED)
    assert code == 0, err
    return root, out, err
