"""Items laid out as a tree: each level adds one of a few well separated offsets, ever smaller ones."""

import numpy as np

from sememe.core.schema import FloatArray, Int32Array
from sememe.sid.collisions import tuple_groups

BRANCHES = 4
DEPTH = 3


def tree(seed: int, *, per_leaf: int = 4, dim: int = 16) -> tuple[FloatArray, Int32Array]:
    """Vectors (64 * per_leaf, dim) and the path (64 * per_leaf, 3) of each in the tree, in random order."""
    rng = np.random.default_rng(seed)
    paths = np.indices((BRANCHES,) * DEPTH).reshape(DEPTH, -1).T.repeat(per_leaf, axis=0)
    paths = rng.permutation(paths)
    vectors = 0.01 * rng.standard_normal((len(paths), dim))
    for level, scale in enumerate((4.0, 2.0, 1.0)):
        offsets = scale * np.linalg.qr(rng.standard_normal((dim, dim)))[0][:BRANCHES]
        vectors += offsets[paths[:, level]]
    return vectors.astype(np.float32), paths.astype(np.int32)


def same_tree(codes: Int32Array, paths: Int32Array) -> bool:
    """Whether the codes cut the items into the same groups as the paths, at every depth, whatever the labels."""
    for depth in range(1, DEPTH + 1):
        ours = tuple_groups(codes[:, :depth], (BRANCHES,) * depth)
        planted = tuple_groups(paths[:, :depth], (BRANCHES,) * depth)
        pairs = len(np.unique(np.stack([ours, planted], axis=1), axis=0))
        if not pairs == ours.max() + 1 == planted.max() + 1:
            return False
    return True
