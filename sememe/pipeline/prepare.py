"""The stages before a model: files -> interactions and catalogue -> split -> item vectors -> codes."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from sememe.core.artifact import Manifest
from sememe.core.errors import DataError, LimitError
from sememe.core.schema import Catalog, Codes, FloatArray, Int64Array, Interactions, ModelInputs
from sememe.data.datasets import ResolvedDataset, check_counts, resolve_dataset
from sememe.data.dropped import Dropped
from sememe.data.event_inputs import count_actions, count_gaps
from sememe.data.index import build_interactions
from sememe.data.readers import Tables, open_tables
from sememe.data.splits import Examples, Split, check_no_leak
from sememe.data.store import load_catalog, load_interactions, save_catalog, save_interactions, save_vocabularies
from sememe.embed.fuse import Fuse
from sememe.pipeline.recipe import ContextTokenizer, DataPlan, Embedder, Recipe, Tokenizer
from sememe.pipeline.stages import StageStore, Workbench
from sememe.sid.context import CodeContext
from sememe.sid.encode import settle_catalog
from sememe.sid.fitted import FittedTokenizer, kind_of, save_tokenizer
from sememe.sid.report import SidReport, sid_report
from sememe.sid.vocab import load_codes, save_codes

TOKENIZER_FILE = "tokenizer.safetensors"
"""What the recipe's tokenizer learnt."""
EXTENDED_FILE = "extended.safetensors"
"""What gives later items their codes, where the collision rule made it of the tokenizer."""


@dataclass(frozen=True, eq=False)
class World:
    """The data of a run, ready for models."""

    interactions: Interactions
    catalog: Catalog
    split: Split
    data: Manifest
    split_manifest: Manifest

    @property
    def simulated(self) -> bool:
        """Whether the data is made up."""
        return bool(self.data.meta["result"].get("simulated", False))

    def train_counts(self) -> Int64Array:
        """(I,) training events of each item."""
        return np.bincount(self.split.train().items, minlength=self.catalog.num_items)


@dataclass(frozen=True, eq=False)
class ItemSpace:
    """What a recipe made of the items; fields are None where the recipe has no such stage."""

    vectors: FloatArray | None
    codes: Codes | None
    stages: Mapping[str, Manifest]
    """"vectors" and "codes", as far as they exist."""

    @property
    def vector_widths(self) -> tuple[int, ...]:
        """Widths of the parts that the vectors were joined from."""
        return tuple(self.stages["vectors"].meta["result"]["widths"]) if "vectors" in self.stages else ()

    def inputs(self, world: World) -> ModelInputs:
        """What a model may know when it is built."""
        return ModelInputs(
            num_users=world.interactions.num_users,
            num_items=world.interactions.num_items,
            codes=self.codes,
            item_vectors=self.vectors,
            train_counts=world.train_counts(),
            num_actions=count_actions(world.interactions),
            num_gaps=count_gaps(world.interactions),
        )


def prepare_world(stages: StageStore, plan: DataPlan, *, source: Any, columns: Mapping[str, str]) -> World:
    """Read, filter and split `source` (a path, the name of a known data set, or a table in memory)."""
    resolved = resolve_dataset(source) if isinstance(source, str | Path) else ResolvedDataset(path=source, spec=None)
    tables = open_tables(resolved.path, columns=columns or None)
    data = stages.get(
        "data",
        settings={
            "filters": plan.filters,
            "keep_cold_items": plan.keep_cold_items,
            "columns": json.dumps(dict(columns)),
        },
        inputs={"files": tables.content_hash()},
        make=lambda bench: _make_data(bench, tables, plan, resolved=resolved),
    )
    stages.say(_describe(data.meta["result"]))
    interactions = load_interactions(data.path, memory_map=True)
    split_manifest = stages.get(
        "split",
        settings={"split": plan.split, "benchmark": resolved.spec is not None},
        inputs={"data": data.content_hash},
        make=lambda bench: make_split(bench, interactions, plan, benchmark=resolved.spec is not None),
    )
    stages.say(_describe_split(split_manifest.meta["result"]["protocol"]))
    return open_world(data, split_manifest)


def open_world(data: Manifest, split: Manifest) -> World:
    """The world that two finished stages hold."""
    interactions = load_interactions(data.path, memory_map=True)
    arrays = load_file(split.path / "split.safetensors")
    parts = {
        name: Examples(users=arrays[f"{name}.users"], starts=arrays[f"{name}.starts"], ends=arrays[f"{name}.ends"])
        for name in ("valid", "test")
    }
    return World(
        interactions=interactions,
        catalog=load_catalog(data.path),
        split=Split(
            interactions=interactions,
            train_ends=arrays["train_ends"],
            valid=parts["valid"],
            test=parts["test"],
            protocol=split.meta["result"]["protocol"],
            withheld=arrays.get("withheld", np.zeros(0, np.int32)),
        ),
        data=data,
        split_manifest=split,
    )


