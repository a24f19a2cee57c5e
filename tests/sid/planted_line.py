"""A tokenizer on one dimension whose codes can be told by eye."""

import numpy as np

from sememe.core.schema import FloatArray
from sememe.sid.rqkmeans import FittedResidualKMeans

LINE = FittedResidualKMeans((np.array([[0], [100]], np.float32), np.array([[0], [2], [10], [40]], np.float32)))
"""Two codes, then four: numbers near 0 or 100, plus 0, 2, 10 or 40."""


def on_line(*values: float) -> FloatArray:
    """(n, 1) vectors."""
    return np.array(values, np.float32)[:, None]
