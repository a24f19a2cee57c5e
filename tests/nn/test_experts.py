import pytest
import torch
from torch import nn

from sememe.nn.experts import BALANCE_STEP, ExpertMixture

WIDTH = 6


def mixture(count: int, *, per_token: int) -> ExpertMixture:
    torch.manual_seed(0)
    part = ExpertMixture((nn.Linear(WIDTH, WIDTH) for _ in range(count)), d_model=WIDTH, per_token=per_token).double()
    torch.nn.init.normal_(part.router.weight)
    return part


def by_position(part: ExpertMixture, states: torch.Tensor) -> torch.Tensor:
    """One position after the other: all scores, the best by score + bias, their share of the chosen scores."""
    outputs = []
    for position in states.flatten(0, -2):
        scores = torch.exp(part.router.weight @ position)
        scores = scores / scores.sum()
        ranked = sorted(range(len(part.experts)), key=lambda x: float(scores[x].detach() + part.bias[x]), reverse=True)
        chosen = ranked[: part.per_token]
        total = sum(scores[x] for x in chosen)
        outputs.append(sum(scores[x] / total * part.experts[x](position) for x in chosen))
    return torch.stack(outputs).view_as(states)


@pytest.mark.parametrize(("count", "per_token"), [(2, 2), (5, 2), (6, 3)])
@pytest.mark.parametrize("biased", [False, True])
def test_values_and_gradients_equal_those_of_one_position_after_the_other(count: int, per_token: int, biased: bool):
    part = mixture(count, per_token=per_token).eval()
    if biased:  # expert 0 is never chosen while it is not needed, the last one always
        part.bias[0], part.bias[-1] = -2.0, 2.0
    states = torch.randn(3, 7, WIDTH, dtype=torch.float64, requires_grad=True)
    up = torch.randn(3, 7, WIDTH, dtype=torch.float64)
    found = []
    for run in (part, lambda given: by_position(part, given)):
        part.zero_grad()
        states.grad = None
        outputs = run(states)
        (outputs * up).sum().backward()
        grads = {name: value.grad for name, value in part.named_parameters() if value.grad is not None}
        if biased and count > per_token:
            # Both agree that the expert without positions learns nothing; the fast path says so with zeros.
            assert all(not grad.any() for name, grad in grads.items() if name.startswith("experts.0."))
            grads = {name: grad for name, grad in grads.items() if not name.startswith("experts.0.")}
        found.append((outputs, states.grad, grads))
    torch.testing.assert_close(*found)


def test_routing_by_hand():
    part = mixture(3, per_token=2).eval()
    with torch.no_grad():
        part.router.weight.zero_()
        part.router.weight[:, 0] = torch.tensor([6.0, 3.0, 2.0]).log()
    position = torch.eye(WIDTH, dtype=torch.float64)[:1]
    # Scores 6/11, 3/11, 2/11.
    chosen, weights = part.route(position)
    assert chosen.tolist() == [[0, 1]]
    assert weights.tolist()[0] == pytest.approx([6 / 9, 3 / 9])
    # The bias changes who is chosen and not what they count.
    part.bias[2] = 0.1
    chosen, weights = part.route(position)
    assert chosen.tolist() == [[0, 2]]
    assert weights.tolist()[0] == pytest.approx([6 / 8, 2 / 8])


def test_weights_stay_finite_where_the_bias_chooses_hopeless_experts():
    part = mixture(3, per_token=2).float()
    with torch.no_grad():
        part.router.weight.zero_()
        part.router.weight[0] = 1000.0
        part.bias[0] = -2.0
    chosen, weights = part.route(torch.ones(1, WIDTH))
    assert sorted(chosen.tolist()[0]) == [1, 2]
    assert weights.tolist() == [[0.5, 0.5]]


def test_biases_move_one_step_after_a_training_forward_and_never_in_evaluation():
    part = mixture(4, per_token=2)
    with torch.no_grad():
        part.router.weight.zero_()
        part.router.weight[:, :3] = torch.tensor([[9.0, 9.0, 9.0], [5.0, 0.0, 1.0], [0.0, 5.0, 0.0], [0.0, 0.0, 0.0]])
    # Positions choose (0, 1), (0, 2), (0, 1), (0, 1): loads 4, 3, 1, 0 and mean 2.
    positions = torch.eye(WIDTH, dtype=torch.float64)[[0, 1, 2, 0]]
    before = part.eval()(positions)
    assert part.bias.tolist() == [0.0] * 4
    torch.testing.assert_close(part.train()(positions), before)  # the step comes after the forward
    assert part.bias.tolist() == pytest.approx([-BALANCE_STEP, -BALANCE_STEP, BALANCE_STEP, BALANCE_STEP])
    assert "bias" in part.state_dict()
    assert not part.bias.requires_grad


def test_loads_become_even_where_the_router_prefers_some():
    part = mixture(4, per_token=2)
    with torch.no_grad():
        part.router.weight.mul_(0.2)
        part.router.weight[:, 0] = torch.tensor([1.0, 0.7, 0.0, -0.2])

    def share() -> torch.Tensor:
        positions = torch.randn(400, WIDTH, dtype=torch.float64)
        positions[:, 0] = 1.0
        part(positions)
        return part.route(positions)[0].flatten().bincount(minlength=4) / 800

    first = share()
    assert float(first[:2].sum()) > 0.8
    for _ in range(400):
        last = share()
    assert float((last - 0.25).abs().max()) < 0.04


def test_no_positions_are_fine():
    part = mixture(3, per_token=2).train()
    assert part(torch.zeros(2, 0, WIDTH, dtype=torch.float64)).shape == (2, 0, WIDTH)
    assert part.bias.tolist() == [0.0] * 3


def test_the_router_decides_in_full_precision_under_autocast():
    part = mixture(4, per_token=2).float().eval()
    states = torch.randn(64, WIDTH)
    with torch.no_grad():
        logits, positions = (states @ part.router.weight.T).topk(2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            chosen, weights = part.route(states)
            outputs = part(states)
        assert torch.equal(chosen, positions)
        torch.testing.assert_close(weights, logits.softmax(-1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(outputs, part(states), rtol=0.05, atol=0.05)