def prepare_items(stages: StageStore, recipe: Recipe, world: World, *, seed: int) -> ItemSpace:
    """Vectors and codes of all items, as far as `recipe` asks for them."""
    if recipe.embed is None:
        return ItemSpace(vectors=None, codes=None, stages={})
    # Vectors are dear and hardly depend on the seed, so all seeds of a run share those of the first.
    embedder, first = recipe.embed, recipe.seeds[0]
    vectors_manifest = stages.get(
        "vectors",
        settings={"embed": embedder, "seed": first},
        inputs={"data": world.data.content_hash, "split": world.split_manifest.content_hash},
        make=lambda bench: _make_vectors(bench, embedder, world, seed=first),
    )
    if recipe.tokenizer is None:
        return open_items(vectors_manifest, None)
    items = open_items(vectors_manifest, None)
    inputs = {"vectors": vectors_manifest.content_hash}
    # The log is an input of the codes only where the tokenizer reads it: codes of the others stay in use when it grows.
    if isinstance(recipe.tokenizer, ContextTokenizer):
        inputs |= {"data": world.data.content_hash, "split": world.split_manifest.content_hash}
    codes_manifest = stages.get(
        "codes",
        settings={"tokenizer": recipe.tokenizer, "collisions": recipe.collisions, "seed": seed},
        inputs=inputs,
        make=lambda bench: _make_codes(bench, recipe, items, world, seed=seed),
    )
    stages.say((codes_manifest.path / "report.txt").read_text(encoding="utf-8").rstrip())
    # Codes that an earlier run made are held to the limits too, which may be new.
    check_limits(recipe, codes_manifest, seed=seed)
    return open_items(vectors_manifest, codes_manifest)


def check_limits(recipe: Recipe, codes: Manifest, *, seed: int) -> None:
    """Hold the codes of a finished stage to the limits of `recipe`.

    Raises:
        LimitError: names every limit that is broken, the level, what was found, and what usually mends it.
    """
    broken = recipe.limits.broken(read_report(codes))
    if not broken:
        return
    lines = [f"  limits.{limit.name}: {limit.text}" for limit in broken]
    ways_out = "; ".join(dict.fromkeys(limit.way_out for limit in broken))
    raise LimitError(
        f"the semantic IDs of {recipe.name!r} (seed {seed}) break limits of the recipe; nothing was trained:\n"
        + "\n".join(lines),
        fix=f"look at them: sememe codes {codes.path}; {ways_out}; or lower the limit if such codes will do",
    )


def read_report(codes: Manifest) -> SidReport:
    """What a finished stage of codes says of them."""
    return SidReport.from_json(json.loads((codes.path / "report.json").read_text(encoding="utf-8")))


def open_items(vectors: Manifest | None, codes: Manifest | None) -> ItemSpace:
    """The item space that finished stages hold."""
    stages = {name: manifest for name, manifest in (("vectors", vectors), ("codes", codes)) if manifest is not None}
    return ItemSpace(
        vectors=None if vectors is None else _load_vectors(vectors),
        codes=None if codes is None else load_codes(codes.path),
        stages=stages,
    )


def _load_vectors(manifest: Manifest) -> FloatArray:
    vectors: FloatArray = load_file(manifest.path / "vectors.safetensors")["vectors"]
    return vectors


def _make_data(bench: Workbench, tables: Tables, plan: DataPlan, *, resolved: ResolvedDataset) -> dict[str, Any]:
    indexed = build_interactions(tables, workdir=bench.scratch, keep_cold_items=plan.keep_cold_items)
    interactions, catalog = indexed.interactions, indexed.catalog
    if resolved.spec is not None:
        check_counts(resolved.spec, interactions)
    dropped: list[Dropped] = list(indexed.dropped)
    for step in plan.filters.steps():
        filtered = step.apply(interactions, catalog)
        interactions, catalog = filtered.interactions, filtered.catalog
        dropped.extend(filtered.dropped)
    if interactions.num_events == 0:
        raise DataError("no event is left after reading and filtering", fix="see `sememe check` and data.filters")
    save_interactions(bench.target, interactions)
    save_catalog(bench.target, catalog)
    save_vocabularies(bench.target, indexed.vocabularies)
    # Only where it is so: what is said of other data stays as it was.
    label = {"simulated": True} if tables.settings.simulated else {}
    return label | {
        "dataset": resolved.spec.name if resolved.spec else None,
        "users": interactions.num_users,
        "items": interactions.num_items,
        "events": interactions.num_events,
        "order": indexed.order_rule,
        "dropped": [asdict(drop) for drop in dropped if drop.count],
        "notes": [*resolved.notes, *tables.notes, *indexed.notes],
        "mapping": dict(tables.mapping),
    }


