"""`sememe codes`: the health report of a finished run, of an unfinished one and of a single stage."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from sememe.cli.main import main
from sememe.core.errors import ConfigError, DataError, LimitError, MissingExtraError, SememeError
from sememe.pipeline import code_plots
from sememe.pipeline.code_health import judge_run_codes
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.run import run_recipe
from sememe.sid.collisions import KeepTied
from sememe.sid.controls import RandomPlanes
from sememe.sid.health import Absent
from sememe.sid.limits import CodeLimits
from sememe.sid.reassign import ReassignLast
from sememe.sid.rqkmeans import FittedResidualKMeans, ResidualKMeans

PICTURES = {"use.png", "groups.png", "neighbours.png", "cooccurrence.png"}


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the command in this process, with a terminal that breaks no line."""
    monkeypatch.setattr("sememe.cli.main.console.width", 200)

    def run(*words: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sememe", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to write into."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_finished_run_end_to_end(call: Call, run: Path) -> None:
    outcome = call("codes", run)
    assert outcome.code == 0, outcome.err
    assert (
        "semantic IDs of tiny, seed 0: ResidualKMeans, 36 items (36 distinct vectors, 0 without content)" in outcome.out
    )
    for heading in ("perplexity", "entropy (bits)", "prefixes", "lost", "neighbours", "category", "together", "refit"):
        assert heading in outcome.out
    assert "agrees on the first code with an adjusted Rand index of" in outcome.out
    written = {file.name for file in (run / "codes").iterdir() if file.suffix in (".json", ".png")}
    assert written == {"health.json"} | PICTURES
    assert all(str(run / "codes" / name) in outcome.out for name in written)
    assert all((run / "codes" / name).read_bytes().startswith(b"\x89PNG") for name in PICTURES)


def test_health_json_says_what_the_tables_say(call: Call, run: Path) -> None:
    printed = json.loads(call("codes", run, "--json").out)
    assert printed == json.loads((run / "codes" / "health.json").read_text())
    (stage,) = (run / "stages").glob("codes-*")
    about = {"name": "tiny", "stage": stage.name, "seed": 0, "items": 36}
    assert {name: printed[name] for name in about} == about
    assert printed["tokenizer"]["codebook_size"] == 8
    report = json.loads((stage / "report.json").read_text())
    assert printed["unique_share"] == report["unique_share"]
    assert printed["reconstruction"][-1] == {"depth": 2, "error": report["reconstruction_error"]}
    # The short report knows at most two prefix lengths; here that is all of them.
    assert printed["neighbours"]["rows"] == report["neighbours"]
    assert sum(size * groups for size, groups in printed["group_sizes"]) == 36
    assert printed["cooccurrence"]["rows"][0]["depth"] == 0
    assert printed["stability"]["seed"] == 1
    assert 0 < printed["categories"]["rows"][0]["by_chance"] < printed["categories"]["rows"][0]["purity"]


def test_the_second_fit_is_kept_and_can_be_left_out(run: Path) -> None:
    said: list[str] = []
    bare = judge_run_codes(run, refit=False, say=said.append).health.stability
    assert isinstance(bare, Absent) and "there is no fit with another seed" in bare.absent
    assert not (run / "codes" / "refits").exists() and said == []
    made = judge_run_codes(run, say=said.append).health.stability
    assert "the tokenizer is fitted again with seed 1" in " ".join(said)
    said.clear()
    assert judge_run_codes(run, say=said.append).health.stability == made
    assert said == ["refit: unchanged, reused"]


def test_only_training_events_count(run: Path) -> None:
    judged = judge_run_codes(run, refit=False, say=lambda _: None)
    assert not isinstance(judged.health.cooccurrence, Absent)
    protocol = json.loads((run / "metrics.json").read_text())["protocol"]
    assert judged.health.cooccurrence.events == protocol["counts"]["train_events"]


def test_a_run_with_two_seeds_compares_them(tiny: Recipe, world_files: Path, tmp_path: Path) -> None:
    run_recipe(replace(tiny, seeds=(3, 5), baselines=()), data=world_files, out=tmp_path, say=lambda _: None)
    judged = judge_run_codes(tmp_path, say=lambda _: None)
    assert judged.seed == 3
    assert not isinstance(judged.health.stability, Absent)
    assert judged.health.stability.seed == 5
    assert not (tmp_path / "codes" / "refits").exists()


def test_codes_dealt_out_anew_are_compared_with_codes_dealt_out_anew(
    tiny: Recipe, world_files: Path, tmp_path: Path
) -> None:
    recipe = replace(tiny, collisions=ReassignLast(), limits=CodeLimits(reconstruction_error=1e-6))
    with pytest.raises(LimitError):
        run_recipe(recipe, data=world_files, out=tmp_path, say=lambda _: None)
    health = judge_run_codes(tmp_path, say=lambda _: None).health
    assert not isinstance(health.stability, Absent)
    # No two items share all codes, in either fit.
    assert health.stability.rows[-1].kept is None
    assert [row.depth for row in health.reconstruction] == [1, 2]


@pytest.mark.parametrize("kind", [DataError, ConfigError])  # a loss that diverges is told as a setting
def test_a_second_fit_that_fails_is_a_measure_that_is_absent(
    run: Path, monkeypatch: pytest.MonkeyPatch, kind: type[SememeError]
) -> None:
    def fit(self: ResidualKMeans, vectors: object, *, seed: int) -> FittedResidualKMeans:
        raise kind(f"no luck with seed {seed}", fix="take another")

    monkeypatch.setattr(ResidualKMeans, "fit", fit)
    health = judge_run_codes(run, say=lambda _: None).health
    assert health.stability == Absent("a fit with another seed came to nothing: no luck with seed 1")
    assert [row.depth for row in health.reconstruction] == [1, 2]


def test_a_run_that_stopped_at_a_limit_can_be_looked_at(
    call: Call, tiny: Recipe, world_files: Path, tmp_path: Path
) -> None:
    recipe = replace(tiny, limits=CodeLimits(reconstruction_error=1e-6))
    with pytest.raises(LimitError) as caught:
        run_recipe(recipe, data=world_files, out=tmp_path, say=lambda _: None)
    (stage,) = (tmp_path / "stages").glob("codes-*")
    assert f"sememe codes {stage}" in str(caught.value)
    # As the message of the limit names it.
    outcome = call("codes", stage, "--no-refit")
    assert outcome.code == 0, outcome.err
    assert "refit is not measured: there is no fit with another seed" in outcome.out
    assert (tmp_path / "codes" / stage.name / "health.json").is_file()
    said: list[str] = []
    assert judge_run_codes(tmp_path, refit=False, say=said.append).stage == stage
    assert said == [f"the run is not finished; its newest codes are {stage.name}"]
    assert (tmp_path / "codes" / "health.json").is_file()


def test_a_baseline_with_codes_has_a_report_of_its_own(
    call: Call, tiny: Recipe, world_files: Path, tmp_path: Path
) -> None:
    planes = replace(tiny, name="planes", baselines=(), tokenizer=RandomPlanes(levels=2, bits=2), collisions=KeepTied())
    run_recipe(replace(tiny, baselines=(planes,)), data=world_files, out=tmp_path, say=lambda _: None)
    outcome = call("codes", tmp_path, "--model", "planes")
    assert "semantic IDs of planes, seed 0: RandomPlanes" in outcome.out
    assert "note: the tokenizer does not say what its first codes alone stand for" in outcome.out
    assert (tmp_path / "codes" / "planes" / "health.json").is_file()
    assert not (tmp_path / "codes" / "health.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "tinny"], "did you mean 'tiny'"),
        (["--model", "popularity"], "the model 'popularity' has no semantic IDs\n  what to do: give --model tiny"),
    ],
)
def test_models_without_codes_are_refused(call: Call, finished: Path, words: list[str], message: str) -> None:
    outcome = call("codes", finished, *words)
    assert outcome.code == 2
    assert message in outcome.err


