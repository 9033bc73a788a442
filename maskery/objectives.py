"""Everything the loop can train, by the name a run calls it."""

from collections import ChainMap

from .methods import METHODS
from .objective import Objective
from .tasks import TASKS

OBJECTIVES: ChainMap[str, type[Objective]] = ChainMap(METHODS, TASKS)  # a view: who adds to METHODS adds to it
