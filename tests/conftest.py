"""Shapes and types of annotated functions are checked while the tests run; production pays nothing
for it.
"""

from jaxtyping import install_import_hook

install_import_hook(
    [
        f"flowportrait.{room}"
        for room in ("media", "flow", "sampling", "codecs", "encoders", "data", "generate")
    ],
    "typechecker.checked",
)
