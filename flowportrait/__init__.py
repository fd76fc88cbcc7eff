"""Talking-head videos from a portrait and a speech recording.

import flowportrait as fp
fp.load("tiny").generate("me.jpg", "speech.wav").save("out.mp4")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowportrait.generate import Pipeline, load
    from flowportrait.shot import Result

__version__ = "0.1.0"
__all__ = ["Pipeline", "Result", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: `import flowportrait` alone loads no torch."""
    if name in ("Pipeline", "Result", "load"):
        return getattr(import_module("flowportrait.generate"), name)
    raise AttributeError(f"module 'flowportrait' has no attribute '{name}'")
