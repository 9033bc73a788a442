import numpy as np


def listed(array: np.ndarray | None) -> list | None:
    return None if array is None else array.tolist()
