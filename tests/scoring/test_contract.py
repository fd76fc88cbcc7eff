"""What every scorer and comparer of the tables declares, whoever wrote it."""

from typing import get_args

import pytest

from flowportrait.config import Frozen
from flowportrait.registry import COMPARERS, SCORERS, SET_METRICS
from flowportrait.scoring import Need


@pytest.mark.parametrize("name", SCORERS.names())
def test_scorers(name):
    kind = SCORERS.load(name)
    assert kind.name == name and kind.unit and kind.__doc__
    assert kind.low < kind.high and kind.better in ("higher", "lower")
    assert issubclass(kind.Config, Frozen) and callable(kind.score) and hasattr(kind, "fingerprint")
    assert kind.needs <= set(get_args(Need))


@pytest.mark.parametrize("name", COMPARERS.names())
def test_comparers(name):
    kind = COMPARERS.load(name)
    assert kind.name == name and kind.__doc__
    assert (
        issubclass(kind.Config, Frozen) and callable(kind.compare) and hasattr(kind, "fingerprint")
    )
    assert kind.needs <= set(get_args(Need))


@pytest.mark.parametrize("name", SET_METRICS.names())
def test_set_metrics(name):
    kind = SET_METRICS.load(name)
    assert kind.name == name and kind.unit and kind.__doc__
    assert kind.low < kind.high and kind.better in ("higher", "lower")
    assert issubclass(kind.Config, Frozen) and callable(kind.features) and callable(kind.compare)
    assert kind.needs <= set(get_args(Need))
