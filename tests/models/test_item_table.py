"""The vectors of items: what they are made of, which of it learns, and what is kept.

Items 0..5; item 3 has no content, items 4 and 5 are not in the training part.
"""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sememe.core.errors import ConfigError
from sememe.core.schema import ModelInputs
from sememe.models.item_table import ItemTable

ITEMS, WIDTH, D = 6, 5, 8
EVERY = torch.arange(ITEMS)
KNOWN = np.array([True, True, True, True, False, False])


def some_vectors() -> npt.NDArray[np.float32]:
    """Far from the origin, so that what all share is most of each."""
    vectors = np.random.default_rng(0).normal(loc=3.0, size=(ITEMS, WIDTH)).astype(np.float32)
    vectors[3] = 0.0
    return vectors


def table(*, own: bool = True, content: bool = True, known: bool = True) -> ItemTable:
    torch.manual_seed(0)
    inputs = ModelInputs(num_users=1, num_items=ITEMS, item_vectors=some_vectors())
    part = ItemTable(inputs, d_model=D, own=own, content=content, known_items=KNOWN if known else None)
    part.train(mode=False)
    return part


def test_a_vector_is_the_sum_of_the_own_one_and_the_projected_content() -> None:
    part = table()
    assert part.own is not None and part.project is not None
    asked = torch.tensor([2, 0, 2])
    expected = part.own.weight[asked] + part.content[asked] @ part.project.weight.T
    torch.testing.assert_close(part(asked), expected)
    assert part(asked).shape == (3, D)


def test_items_that_training_never_holds_have_a_zero_row_of_their_own() -> None:
    only_own = table(content=False)
    assert only_own(EVERY).any(1).tolist() == KNOWN.tolist()
    assert table(content=False, known=False)(EVERY).any(1).all()
    # Their content speaks for them.
    assert table()(EVERY[4:]).any(1).all()


def test_content_is_centred_over_the_items_that_have_some_and_of_unit_length() -> None:
    vectors, part = some_vectors(), table(own=False)
    has_content = vectors.any(1)
    assert has_content.tolist() == [True, True, True, False, True, True]
    expected = vectors[has_content] - vectors[has_content].mean(0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(part.content[torch.from_numpy(has_content)], expected, rtol=1e-5)
    assert not part.content[3].any() and not part(EVERY)[3].any()


def test_a_catalogue_without_any_content_stays_at_zero() -> None:
    empty = np.zeros((ITEMS, WIDTH), np.float32)
    inputs = ModelInputs(num_users=1, num_items=ITEMS, item_vectors=empty)
    part = ItemTable(inputs, d_model=D, own=False, content=True, known_items=None)
    assert torch.equal(part(EVERY), torch.zeros(ITEMS, D))


def test_content_that_is_not_there_is_refused() -> None:
    inputs = ModelInputs(num_users=1, num_items=ITEMS)
    with pytest.raises(ConfigError, match=r"(?s)there are none.*model\.content=false"):
        ItemTable(inputs, d_model=D, own=True, content=True, known_items=None)
    assert ItemTable(inputs, d_model=D, own=True, content=False, known_items=None)(EVERY).shape == (ITEMS, D)


def test_gradients_reach_the_rows_asked_for_and_the_projection() -> None:
    part = table()
    assert part.own is not None and part.project is not None
    weights = torch.arange(1.0, D + 1.0)
    (part(torch.tensor([1, 4, 1])) @ weights).sum().backward()
    own, projection = part.own.weight.grad, part.project.weight.grad
    assert own is not None and projection is not None
    # Item 1 is there twice; an item that is new so far would learn too, once training holds it.
    expected = torch.zeros(ITEMS, D)
    expected[1], expected[4] = 2 * weights, weights
    torch.testing.assert_close(own, expected)
    read = part.content[torch.tensor([1, 4, 1])].sum(0)
    torch.testing.assert_close(projection, torch.outer(weights, read))
    assert part.content.grad is None


def test_lengths_are_about_one_to_begin_with() -> None:
    inputs = ModelInputs(
        num_users=1,
        num_items=400,
        item_vectors=np.random.default_rng(1).normal(size=(400, 64)).astype(np.float32),
    )
    torch.manual_seed(0)
    for own, content in ((True, False), (False, True)):
        part = ItemTable(inputs, d_model=64, own=own, content=content, known_items=None)
        assert float(part(torch.arange(400)).detach().norm(dim=1).mean()) == pytest.approx(1.0, abs=0.1)


def test_the_content_is_not_saved_and_weights_fit_a_table_built_anew() -> None:
    first, second = table(), table()
    assert set(first.state_dict()) == {"own.weight", "project.weight"}
    with torch.no_grad():
        for weight in first.parameters():
            weight.add_(1.0)
    assert not torch.equal(first(EVERY), second(EVERY))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(EVERY), second(EVERY))


def started(vectors: npt.NDArray[np.float32], *, width: int, known: npt.NDArray[np.bool_] | None = None) -> ItemTable:
    """Own vectors alone, started at the content."""
    torch.manual_seed(0)
    inputs = ModelInputs(num_users=1, num_items=len(vectors), item_vectors=vectors)
    return ItemTable(inputs, d_model=width, own=True, content=False, known_items=known, start="content")


def unit_content(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Of items that all have some."""
    centered = vectors.astype(np.float64) - vectors.mean(0)
    unit: npt.NDArray[np.float64] = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    return unit


@pytest.mark.parametrize("width", [3, 12, 20])
def test_own_vectors_can_start_at_the_content(width: int) -> None:
    """Their products are the best ones of that rank, up to one factor; all of them where the width is enough."""
    vectors = (np.random.default_rng(2).normal(size=(40, 12)) * np.arange(1, 13) + 5.0).astype(np.float32)
    found = started(vectors, width=width)(torch.arange(40)).detach().double().numpy()
    assert found.shape == (40, width)
    left, sizes, right = np.linalg.svd(unit_content(vectors), full_matrices=False)
    nearest = left[:, :width] * sizes[:width] @ right[:width]
    expected = nearest @ nearest.T / np.square(nearest).sum(1).mean()
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-5)
    assert float(np.square(found).sum(1).mean()) == pytest.approx(1.0, abs=1e-4)
    assert not found[:, 12:].any()


def test_only_known_items_start_at_their_content_and_those_without_any_at_random() -> None:
    part = started(some_vectors(), width=D, known=KNOWN)
    assert part.own is not None
    assert part(EVERY).any(1).tolist() == KNOWN.tolist()
    at_random = table(content=False)
    assert at_random.own is not None
    same = (part.own.weight == at_random.own.weight).all(1)
    assert same.tolist() == [False, False, False, True, True, True]
    blank = started(np.zeros((ITEMS, WIDTH), np.float32), width=D, known=KNOWN)
    assert torch.equal(blank(EVERY), at_random(EVERY))


def test_a_start_at_the_content_learns_on_like_any_other() -> None:
    part = started(some_vectors(), width=D)
    assert set(part.state_dict()) == {"own.weight"}
    part(torch.tensor([2])).sum().backward()
    assert part.own is not None and part.own.weight.grad is not None
    assert part.own.weight.grad.any(1).tolist() == [item == 2 for item in range(ITEMS)]
    assert torch.equal(started(some_vectors(), width=D)(EVERY), part(EVERY))


def test_a_start_at_content_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"(?s)there are none.*model\.start=random"):
        ItemTable(
            ModelInputs(num_users=1, num_items=ITEMS),
            d_model=D,
            own=True,
            content=False,
            known_items=None,
            start="content",
        )
