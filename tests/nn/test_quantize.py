"""Residual quantisation: codes, losses, both gradients and running means by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sememe.nn import quantize as module
from sememe.nn.quantize import (
    ResidualCodebooks,
    codebook_term,
    commitment_term,
    quantize,
    rotate,
    straight_through,
)

BOOKS = torch.tensor([[[0.0, 0.0], [4.0, 0.0]], [[1.0, 1.0], [0.0, -1.0]]])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_quantize_by_hand() -> None:
    # (3, 1): nearest of level 0 is (4, 0), rest (-1, 1), nearest of level 1 is (1, 1) at 4 against (0, -1) at 5.
    found = quantize(torch.tensor([[3.0, 1.0]]), BOOKS)
    assert found.codes.tolist() == [[1, 0]]
    assert found.residuals.tolist() == [[[3.0, 1.0]], [[-1.0, 1.0]]]
    assert found.chosen.tolist() == [[[4.0, 0.0]], [[1.0, 1.0]]]
    assert found.rest.tolist() == [[-2.0, 0.0]]


def test_terms_and_their_gradients_by_hand() -> None:
    z, books = torch.tensor([[3.0, 1.0]], requires_grad=True), BOOKS.clone().requires_grad_()
    found = quantize(z, books)
    # Level 0: |(-1, 1)|^2 = 2; level 1: |(-2, 0)|^2 = 4.
    assert codebook_term(found).tolist() == commitment_term(found).tolist() == [6.0]
    torch.autograd.backward((codebook_term(found) + 0.25 * commitment_term(found)).sum())
    # Commitment only: .25 * 2 * ((3, 1) - (4, 0)) + .25 * 2 * ((-1, 1) - (1, 1)).
    assert z.grad is not None and z.grad.tolist() == [[-1.5, 0.5]]
    # Codebook only: 2 * (e - r), and nothing for the codes not chosen.
    assert books.grad is not None
    assert books.grad.tolist() == [[[0.0, 0.0], [2.0, -2.0]], [[4.0, 0.0], [0.0, 0.0]]]


def gradient_past(choice: object, z: Tensor, quantized: Tensor, grad: Tensor) -> Tensor:
    assert callable(choice)
    leaf = z.clone().requires_grad_()
    torch.autograd.backward((choice(leaf, quantized) * grad).sum())
    assert leaf.grad is not None
    return leaf.grad


def rotation_matrix(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The rotation in the plane of two vectors that turns the first to the second, from an orthonormal basis."""
    first = start / np.linalg.norm(start)
    second = end / np.linalg.norm(end)
    second = second - (second @ first) * first
    second = second / np.linalg.norm(second)
    cosine = start @ end / np.linalg.norm(start) / np.linalg.norm(end)
    plane = np.stack([first, second])
    turn = np.array([[cosine, -np.sqrt(1 - cosine**2)], [np.sqrt(1 - cosine**2), cosine]])
    return np.eye(len(start)) - plane.T @ plane + plane.T @ turn @ plane


def test_the_rotation_equals_an_explicit_matrix() -> None:
    z, quantized, grad = (drawn(7, 5, seed=seed) for seed in range(3))
    assert torch.equal(rotate(z, quantized), quantized)
    found = gradient_past(rotate, z, quantized, grad)
    for row, (start, end) in enumerate(zip(z.double().numpy(), quantized.double().numpy(), strict=True)):
        matrix = rotation_matrix(start, end) * np.linalg.norm(end) / np.linalg.norm(start)
        np.testing.assert_allclose(matrix @ start, end, atol=1e-12)
        np.testing.assert_allclose(found[row].numpy(), matrix.T @ grad[row].double().numpy(), atol=1e-5)


def test_the_rotation_keeps_the_angle_between_gradient_and_vector() -> None:
    z, quantized, grad = (drawn(6, 4, seed=seed) for seed in range(3))
    found = gradient_past(rotate, z, quantized, grad)
    after = torch.nn.functional.cosine_similarity(found, z)
    np.testing.assert_allclose(after, torch.nn.functional.cosine_similarity(grad, quantized), atol=1e-5)
    # Straight through, gradients are handed on whatever the vectors are.
    assert torch.equal(gradient_past(straight_through, z, quantized, grad), grad)
    np.testing.assert_allclose(straight_through(z, quantized), quantized, atol=1e-6)


def test_rotation_and_straight_through_agree_where_nothing_turns_or_stretches() -> None:
    z, grad = drawn(4, 3), drawn(4, 3, seed=1)
    np.testing.assert_allclose(gradient_past(rotate, z, z.clone(), grad), grad, atol=1e-5)
    # Twice as long: the gradient doubles.
    np.testing.assert_allclose(gradient_past(rotate, z, 2 * z, grad), 2 * grad, atol=1e-5)


