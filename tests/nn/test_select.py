import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sememe.core.errors import ArtifactError
from sememe.nn.select import rank_best, select_best


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 4), columns=st.integers(1, 40), seed=st.integers(0, 1000), data=st.data())
def test_ties_go_to_the_lower_column(rows: int, columns: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, columns))
    values = np.random.default_rng(seed).choice([-np.inf, 0.0, 1.0, 2.0], size=(rows, columns)).astype(np.float32)
    expected = np.argsort(-values, axis=1, kind="stable")[:, :k]
    ranked = rank_best(torch.from_numpy(values), k=k)
    assert ranked.columns.tolist() == expected.tolist()
    assert ranked.values.tolist() == np.take_along_axis(values, expected, axis=1).tolist()
    chosen = select_best(torch.from_numpy(values), k=k)
    assert chosen.columns.tolist() == np.sort(expected, axis=1).tolist()


def test_a_score_that_is_not_a_number_stops() -> None:
    with pytest.raises(ArtifactError, match="not a number"):
        rank_best(torch.tensor([[0.0, 1.0], [float("nan"), 1.0]]), k=1)
