"""Step caching: an evaluation in which the first layer finds about what it found before is not
computed further; what the other layers added then is added again.

First Block Cache (ParaAttention, github.com/chengzeyi/ParaAttention; also diffusers'
`FirstBlockCacheConfig`), a form of TeaCache (arXiv:2411.19108) that needs no fitted polynomial: it
reads off the first layer how much the rest would change. What is compared is what was last computed
and not what was last used, so that small differences cannot add up unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from flowportrait.errors import ConfigError

Tokens = Float[Tensor, "b n d"]
FEWEST = 8
"""Evaluations of a window below which two neighbours are too different for one to stand in for the
other; an advice, from measurements on `tiny`.
"""


@dataclass
class StepCache:
    """The setting for one clip, and what it saved. `threshold`: how much the first layer's
    contribution may differ from the last computed one, as a share of its mean size; 0 is off.
    Raises ConfigError for one that is not from 0 up to 1.
    """

    threshold: float = 0.0
    of: int = FEWEST  # evaluations that a window is sampled with
    evaluations: int = 0  # of the network so far, guidance's second one included
    saved: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ConfigError(
                f"step_cache: got {self.threshold}; give a share from 0 (off) to below 1, such as"
                " 0.02"
            )

    def window(self) -> Reuse | None:
        """The memory of one window under one condition between its evaluations; None when off."""
        if self.threshold:
            return Reuse(self)
        return None

    @property
    def warnings(self) -> list[str]:
        """A line where it is of no use."""
        if not self.threshold or not self.evaluations or (self.saved and self.of >= FEWEST):
            return []
        what = "none"
        if self.saved:
            what = f"{self.saved} of {self.evaluations}"
        few = ""
        if self.of < FEWEST:
            few = f"{self.of} evaluations a window are too few for it"
        return [
            f"step cache {self.threshold:g}: {what} of the evaluations saved;"
            f" {few or 'a higher threshold saves more'}; it is for models of 15 and more"
        ]


class Reuse:
    """Contributions of the first layer and of all others at the last evaluation that was computed;
    each takes as much memory as the tokens.
    """

    def __init__(self, cache: StepCache):
        self._cache = cache
        self._first: Tensor | None = None
        self._rest: Tensor | None = None

    def __call__(
        self, before: Tokens, after: Tokens, rest: Callable[[Tokens], Tokens]
    ) -> Float[Tensor, "b n d"]:
        """The tokens after all layers, given those `before` and `after` the first; `rest` computes
        the others.
        """
        first = after - before
        self._cache.evaluations += 1
        if self._first is not None and _change(first, self._first) < self._cache.threshold:
            self._cache.saved += 1
            return after + self._rest
        found = rest(after)
        self._first = first
        self._rest = found - after
        return found


def _change(new: Tensor, old: Tensor) -> float:
    return float((new - old).abs().mean() / old.abs().mean())