def test_what_is_no_run_is_refused(call: Call, run: Path, tmp_path: Path) -> None:
    assert "holds no semantic IDs" in call("codes", tmp_path / "nowhere").err
    (vectors,) = (run / "stages").glob("vectors-*")
    assert "'codes' was asked for" in call("codes", vectors).err
    (stage,) = (run / "stages").glob("codes-*")
    assert "leave --model out" in call("codes", stage, "--model", "tiny").err
    (run / "run.json").unlink()
    assert "its models have no names yet" in call("codes", run, "--model", "tiny").err
    shutil.rmtree(vectors)
    assert "no longer holds the vectors" in call("codes", run).err


def test_without_matplotlib_there_are_numbers_and_a_hint(
    call: Call, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = call("codes", run, "--no-refit")
    assert outcome.code == 0, outcome.err
    assert 'pip install "sememe[report]"' in outcome.out
    assert (run / "codes" / "health.json").is_file()
    assert not list((run / "codes").glob("*.png"))


def test_a_collapsed_level_and_many_levels_can_be_drawn(run: Path, tmp_path: Path) -> None:
    judged = judge_run_codes(run, refit=False, say=lambda _: None)
    rng = np.random.default_rng(0)
    many = rng.integers(0, 4, (36, 12)).astype(np.int32)
    many[:, 3] = 2
    codes = KeepTied().resolve(many, (4,) * 11 + (9,))
    written = code_plots.plot_codes(codes, judged.health, tmp_path, title="many")
    assert {file.name for file in written} == PICTURES
    absent = replace(judged.health, neighbours=Absent("no"), cooccurrence=Absent("no"), group_sizes=((36, 1),))
    written = code_plots.plot_codes(codes, absent, tmp_path, title="few")
    assert [file.name for file in written] == ["use.png", "groups.png"]


def test_a_tokenizer_that_does_not_name_its_fitted_class_is_no_error(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(self, vectors, *, seed):  # type: ignore[no-untyped-def]
        raise AssertionError("nothing is fitted for a report without a second fit")

    monkeypatch.setattr(ResidualKMeans, "fit", fit)
    health = judge_run_codes(run, refit=False, say=lambda _: None).health
    assert [row.depth for row in health.reconstruction] == [2]
    assert "first codes alone" in health.notes[0]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, run: Path, tmp_path: Path) -> None:
    judged = judge_run_codes(run, refit=False, say=lambda _: None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="drawing semantic IDs needs the package 'matplotlib'"):
        code_plots.plot_codes(judged.codes, judged.health, tmp_path, title="none")