def test_vectors_without_length_or_against_each_other_give_finite_gradients() -> None:
    z, grad = drawn(3, 4), drawn(3, 4, seed=1)
    assert torch.equal(gradient_past(rotate, z, torch.zeros_like(z), grad), grad)
    assert torch.equal(gradient_past(rotate, torch.zeros_like(z), z, grad), grad)
    assert bool(torch.isfinite(gradient_past(rotate, z, -z, grad)).all())


def books(learnt_by: object, *, sizes: tuple[int, ...] = (2,), decay: float = 0.5) -> ResidualCodebooks:
    made = ResidualCodebooks(sizes, 1, learnt_by=learnt_by, decay=decay)  # type: ignore[arg-type]
    made.place(0, torch.tensor([0, 1]), torch.tensor([[0.0], [10.0]]))
    return made


def note(codebooks: ResidualCodebooks, *latents: float) -> None:
    codebooks.note(codebooks(torch.tensor(latents).unsqueeze(1)))


def test_running_means_by_hand() -> None:
    ema = books("ema")
    assert list(ema.parameters()) == []
    # Counts 1 and 1, sums 0 and 10.  Codes 0, 0, 1: counts .5 + 1 and .5 + .5, sums 0 + 1.5 and 5 + 4.5.
    note(ema, 1.0, 2.0, 9.0)
    np.testing.assert_allclose(ema.vectors.ravel(), [1.0, 9.5], rtol=1e-4)
    # Codes 0 (4 is nearer to 1 than to 9.5) and 1: counts .75 + .5 and .5 + .5, sums .75 + 2 and 4.75 + 5.
    note(ema, 4.0, 10.0)
    np.testing.assert_allclose(ema.vectors.ravel(), [2.2, 9.75], rtol=1e-4)


def test_laplace_smoothing_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMOOTHING", 1.0)
    ema = books("ema")
    note(ema, 1.0, 2.0, 9.0)
    # Counts 1.5 and 1 of 2.5 become 2.5 / 4.5 and 2 / 4.5 of 2.5.
    np.testing.assert_allclose(ema.vectors.ravel(), [1.5 * 4.5 / 6.25, 9.5 * 4.5 / 5.0], rtol=1e-6)


def test_a_code_that_is_put_elsewhere_goes_on_as_a_running_mean_from_there() -> None:
    ema = books("ema")
    for _ in range(5):
        note(ema, 1.0, 2.0)
    ema.place(0, torch.tensor([1]), torch.tensor([[4.0]]))
    note(ema, 4.0, 6.0)
    # Count .5 + 1, sum 2 + 5.
    assert ema.vectors[0, 1].item() == pytest.approx(7 / 1.5, rel=1e-4)


def test_learnt_by_the_loss_nothing_moves_and_the_codebook_term_counts() -> None:
    plain, ema = books("loss"), books("ema")
    note(plain, 1.0, 9.0)
    assert plain.vectors.ravel().tolist() == [0.0, 10.0] and len(list(plain.parameters())) == 1
    z = torch.tensor([[3.0]])
    # |3 - 0|^2 as codebook and as commitment term.
    assert plain.terms(plain(z), beta=0.5).item() == 13.5
    assert ema.terms(ema(z), beta=0.5).item() == 4.5


@pytest.mark.parametrize("learnt_by", ["loss", "ema"])
def test_levels_of_different_sizes(learnt_by: str) -> None:
    codebooks = books(learnt_by, sizes=(2, 3))
    codebooks.place(1, torch.arange(3), torch.tensor([[-1.0], [0.0], [1.0]]))
    assert [len(book) for book in codebooks.books()] == [2, 3]
    # The first level has no third code, though zero would be near.
    assert codebooks(torch.tensor([[1.2], [9.0]])).codes.tolist() == [[0, 2], [1, 0]]
    assert codebooks.used.tolist() == [[False, False, True], [False] * 3]
    note(codebooks, 1.2)
    assert codebooks.used.tolist() == [[True, False, True], [False, False, True]]
    codebooks.forget()
    assert codebooks.used.sum() == 1
    assert codebooks.sum_of(torch.tensor([[1], [0]])).ravel().tolist() == codebooks.books()[0].flip(0).ravel().tolist()
    both = codebooks.books()[0][1] + codebooks.books()[1][2]
    assert torch.equal(codebooks.sum_of(torch.tensor([[1, 2]]))[0], both)
