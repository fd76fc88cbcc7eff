"""What scorers need, as `doctor` tells it, is what they ask for when they are made."""

import pytest

from flowportrait import needs, pretrained
from flowportrait.pretrained import WEIGHTS, Weights
from flowportrait.registry import SCORERS, SET_METRICS

JUDGES = {"sas-sa", "mas-sa", "mas-ma", "lip_sync", "expressiveness", "motion"}


def named(what):
    """The scorers that a line of `doctor` stands for."""
    known = {*SCORERS.names(), *SET_METRICS.names()}
    for name in what.split(", "):
        name = what.split(", ")[0] + name if name.startswith("-") else name
        yield from (
            [one for one in known if one.startswith(name.rstrip("*"))] if "*" in name else [name]
        )


TOLD = {name: need for need in needs.SCORERS for name in named(need.what)}


def test_every_metric_is_told():
    assert set(TOLD) == ({*SCORERS.names(), *SET_METRICS.names()} - JUDGES - {"reward"})


@pytest.mark.parametrize("name", sorted(TOLD))
def test_weights_that_are_asked_for_are_those_that_are_told(name, monkeypatch, tmp_path):
    asked = []

    def noted(weights, path=None):
        asked.append(next(key for key, one in WEIGHTS.items() if one is weights))
        return file

    file = tmp_path / "weights"
    file.write_bytes(b"any")
    monkeypatch.setattr(Weights, "find", noted)
    monkeypatch.setenv("FLOWPORTRAIT_WEIGHTS", str(tmp_path))
    table = SCORERS if name in SCORERS.names() else SET_METRICS
    kind = table.load(name)
    scorer = kind(kind.Config())
    assert scorer.fingerprint
    told = set(TOLD[name].weights)
    assert set(asked) - {"lite0"} == told


def test_a_package_can_carry_weights(monkeypatch, tmp_path):
    weights = WEIGHTS["light-asd-ava"]
    file = tmp_path / "carried.model"
    monkeypatch.setenv("FLOWPORTRAIT_WEIGHTS", str(tmp_path / "none"))
    assert weights.found() is None

    class Entry:
        load = staticmethod(lambda: file)

    def entries(group, name):
        return [Entry] if (group, name) == (pretrained.GROUP, weights.file) else []

    monkeypatch.setattr(pretrained, "entry_points", entries)
    assert weights.found() is None
    file.write_bytes(b"another")
    assert weights.found() == file
    with pytest.raises(pretrained.CheckpointError, match="carried.model: sha256"):
        weights.find()
