"""One module per task: its data, training and evaluation; and ``fine_tune``, the same for all tasks."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recipes.tune import fine_tune

__all__ = ["fine_tune"]


def __getattr__(name: str):
    if name != "fine_tune":
        raise AttributeError(f"module 'recipes' has no attribute {name!r}")
    from recipes.tune import fine_tune

    return fine_tune
