"""How many steps a plan comes to."""

import pytest

from sememe.core.errors import ConfigError
from sememe.train.plan import TrainPlan


@pytest.mark.parametrize(
    ("epochs", "least", "per_epoch", "expected"),
    [
        (3, 0, 7, 21),
        (3, 21, 7, 21),
        # Whole passes: 22 steps take a fourth one.
        (3, 22, 7, 28),
        (3, 28, 7, 28),
        (3, 29, 7, 35),
        (1, 500, 1, 500),
        (20, 500, 1000, 20_000),
    ],
)
def test_a_small_log_is_passed_over_until_there_were_enough_steps(
    epochs: int, least: int, per_epoch: int, expected: int
) -> None:
    assert TrainPlan(epochs=epochs, least_steps=least).total_steps(per_epoch) == expected


def test_steps_that_were_asked_for_are_those_done() -> None:
    assert TrainPlan(epochs=None, steps=30, least_steps=500).total_steps(7) == 30


def test_no_epoch_and_too_few_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="epochs is 0, but it must be 1 or more"):
        TrainPlan(epochs=0, least_steps=500).total_steps(7)
    with pytest.raises(ConfigError, match="least_steps is -1, but it must be 0 or more"):
        TrainPlan(least_steps=-1).total_steps(7)


def test_a_training_with_another_least_number_of_steps_is_another_one() -> None:
    assert TrainPlan(least_steps=5).fingerprint() != TrainPlan().fingerprint()


def test_added_passes_bring_no_more_looks_than_the_epochs_asked_for() -> None:
    plan = TrainPlan(epochs=10, least_steps=1000)
    assert plan.look_every(300) == 300, "long enough: once an epoch"
    assert plan.look_every(1) == 100 and plan.look_every(7) == 1001 // 10
    assert TrainPlan(epochs=10, least_steps=1000, validate_every=3).look_every(1) == 3
    assert TrainPlan(epochs=None, steps=50).look_every(7) == 7
