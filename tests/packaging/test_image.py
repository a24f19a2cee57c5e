"""The Dockerfile, the compose file and what they name: all of it is there, and is built as the Makefile builds it."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from sememe.serve.settings import ServeSettings
from sememe.serve.stores.valkey import DURABLE

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "compose.yaml").read_text(encoding="utf-8")

Seconds = Annotated[str, StringConstraints(pattern=r"^\d+s$")]
# The plain name of an image, with a version and without a host.
Image = Annotated[str, StringConstraints(pattern=r"^[a-z]+(/[a-z]+)?(:[\d.]+(-slim)?)?$")]


class Strict(BaseModel):
    """A part of the Compose specification, as far as this project uses it; what it does not know is a fault."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Build(Strict):
    context: str
    args: dict[str, str]


class Condition(Strict):
    condition: Literal["service_started", "service_healthy", "service_completed_successfully"]
    required: bool = True


class Healthcheck(Strict):
    test: list[str]
    interval: Seconds
    timeout: Seconds
    retries: int


class ComposeService(Strict):
    image: Image
    build: Build | None = None
    command: list[str] = []
    environment: dict[str, str] = {}
    volumes: list[str] = []
    ports: list[str] = []
    depends_on: dict[str, Condition] = {}
    profiles: list[str] = []
    healthcheck: Healthcheck | None = None
    restart: Literal["no", "always", "on-failure", "unless-stopped"] = "no"
    stop_grace_period: Seconds | None = None
    read_only: bool = False
    tmpfs: list[str] = []
    cap_drop: list[str] = []
    security_opt: list[str] = []


class Compose(Strict):
    name: str
    server: ComposeService = Field(alias="x-server")
    services: dict[str, ComposeService]
    volumes: dict[str, None]


@pytest.fixture(scope="module")
def compose() -> Compose:
    return Compose.model_validate(yaml.safe_load(COMPOSE))


def instructions() -> list[tuple[str, str]]:
    """(word, rest) of each line of the Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def copied() -> list[str]:
    """What the image takes from the repository."""
    lines = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    return [name for line in lines for name in line]


def test_every_path_of_the_image_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    for name in copied():
        assert (ROOT / name).exists() and f"!{name}" in ignored, name
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied())
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    # What the set-up depends on must come along, or make stops.
    (needs,) = re.findall(r"^\$\(STAMP\): \$\(LOCK\) (.*?) \$\(wildcard", makefile, re.MULTILINE)
    assert set(needs.split()) - {"requirements/torch.txt"} <= set(copied()) and "requirements" in copied()


def test_the_image_is_built_by_the_makefile() -> None:
    (made,) = [rest for word, rest in instructions() if word == "RUN" and rest.startswith("make ")]
    words = shlex.split(made)
    wanted = dict(word.split("=", 1) for word in words[2:])
    assert words[:2] == ["make", "setup"] and wanted["LOCK"] == "requirements/server.txt"
    shown = subprocess.run(
        [*words[:1], "--dry-run", "--always-make", *words[1:], "TORCH_INDEX=wheels"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "install -qq --no-compile --no-deps --require-hashes -r requirements/server.txt" in shown
    assert '--index-url "wheels" -r requirements/torch.txt' in shown
    assert "--no-build-isolation  ." in shown and "--editable" not in shown
    assert f"--from=build {wanted['VENV']} {wanted['VENV']}" in DOCKERFILE


def test_the_image_runs_as_nobody_and_tells_whether_it_is_ready() -> None:
    words = dict(instructions())
    assert words["USER"].isdecimal() and words["USER"] != "0" and f"--uid {words['USER']}" in DOCKERFILE
    assert "/v1/ready" in words["HEALTHCHECK"] and words["ENTRYPOINT"] == '["sememe"]'
    bases = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert len(set(bases)) == 1 and re.fullmatch(r"python:\d\.\d+-slim", bases[0])
    assert words["CMD"].startswith('["serve", ')


def test_the_compose_file_is_whole(compose: Compose) -> None:
    for name, service in compose.services.items():
        assert set(service.depends_on) <= set(compose.services), name
        for volume in service.volumes:
            source = re.split(r":(?=/)", volume)[0]
            local = source.startswith(("./", "${"))
            assert (ROOT / source).is_file() if source.startswith("./") else local or source in compose.volumes, volume
        assert service.build is None or (ROOT / service.build.context / "Dockerfile").is_file()
    (published,) = [port for service in compose.services.values() for port in service.ports]
    listening = published.rpartition(":")[2]
    proxy = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    # Keys must not go over a line that others can read, unless somebody decides so.
    assert published.startswith("127.0.0.1:") and f"listen {listening};" in proxy
    servers = re.findall(r"server ([\w-]+):8000 ", proxy)
    assert servers == 2 * [name for name in compose.services if name.startswith("server-")]
    assert all(compose.services[name] == compose.server for name in servers)


def test_its_servers_keep_what_was_acknowledged(compose: Compose) -> None:
    words = compose.services["valkey"].command
    told = {words[place].removeprefix("--"): words[place + 1] for place in range(1, len(words), 2)}
    assert told == DURABLE
    settings = ServeSettings()
    grace = int((compose.server.stop_grace_period or "0s").removesuffix("s"))
    assert grace > settings.drain_seconds + settings.stop_seconds
    assert {"postgres", "valkey"} <= set(compose.volumes)
    assert all(compose.services[name].profiles == [name] for name in ("postgres", "valkey"))
    assert compose.server.read_only and compose.server.cap_drop == ["ALL"]


def test_the_command_of_the_servers_is_one_that_there_is(compose: Compose) -> None:
    from sememe.cli.main import app

    command = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in compose.server.command]
    _, bound, _ = app.parse_args(command, print_error=False, exit_on_error=False)
    assert bound.arguments["models"] == Path("/models") and bound.arguments["host"] == "0.0.0.0"
    assert bound.arguments["store"] == "postgresql://sememe@postgres/sememe"
    keys = str(bound.arguments["keys"])
    assert any(volume.endswith(f":{Path(keys).parent}") for volume in compose.server.volumes)


def test_docker_takes_the_compose_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("Docker Compose is not installed")
    words = [docker, "compose", "--profile", "postgres", "--profile", "valkey", "config", "--quiet"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
