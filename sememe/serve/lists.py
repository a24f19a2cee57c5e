"""From requests to lists: history, search, diversity, explanation; and the fallback where the model does not answer.

`Lists.answer` runs in the workers' threads, for as many requests at once as share a search.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sememe.core.errors import ArtifactError, ConfigError, SememeError
from sememe.core.schema import Ranked
from sememe.decode.rules import Part
from sememe.pipeline.engine import Answer, Request
from sememe.rerank.diversity import Diversity, VectorLikeness
from sememe.serve.explain import explain
from sememe.serve.histories import NOTHING, HistoryReader, Stored
from sememe.serve.known import Known, history_of, known_of
from sememe.serve.metrics import Metrics
from sememe.serve.served import Current, Served
from sememe.serve.wire import Explanation, Listed, RecommendAnswer, RecommendRequest

STORE_DOWN, OVER_BUDGET, ENGINE_FAILED = "store_down", "over_budget", "engine_failed"
POOL = 5
"""So many times as many candidates as are listed, where a diverse list is chosen from them."""

# What a model or what it was trained on may do wrong; what is ours, assertions, is no reason to go on.
FAILURES = (ArtifactError, RuntimeError, ArithmeticError, LookupError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Round:
    """One request, with all that is known of it."""

    asked: RecommendRequest
    known: Known
    parts: tuple[str | Part, ...]
    degraded: list[str]


class Lists:
    """Answers requests by the current model."""

    def __init__(self, current: Current, histories: HistoryReader, metrics: Metrics) -> None:
        self._current, self._histories, self._metrics = current, histories, metrics

    def check(self, asked: RecommendRequest) -> None:
        """Raise ConfigError for what no model could answer, before anybody waits for it."""
        served = self._current.served
        if asked.rules:
            served.item_set(served.parts(asked.rules))
        if asked.diversity and served.nearest.space.vectors is None:
            raise ConfigError(
                "diversity compares item vectors, and this model has none",
                fix="leave diversity out, or serve a row of a recipe that embeds items",
            )

    def answer(self, asked: Sequence[RecommendRequest]) -> list[RecommendAnswer | Exception]:
        """One answer per request, in order, or what is wrong with it."""
        served = self._current.served
        stored = self._histories.read([one.user_id for one in asked])
        rounds = self._rounds(served, asked, stored)
        searched = [one for one in rounds if one.known.readable]
        with self._metrics.engine_seconds.time():
            found = iter(_search(served, [_request(one) for one in searched]))
        answers: list[RecommendAnswer | Exception] = []
        for one in rounds:
            outcome = next(found) if one.known.readable else None
            answers.append(self._told(served, one, outcome))
        return answers

    def fall_back(self, asked: RecommendRequest, *, reason: str) -> RecommendAnswer:
        """An answer without model and store, in well under a millisecond.

        Raises ConfigError for a rule that there is not.
        """
        served = self._current.served
        (one,) = self._rounds(served, [asked], Stored([NOTHING], down=False))
        return self._without_model(served, replace(one, degraded=[*one.degraded, reason]), reason=reason)

    def _rounds(self, served: Served, asked: Sequence[RecommendRequest], stored: Stored) -> list[Round]:
        known = known_of(served.engine.serving, asked, stored.events)
        return [
            Round(
                asked=one,
                known=what,
                parts=served.parts(one.rules),
                degraded=[STORE_DOWN] if stored.down and one.user_id is not None else [],
            )
            for one, what in zip(asked, known, strict=True)
        ]

    def _told(self, served: Served, one: Round, outcome: Answer | Exception | None) -> RecommendAnswer | Exception:
        try:
            if isinstance(outcome, Answer):
                return _with_model(served, one, outcome)
            if isinstance(outcome, FAILURES):
                _log.error("the model failed, and the fallback answers", exc_info=outcome)
                one = replace(one, degraded=[*one.degraded, ENGINE_FAILED])
                return self._without_model(served, one, reason=ENGINE_FAILED)
            if outcome is not None:
                return outcome
            return self._without_model(served, one, reason="nothing_known")
        except SememeError as error:
            return error

    def _without_model(self, served: Served, one: Round, *, reason: str) -> RecommendAnswer:
        asked, serving = one.asked, served.engine.serving
        history = history_of(serving, one.known)
        allowed = served.allowed(one.parts)
        excluded = served.known_items(asked.exclude)
        left_out = excluded if asked.repeat_seen else np.concatenate([history, excluded])
        found = served.fallback.recommend(history, left_out=left_out.astype(np.int32), allowed=allowed, k=asked.k)
        self._metrics.fallbacks.labels(source=found.source, reason=reason).inc()
        ids = [str(name) for name in serving.items.names(found.items)]
        given = len(one.known.given) + len(asked.exclude)
        recognised = len(served.known_items(one.known.given)) + len(excluded)
        return RecommendAnswer(
            items=_listed(served, ids, found.scores.tolist(), titles=asked.titles),
            source=found.source,
            model=served.version,
            k=asked.k,
            history=one.known.sources,
            unknown=given - recognised,
            degraded=one.degraded,
        )


def _request(one: Round) -> Request:
    asked = one.asked
    return Request(
        history=one.known.given,
        user=one.known.user,
        k=asked.k * POOL if asked.diversity else asked.k,
        rules=one.parts,
        exclude=asked.exclude,
        repeat_seen=asked.repeat_seen,
    )


def _search(served: Served, requests: Sequence[Request]) -> list[Answer | Exception]:
    """One answer per request; where a search fails, each by itself, so that no request spoils those of others."""
    try:
        return [*served.engine.recommend(requests)] if requests else []
    except (SememeError, *FAILURES) as error:
        if len(requests) == 1:
            return [error]
        return [_search(served, [request])[0] for request in requests]


def _with_model(served: Served, one: Round, answer: Answer) -> RecommendAnswer:
    asked = one.asked
    if asked.diversity:
        answer = _varied(served, answer, asked)
    ids = [str(item) for item in answer.items]
    return RecommendAnswer(
        items=_listed(served, ids, answer.scores, titles=asked.titles),
        source=answer.source,
        model=served.version,
        k=asked.k,
        eligible=answer.eligible,
        history=one.known.sources,
        unknown=len(answer.unknown),
        degraded=one.degraded,
        explanation=_explained(served, one, answer) if asked.explain else None,
    )


def _varied(served: Served, answer: Answer, asked: RecommendRequest) -> Answer:
    """The items of `answer`, more than are asked for, as a shorter list of items unlike each other."""
    vectors = served.nearest.space.vectors
    if vectors is None or not answer.items:
        return replace(answer, items=answer.items[: asked.k], scores=answer.scores[: asked.k])
    indices = served.engine.serving.items.find(answer.items).astype(np.int32)
    ranked = Ranked(items=indices[None], scores=np.array([answer.scores], np.float32), source=answer.source)
    chosen = Diversity(VectorLikeness(vectors), relevance=1.0 - asked.diversity).rerank(ranked, k=asked.k)
    listed = chosen.items[0] >= 0
    names = served.engine.serving.items.names(chosen.items[0][listed])
    scores = chosen.scores[0][listed].tolist()
    return replace(answer, items=tuple(names), scores=tuple(scores), source=chosen.source, k=asked.k)


def _explained(served: Served, one: Round, answer: Answer) -> Explanation:
    return explain(served, served.engine.serving.items.find(answer.items), _request(one))


def _listed(served: Served, ids: Sequence[str], scores: Sequence[float], *, titles: bool) -> list[Listed]:
    named: Sequence[str | None] = served.titles(ids) if titles else [None] * len(ids)
    return [
        Listed(item_id=item_id, score=score, title=title)
        for item_id, score, title in zip(ids, scores, named, strict=True)
    ]
