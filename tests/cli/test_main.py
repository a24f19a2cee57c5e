"""The command as a person calls it: real processes for start-up and exit codes, the app itself for the rest."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sememe.cli.find_recipe import find_recipe, recipe_header, recipe_names
from sememe.cli.main import app, main, parse_columns
from sememe.core.errors import ConfigError
from sememe.data.simulated_files import write_world
from sememe.data.simulator import PlantedWorld


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Run the command in this process."""

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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_world(PlantedWorld(branching=(3, 3), num_users=80).generate(seed=0), folder, file_format="csv")
    return folder


def test_help_answers_without_torch() -> None:
    script = "import sys; from sememe.cli.main import app; app(['--help'], result_action='return_value')"
    done = subprocess.run(
        [sys.executable, "-c", script + "; assert 'torch' not in sys.modules"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "recommend" in done.stdout


def test_recipes_lists_every_file_with_its_status(call) -> None:  # type: ignore[no-untyped-def]
    out = call("recipes").out
    assert all(name in out for name in ("tiger", "sasrec", "item_knn", "popularity", "repeat_last"))
    assert all(recipe_header(name).status.split(":")[0] in out for name in recipe_names())


def test_show_prints_the_header_and_every_setting(call) -> None:  # type: ignore[no-untyped-def]
    out = call("show", "tiger@debug", "--set", "train.steps=7").out
    assert "arXiv 2305.05065" in out
    assert "train.steps = 7" in out
    assert "tokenizer = RqVae" in out


def test_diff_prints_what_differs_and_nothing_else(call) -> None:  # type: ignore[no-untyped-def]
    out = call("diff", "tiger@small", "tiger@paper").out
    assert "model.layers" in out
    assert "tokenizer" not in out


def test_check_of_good_files_ends_well_and_of_bad_ones_with_1(call, files: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert call("check", files).code == 0
    (tmp_path / "interactions.csv").write_text("user_id,timestamp\nu1,5\n")
    outcome = call("check", tmp_path)
    assert outcome.code == 1
    assert "item_id" in outcome.out


def test_from_files_to_recommendations(call, files: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "run"
    ran = call("run", "item_knn", "--data", files, "--out", out, "--set", "data.split.rule=leave_one_out")
    assert ran.code == 0, ran.err
    rows = json.loads(call("evaluate", out, "--json").out)["rows"]
    assert {row["model"] for row in rows} == {"item-knn"}
    assert "item-knn" in call("evaluate", out).out
    answer = call("recommend", out, "--user", "u03", "--k", "4")
    assert answer.code == 0, answer.err
    assert "recommended by item-knn" in answer.out
    assert "exact" in answer.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "tigre", "--data", "x", "--out", "y"], "did you mean 'tiger'"),
        (["show", "tiger@big"], "no size 'big'"),
        (["show", "popularity@big"], "one size only"),
        (["show", "tiger", "--set", "train.stepz=3"], "did you mean 'steps'"),
        (["show", "tiger", "--set", "train.steps"], "has no value"),
        (["show", "nowhere:recipe"], "cannot be imported"),
        (["recommend", "nowhere", "--user", "1"], "holds no finished run"),
        (["check", "nowhere"], "what to do"),
    ],
)
def test_a_mistake_ends_with_status_2_and_the_way_out(call, words: list[str], message: str) -> None:  # type: ignore[no-untyped-def]
    outcome = call(*words)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_a_recipe_of_ones_own_runs_like_a_built_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom sememe.recipes import popularity\n"
        "def best():\n    return replace(popularity(), name='mine')\ndef wrong():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert find_recipe("mine:best").name == "mine"
    with pytest.raises(ConfigError, match="gave int"):
        find_recipe("mine:wrong")
    with pytest.raises(ConfigError, match="did you mean 'best'"):
        find_recipe("mine:bets")


def test_columns_are_named_in_pairs() -> None:
    assert parse_columns(("user_id=kunde", "item_id=artikel")) == {"user_id": "kunde", "item_id": "artikel"}
    with pytest.raises(ConfigError, match="canonical=yours"):
        parse_columns(("user_id",))


def test_doctor_speaks_json(call) -> None:  # type: ignore[no-untyped-def]
    findings = json.loads(call("doctor", "--json").out)
    assert {"name", "ok", "found", "fix"} == set(findings[0])
    assert all(finding["fix"] for finding in findings if not finding["ok"])


def test_the_app_has_the_verbs_of_the_manual() -> None:
    verbs = {name for name in app.resolved_commands() if not name.startswith("-")}
    kept = {"check", "codes", "demo", "diff", "doctor", "evaluate", "recipes", "recommend", "report", "run", "show"}
    assert verbs == kept | {"serve", "new-key", "models", "refresh"}
