"""What README, docs and the demo print can be typed as it stands: the server that is offered, and what it is asked."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from sememe.cli import demo
from sememe.data.simulated_files import write_world
from sememe.data.simulator import PlantedWorld
from sememe.pipeline.opened import open_run
from sememe.pipeline.run import run_recipe
from sememe.serve.client import Ask, Client

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SAYS = "listening on "

Start = Callable[[str, Path], str]


def curl_commands(name: str) -> list[str]:
    """The commands of a page that begin with curl, each with the lines that it goes on in."""
    lines = "\n".join(BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))).replace("\\\n", "\0").splitlines()
    return [line.replace("\0", "\\\n") for line in lines if line.startswith("curl ")]


@pytest.fixture(scope="module")
def numbered_run(served_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose users and items are whole numbers, as those of the demo are."""
    folder = tmp_path_factory.mktemp("numbered")
    world = PlantedWorld(branching=(4, 4), items_per_leaf=12, num_users=150, popularity=0.0).generate(seed=0)
    # The pages name items up to 183; a run knows those that somebody used.
    assert len(set(world.interactions.items.tolist())) == 192
    write_world(world, folder / "data")
    for file in ("interactions", "items"):
        path = folder / "data" / f"{file}.parquet"
        frame = pl.read_parquet(path)
        ids = [name for name in ("user_id", "item_id") if name in frame.columns]
        number = pl.col(ids).cast(pl.String).str.extract(r"(\d+)").cast(pl.Int64) + 1
        frame.with_columns(number).write_parquet(path)
    recipe = open_run(served_run).recipe
    return run_recipe(recipe, data=folder / "data", out=folder / "runs" / "demo", say=lambda _: None)


@pytest.fixture(scope="module")
def start(quiet_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Types a command in a folder, at a port that is free, and tells the server's address."""
    programs = tmp_path_factory.mktemp("bin")
    script = programs / "sememe"
    script.write_text(f"#!{sys.executable}\nfrom sememe.cli.main import main\nmain()\n")
    script.chmod(0o755)
    environment = {**quiet_environment, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    with ExitStack() as stack:

        def run(command: str, folder: Path) -> str:
            line = f"exec {command} --port 0"
            child = subprocess.Popen(
                ["sh", "-c", line],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.callback(child.wait)
            stack.callback(child.kill)
            assert child.stdout is not None
            lines = []
            for told in child.stdout:
                lines.append(told)
                if told.startswith(SAYS):
                    return told.removeprefix(SAYS).strip()
            raise AssertionError("".join(lines))

        yield run


def offered(text: str) -> str:
    """The command that a text ends with, without what is said of it."""
    return text.rstrip().splitlines()[-1].partition("#")[0].strip()


@pytest.mark.parametrize("page", ["README.md", "docs/serving.md"])
def test_curl_examples_work_as_printed(page: str, numbered_run: Path, start: Start, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    address = start("sememe serve runs/demo", numbered_run.parents[1]).removeprefix("http://")
    # curl reads this file by itself: another port in place of the printed one, and an exit code for HTTP errors.
    (tmp_path / ".curlrc").write_text(f'connect-to = "localhost:8000:{address}"\nfail-with-body\n')
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    commands = curl_commands(page)
    assert len(commands) >= 4 and all("localhost:8000/" in command for command in commands)
    for command in commands:
        done = subprocess.run(
            ["sh", "-c", command],
            env={**environment, "CURL_HOME": str(tmp_path), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        check_answer(command, json.loads(done.stdout))


def check_answer(command: str, told: Any) -> None:
    """It is what was asked for."""
    asked = json.loads(re.findall(r"-d '(.*?)'", command, re.DOTALL)[0])
    if "/v1/events" in command:
        assert told["accepted"] + told["duplicates"] == 1
        return
    assert len(told["items"]) == asked.get("k", 10)
    assert not asked.get("titles") or all(item["title"] for item in told["items"])
    if "/v1/recommend" in command:
        assert told["source"] == "beam:code_log_prob" and told["degraded"] == []
        assert not asked.get("explain") or all(item["codes"] for item in told["explanation"]["items"])


def test_the_demo_ends_with_a_server_that_answers(
    numbered_run: Path, start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "run_recipe", lambda *_, **__: numbered_run)
    monkeypatch.chdir(numbered_run.parents[1])
    demo.run_demo(Console(width=200), out=Path("runs/demo"), size="debug")
    command = offered(capsys.readouterr().out)
    assert command == "sememe serve runs/demo"
    with Client(start(command, Path.cwd())) as client:
        assert len(client.recommend(Ask(user_id=42)).items) == 10


def test_the_command_is_what_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path(".venv/bin/sememe")
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(sys, "argv", [str(own), "demo"])
    command = offered(demo.next_steps(Path("runs/demo"), program=demo.called_as()))
    assert command == ".venv/bin/sememe serve runs/demo"
    assert f"    {command} " in (ROOT / "README.md").read_text(encoding="utf-8")
    monkeypatch.setenv("PATH", str(own.parent.absolute()))
    assert demo.called_as() == "sememe"
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert demo.called_as() == "sememe"
    assert shlex.split(offered(demo.next_steps(Path("my runs/a"), program="sememe")))[-1] == "my runs/a"
