"""Why a list is what it is: what the generator gives to each code, which history items are near, what rules remove.

Shape legend: m listed items, L code levels, T items of the history, K codes of a level.
"""

from collections.abc import Sequence

import numpy as np
import torch

from sememe.core.schema import FloatArray, Int32Array, Int64Array
from sememe.decode.rules import Part
from sememe.pipeline.answering import Answerer, Asked
from sememe.pipeline.engine import Request, resolve
from sememe.serve.served import Served
from sememe.serve.wire import Explanation, NearItem, Removed, Why
from sememe.train.device import to_tensors

NEAREST = 3


def explain(served: Served, items: Int64Array, request: Request) -> Explanation:
    """Why `items` (m,) were listed for `request`, as far as it can be told.  Raises as `Engine.recommend` does."""
    asked = resolve(served.engine.serving, request).asked
    ids = [str(name) for name in served.engine.serving.items.names(items)]
    codes = served.nearest.space.codes
    log_probs = _code_log_probs(served.engine.serving.answerer, items, asked)
    near = _nearest(served, items, asked.history)
    whys = [
        Why(
            item_id=item_id,
            codes=None if codes is None else codes.matrix[items[row]].tolist(),
            code_log_probs=None if log_probs is None else log_probs[row].tolist(),
            nearest=None if near is None else near[row],
        )
        for row, item_id in enumerate(ids)
    ]
    return Explanation(
        items=whys,
        rules=_removed(served, request.rules),
        seen=0 if request.repeat_seen else len(np.unique(asked.history)),
        excluded=len(served.known_items(request.exclude)),
    )


def _code_log_probs(answerer: Answerer, items: Int64Array, asked: Asked) -> FloatArray | None:
    """(m, L) log-probability of each code after those before it; None where no generator answers.

    The list may come from the compiled search; the model that it was made from says the same within rounding.
    """
    recommender = answerer.recommender
    model, trie = recommender.model, recommender.trie
    if trie is None or not hasattr(model, "step") or len(items) == 0:
        return None
    tensors = to_tensors(answerer.batch([asked]), recommender.device)
    position = trie.positions[torch.from_numpy(items).to(trie.device)]
    columns = [codes[trie.node_at(position, depth=level + 1)].long() for level, codes in enumerate(trie.child_codes)]
    told = []
    with torch.inference_mode():
        state = model.encode(tensors)
        log_probs = model.step(state, None, None)[0].expand(len(items), -1)
        told.append(log_probs.gather(1, columns[0][:, None]))
        # The items part at the first step: from there on each is a beam of its own.
        parents = torch.zeros_like(columns[0])[None]
        for before, column in zip(columns[:-1], columns[1:], strict=True):
            log_probs = model.step(state, before[None], parents)[0]
            told.append(log_probs.gather(1, column[:, None]))
            parents = torch.arange(len(items), device=trie.device)[None]
    found: FloatArray = torch.cat(told, 1).cpu().numpy()
    return found


def _nearest(served: Served, items: Int64Array, history: Int32Array) -> list[list[NearItem]] | None:
    """Per item, the few items of the history that it is most like."""
    # Of an item that came twice one is enough; the latest events are what the model reads.
    others = np.unique(history[-served.engine.serving.answerer.recommender.max_history :])
    likeness = served.nearest.between(items, others)
    if likeness is None:
        return None
    names = [str(name) for name in served.engine.serving.items.names(others)]
    order = np.argsort(-likeness, axis=1, kind="stable")[:, :NEAREST]
    return [
        [NearItem(item_id=names[place], similarity=float(likeness[row, place])) for place in places]
        for row, places in enumerate(order.tolist())
    ]


def _removed(served: Served, parts: Sequence[str | Part]) -> list[Removed]:
    rules = served.engine.serving.rules
    if rules is None:
        return []
    return [Removed(rule=_called(part), items=rules.trie.num_items - rules.allowed(part).num_members) for part in parts]


def _called(part: str | Part) -> str:
    if isinstance(part, str):
        return part
    return f"{'none' if part.negated else 'any'} of {', '.join(sorted(part.names))}"
