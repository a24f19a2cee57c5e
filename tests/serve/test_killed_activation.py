"""A server that is killed while one model takes over from another comes back with one of the two, whole."""

import contextlib
import shutil
import threading
from pathlib import Path

import httpx
import pytest
from serving import start_process

from sememe.serve.models import ModelFolder


def activate(url: str, name: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{url}/v1/models/{name}:activate", timeout=30)


@pytest.mark.parametrize("after", [0.01, 0.12, 0.3, 1.0])
def test_a_killed_activation_leaves_one_whole_model_active(
    after: float, served_run: Path, second_run: Path, tmp_path: Path, quiet_environment: dict[str, str]
) -> None:
    for name, run in (("monday", served_run), ("tuesday", second_run)):
        shutil.copytree(run, tmp_path / "models" / name, ignore=shutil.ignore_patterns("serve", "models"))
    folder = ModelFolder(tmp_path / "models")
    folder.point_to("monday")
    child, url = start_process(str(folder.path), environment=quiet_environment)
    asking = threading.Thread(target=activate, args=(url, "tuesday"))
    asking.start()
    asking.join(after)
    child.kill()
    child.wait()
    asking.join()
    assert folder.pointer().active in ("monday", "tuesday")
    child, url = start_process(str(folder.path), environment=quiet_environment)
    try:
        told = httpx.get(f"{url}/v1/models").json()
        answering = [one["name"] for one in told["models"] if one["answering"]]
        assert answering == [folder.pointer().active] == [told["active"]]
        assert len(httpx.post(f"{url}/v1/recommend", json={}).json()["items"]) == 10
    finally:
        child.kill()
        child.wait()
