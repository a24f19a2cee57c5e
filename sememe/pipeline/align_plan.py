"""What a recipe says of its alignment: whose samples, which reward, how far, and who judges."""

from dataclasses import dataclass, field
from math import ceil, floor
from typing import Any, Literal

from sememe.align.pairs import BestAndWorst
from sememe.align.prompts import Prompts
from sememe.align.rewards import DiscountedHit, Mix, RankReward, RuleReward
from sememe.align.rollouts import BeamGroups
from sememe.align.scores import GroupScores
from sememe.core.errors import ConfigError
from sememe.objectives.dpo import DPO
from sememe.objectives.grpo import GRPO
from sememe.pipeline.gate import Limits
from sememe.train.optim import AdamW, Constant
from sememe.train.plan import TrainPlan

STEP = "step"
"""The number of the steps done, to watch where the last weights are to be kept."""
LOOKED_AT = (STEP, "ndcg@10", "recall@10", "ndcg@50", "recall@50", "level1@10")
"""Numbers of the steering users that may choose the best step; the judge's reward may not, since it judges."""
BEFORE, REFUSED = "before", "refused"
"""After the name of the recipe, the row of the model that is not deployed: it was before, or it was refused."""


@dataclass(frozen=True)
class GatePlan:
    """How a model after alignment is compared with the one before."""

    judge: Any = DiscountedHit()
    """A reward that the policy was not trained on: one that reads what held-out users took, or one learned from
    feedback that the training reward never reads."""
    reads: Literal["other_users", "random_exposure"] = "other_users"
    """What a learned judge is fitted on: the feedback of the half of the users that a learned training reward does not
    read, or the events that were shown uniformly at random, which then only the judge reads."""
    list_items: int = 10
    """The judge sees the first so many items of a list."""
    lists: Literal["deployed", "generator"] = "deployed"
    """Whose lists are judged: those that the recipe's last word makes, fitted on other users for either model, or those
    of the generator alone."""
    users: int = 10_000
    """At most so many validation users, half of whom the gate judges by."""
    samples: int = 16
    """Draws per user that legality and KL are told from."""
    limits: Limits = Limits()

    def check(self) -> None:
        """Raise ConfigError for settings that cannot be."""
        for name, known in (("reads", ("other_users", "random_exposure")), ("lists", ("deployed", "generator"))):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"align.gate.{name} is {getattr(self, name)!r}", fix=f"set it to {' or '.join(known)}"
                )
        for name, least in (("users", 2), ("samples", 2), ("list_items", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"align.gate.{name} is {getattr(self, name)}", fix=f"set it to {least} or more")
        self.limits.check()


@dataclass(frozen=True)
class AlignPlan:
    """Rounds of: draw samples, ask the reward, train by the one loop; then the gate.

    Half of the validation users steer: numbers are shown by them while it trains.  The gate judges by the other half.
    """

    objective: Any = GRPO()
    """Reads "sample_log_probs"; `sememe.objectives` has GRPO, ECPO, GBPO, DPO and RewardWeighted."""
    reward: Any = Mix((RuleReward(), RankReward()))
    """A `Reward`, a `RewardPart` that is learned first, or a `Mix` of such."""
    prompts: Prompts = Prompts()
    asked_of: Literal["training", "steering"] = "training"
    """Whose events are the prompts: those of the training part, whose targets a model may know by heart, or the
    held-out ones of half of the validation users, by whom the gate does not judge."""
    sampler: Any = BeamGroups()
    scores: GroupScores | BestAndWorst = GroupScores()
    policy: Literal["current", "round"] = "current"
    """Whose samples: on-policy those of the weights in training; off-policy those of the model at the round's start."""
    reference: Literal["start", "round", "none"] = "start"
    """What the objective measures drift from: the model before alignment, or the one at the round's start."""
    rounds: int = 1
    train: TrainPlan = field(
        default_factory=lambda: TrainPlan(
            epochs=None,
            steps=500,
            optimizer=AdamW(lr=1e-4, weight_decay=0.0),
            schedule=Constant(warmup_steps=20),
            precision="fp32",
            validate_every=100,
            monitor=STEP,
        )
    )
    """Of one round.  Its monitor chooses among looks at the steering users; "step" keeps the last weights."""
    imitate: bool = False
    """Whether each step also imitates the log, by the recipe's own batches and objective."""
    weight: float = 1.0
    """Of the alignment, beside an imitation of weight 1."""
    share: float | None = None
    """Where set, samples are so many of the rows that are imitated: 0.01 is OneRec's 1 %."""
    leave_out_seen: bool = False
    """Whether samples hold nothing of the history."""
    trained: tuple[str, ...] = ()
    """Parts of the model that are trained, by the beginnings of their names; all where empty."""
    look_users: int = 500
    """Steering users that a look asks."""
    without_feedback: Literal["refuse", "skip"] = "refuse"
    """What to do with data that lacks what the rewards read: refuse it, or leave the model as it was trained, and say
    so."""
    gate: GatePlan = GatePlan()

    def check(self) -> None:
        """Raise ConfigError for settings that cannot be."""
        wrong = {
            "rounds": self.rounds < 1,
            "weight": self.weight <= 0,
            "share": self.share is not None and not 0.0 < self.share <= 1.0,
            "look_users": self.look_users < 2,
        }
        for name, is_wrong in wrong.items():
            if is_wrong:
                raise ConfigError(
                    f"align.{name} is {getattr(self, name)}", fix="see `sememe show RECIPE` and the part's description"
                )
        if self.share is not None and not self.imitate:
            raise ConfigError(
                "align.share says how many samples there are beside what is imitated, and nothing is",
                fix="set align.imitate=true, or align.share=null",
            )
        if self.policy not in ("current", "round") or self.reference not in ("start", "round", "none"):
            raise ConfigError(
                f"align.policy is {self.policy!r} and align.reference {self.reference!r}",
                fix="policy: current or round; reference: start, round or none",
            )
        if self.without_feedback not in ("refuse", "skip"):
            raise ConfigError(f"align.without_feedback is {self.without_feedback!r}", fix="set it to refuse or skip")
        if self.asked_of not in ("training", "steering"):
            raise ConfigError(f"align.asked_of is {self.asked_of!r}", fix="set it to training or steering")
        self._check_objective()
        self.gate.check()

    def sample_every(self, asked: int, beside: int) -> int:
        """Every how many steps samples for `asked` prompts come, so that they are `share` of `beside` rows a step.

        Raises:
            ConfigError: so few prompts are less than that share even at every step.
        """
        if self.share is None:
            return 1
        if asked < self.share * beside:
            raise ConfigError(
                f"align.share is {self.share:g}, and samples for {asked} prompts beside {beside} imitated rows "
                f"are {asked / beside:.3g} of them at most",
                fix=f"set align.prompts.batch_size={ceil(self.share * beside)}, or align.share="
                f"{floor(1e4 * asked / beside) / 1e4:g}",
            )
        return round(asked / (self.share * beside))

    def _check_objective(self) -> None:
        by_pairs = isinstance(self.objective, DPO)
        if by_pairs and not isinstance(self.scores, BestAndWorst):
            raise ConfigError(
                "align.objective is DPO, which takes the first sample of a group for the chosen one, and align.scores "
                f"is {type(self.scores).__name__}, which leaves groups in the order of their probability",
                fix="set scores to BestAndWorst()",
            )
        if self.reference == "none" and (by_pairs or getattr(self.objective, "kl_weight", 0) > 0):
            raise ConfigError(
                f"align.reference is 'none', and {type(self.objective).__name__} measures drift from one",
                fix="set align.reference to start or round",
            )
