"""Drawing without replacement in the slowest possible way: noise on every node of the tree, one number at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from planted_steps import TableModel

from sememe.core.seeding import derive_seed

WORD = 2**64
GAMMA = 0x9E3779B97F4A7C15
Code = tuple[int, ...]


@dataclass(frozen=True)
class SlowLeaf:
    """What the slow twin knows of a drawn semantic ID."""

    code: Code
    perturbed: float
    draw_log_prob: float


def slow_mix(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % WORD
    return value ^ (value >> 31)


def slow_gumbel(key: int) -> float:
    return -math.log(-math.log(((key >> 12) + 0.5) / 2**52))


def slow_row_key(seed: int, *, user: int, history: Sequence[int]) -> int:
    events = [slow_mix((item + GAMMA * place) % WORD) for place, item in enumerate(history, start=1)]
    return slow_mix((slow_mix((derive_seed(seed, "sample") + sum(events)) % WORD) + slow_mix(user + GAMMA)) % WORD)


def slow_level(log_probs: dict[int, float], *, temperature: float, top_p: float) -> dict[int, float]:
    """Log-probability of each code that can be drawn: the level's formula, one code at a time."""
    powers = {code: math.exp(value / temperature) for code, value in log_probs.items()}
    kept: dict[int, float] = {}
    for code in sorted(powers, key=lambda code: (-powers[code], code)):
        if sum(kept.values()) < top_p * sum(powers.values()) * (1 - 1e-6):
            kept[code] = powers[code]
    return {code: math.log(power / sum(kept.values())) for code, power in kept.items()}


def slow_draw(
    model: TableModel, allowed: set[Code], *, user: int, key: int, temperatures: Sequence[float], top_p: float
) -> list[SlowLeaf]:
    """Every leaf in the order of its noise: the whole tree walked from the top, no beam."""

    def walk(prefix: Code, key: int, perturbed: float, log_prob: float) -> list[SlowLeaf]:
        if len(prefix) == len(temperatures):
            return [SlowLeaf(prefix, perturbed, log_prob)]
        following = {code[len(prefix)] for code in allowed if code[: len(prefix)] == prefix}
        own = model.score(user, prefix)
        log_probs = {code: model.score(user, (*prefix, code)) - own for code in following}
        chances = slow_level(log_probs, temperature=temperatures[len(prefix)], top_p=top_p)
        keys = {code: slow_mix((key + GAMMA * (code + 1)) % WORD) for code in chances}
        free = {code: log_prob + chances[code] + slow_gumbel(keys[code]) for code in chances}
        largest = math.exp(-max(free.values(), default=0.0))
        leaves = []
        for code, value in free.items():
            score = -math.log(math.exp(-perturbed) + (math.exp(-value) - largest))
            leaves += walk((*prefix, code), keys[code], score, log_prob + chances[code])
        return leaves

    return sorted(walk((), key, slow_gumbel(key), 0.0), key=lambda leaf: -leaf.perturbed)
