"""All self-supervised methods by name. To add one, write its file and add its line here."""

from ..objective import Objective
from .cmt_mae import CMTMAE
from .mae import MAE
from .mixed_ae import MixedAE
from .msa import MSA
from .rc_mae import RCMAE

METHODS: dict[str, type[Objective]] = {
    "mae": MAE,
    "rc-mae": RCMAE,
    "mixed-ae": MixedAE,
    "msa": MSA,
    "cmt-mae": CMTMAE,
}