def make_split(bench: Workbench, interactions: Interactions, plan: DataPlan, *, benchmark: bool) -> dict[str, Any]:
    """Fill a stage "split".  Raises DataError where it would leave no example."""
    split = plan.split.split(interactions, benchmark=benchmark)
    check_no_leak(split)
    for name, examples in (("validation", split.valid), ("test", split.test)):
        if len(examples) == 0:
            raise DataError(
                f"the split leaves no {name} example",
                fix="give more events per user, or choose another rule: --set data.split.rule=leave_one_out",
            )
    arrays: dict[str, np.ndarray[Any, Any]] = {"train_ends": split.train_ends}
    for name, examples in (("valid", split.valid), ("test", split.test)):
        arrays |= {f"{name}.users": examples.users, f"{name}.starts": examples.starts, f"{name}.ends": examples.ends}
    # Left out where empty: a split that withholds nothing keeps its bytes, and what was trained on it stays in use.
    if len(split.withheld):
        arrays["withheld"] = split.withheld
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, bench.target / "split.safetensors")
    return {"protocol": dict(split.protocol)}


def _make_vectors(bench: Workbench, embedder: Embedder, world: World, *, seed: int) -> dict[str, Any]:
    train = world.split.train()
    if isinstance(embedder, Fuse):
        parts = embedder.embed_parts(world.catalog, train, seed=seed)
        vectors, widths = embedder.join(parts), [part.shape[1] for part in parts]
        # Whitening mixes the parts: what comes out is one.
        widths = widths if embedder.num_parts == len(parts) else [vectors.shape[1]]
    else:
        vectors = embedder.embed(world.catalog, train, seed=seed)
        widths = [vectors.shape[1]]
    empty = int(np.sum(~vectors.any(axis=1)))
    if empty == len(vectors):
        raise DataError(
            "no item has any content to embed: every vector is zero",
            fix="add a title, description, categories or brand column to the items, or use the recipe "
            "tiger_collab, which reads who used what instead of text",
        )
    save_file({"vectors": np.ascontiguousarray(vectors)}, bench.target / "vectors.safetensors")
    return {"shape": list(vectors.shape), "widths": widths, "items_without_content": empty}


def fit_tokenizer(
    tokenizer: Tokenizer | ContextTokenizer, items: ItemSpace, world: World, *, seed: int
) -> FittedTokenizer:
    """`tokenizer` fitted on the vectors of `items` and, where it reads that, on the training part of `world`.

    Raises what the tokenizer raises.
    """
    assert items.vectors is not None, "a tokenizer is fitted on vectors"
    if isinstance(tokenizer, ContextTokenizer):
        context = CodeContext(items.vector_widths, world.split.train())
        return tokenizer.fit_in(items.vectors, context=context, seed=seed)
    return tokenizer.fit(items.vectors, seed=seed)


def _make_codes(bench: Workbench, recipe: Recipe, items: ItemSpace, world: World, *, seed: int) -> dict[str, Any]:
    assert recipe.tokenizer is not None and recipe.collisions is not None, "codes need a tokenizer and a collision rule"
    vectors = items.vectors
    assert vectors is not None, "codes are made of vectors"
    if len(vectors) > 1 and (vectors == vectors[0]).all():
        raise DataError(
            f"all {len(vectors):,} items have the same vector, so that codes would say nothing of any of them",
            fix="give the items columns that differ, such as titles or descriptions, or a recipe without semantic IDs: "
            "sasrec, item_knn",
        )
    tokenizer = fit_tokenizer(recipe.tokenizer, items, world, seed=seed)
    settled = settle_catalog(recipe.collisions, tokenizer=tokenizer, vectors=vectors, seed=seed)
    codes = settled.codes
    save_codes(bench.target, codes)
    save_tokenizer(bench.target / TOKENIZER_FILE, tokenizer)
    if settled.tokenizer is not tokenizer:
        save_tokenizer(bench.target / EXTENDED_FILE, settled.tokenizer)
    semantic = codes.matrix[:, : codes.num_semantic_levels]
    report = sid_report(codes, vectors, reconstruction=tokenizer.reconstruct(semantic))
    (bench.target / "report.json").write_text(json.dumps(report.to_json(), indent=2), encoding="utf-8")
    (bench.target / "report.txt").write_text(report.render() + "\n", encoding="utf-8")
    return {"codebook_sizes": list(codes.codebook_sizes), "tokenizer": kind_of(settled.tokenizer)}


def _describe_split(protocol: Mapping[str, Any]) -> str:
    counts = protocol["counts"]
    lines = [
        f"  {protocol['name']}: {counts['train_events']:,} training events, {counts['valid_users']:,} validation and "
        f"{counts['test_users']:,} test users"
    ]
    lines += [f"  left out: {count:,} {reason}" for reason, count in protocol["left_out"].items() if count]
    if counts["test_cold_targets"]:
        lines.append(f"  note: {counts['test_cold_targets']:,} test targets never occur in training")
    return "\n".join(lines)


def _describe(result: Mapping[str, Any]) -> str:
    lines = [f"  {result['users']:,} users, {result['items']:,} items, {result['events']:,} events; {result['order']}"]
    lines += ["  SIMULATED: none of this ever happened"] if result.get("simulated") else []
    lines += [f"  left out: {drop['count']:,} {drop['reason']}" for drop in result["dropped"]]
    lines += [f"  note: {note}" for note in result["notes"]]
    return "\n".join(lines)
