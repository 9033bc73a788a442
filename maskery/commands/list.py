"""`maskery list`: print methods, models or recipes by name."""

import sys
from typing import Literal

from ..methods import METHODS
from ..nn.vit import SIZES
from ..recipes import RECIPES


def list_names(what: Literal["methods", "models", "recipes"]) -> None:
    """Methods, models or recipes by name.

    Args:
        what: methods, models or recipes
    """
    if what == "methods":
        for name, method in METHODS.items():
            print(f"{name:12} {(sys.modules[method.__module__].__doc__ or '').splitlines()[0]}")
    elif what == "models":
        for name, size in SIZES.items():
            print(f"{name:12} width {size.dim}, {size.depth} blocks, {size.heads} heads")
    else:
        for name, recipe in RECIPES.items():
            print(f"{name:12} {(recipe.__doc__ or '').splitlines()[0]}")
        print("without --recipe, settings are chosen from the number and size of your images, and printed")
