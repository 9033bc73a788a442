"""Every self-supervised method by its name. A new one: its file, and its line here."""

from ..objective import Objective
from .mae import MAE
from .rc_mae import RCMAE

METHODS: dict[str, type[Objective]] = {
    "mae": MAE,
    "rc-mae": RCMAE,
}
