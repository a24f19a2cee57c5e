import numpy as np
import torch
from scipy import stats

from sememe.core.schema import PAD
from sememe.decode.noise import GAMMA, child_keys, gumbel, mix, row_keys

WORD = 2**64


def test_numbers_of_the_published_generator() -> None:
    # What the reference implementation gives for seed 1234567; the state moves on by gamma before each number.
    states = 1234567 + GAMMA * torch.arange(1, 6)
    assert [value % WORD for value in mix(states).tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_noise_is_gumbel_and_shows_no_trace_of_parents_or_siblings() -> None:
    parents = mix(torch.arange(2000)).unsqueeze(0)
    children = child_keys(parents, torch.arange(5).expand(1, 2000, 5))
    above, below = gumbel(parents)[0].numpy(), gumbel(children)[0].numpy()
    assert stats.kstest(above, "gumbel_r").pvalue > 0.01
    assert stats.kstest(below.ravel(), "gumbel_r").pvalue > 0.01
    together = np.corrcoef(np.concatenate([above[:, None], below], axis=1).T)
    assert np.abs(together[~np.eye(6, dtype=bool)]).max() < 0.1


def test_the_ends_of_the_uniform_numbers_stay_finite() -> None:
    ends = gumbel(torch.tensor([0, -1]))
    np.testing.assert_allclose(ends, [-np.log(53 * np.log(2)), 53 * np.log(2)], rtol=1e-12)


def test_padding_and_other_rows_do_not_count_and_everything_else_does() -> None:
    rows = [[4, 7], [7, 4], [4], [4, 7, 7], [4, 7]]
    users = [3, 3, 3, 3, 5]

    def keys(*, left: int, right: int, order: list[int]) -> list[int]:
        history = torch.full((len(order), left + 3 + right), PAD)
        for place, row in enumerate(order):
            history[place, left : left + len(rows[row])] = torch.tensor(rows[row])
        return row_keys({"user": torch.tensor(users)[order], "history": history}, seed=0).tolist()

    plain = keys(left=0, right=0, order=[0, 1, 2, 3, 4])
    assert len(set(plain)) == 5
    assert keys(left=2, right=3, order=[0, 1, 2, 3, 4]) == plain
    assert keys(left=0, right=1, order=[4, 2, 0]) == [plain[4], plain[2], plain[0]]
    assert (
        row_keys({"user": torch.tensor([3])}, seed=0).tolist() != row_keys({"user": torch.tensor([3])}, seed=1).tolist()
    )
    only_history = row_keys({"history": torch.tensor([[4, 7], [4, PAD]])}, seed=0).tolist()
    assert len({*only_history, *plain}) == 7
