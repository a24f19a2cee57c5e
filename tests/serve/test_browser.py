"""The page in a real Chromium: what a person does with it, by mouse, by keys alone, on a phone's width, in the dark."""

import importlib.util
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from serving import PATIENT

from sememe.serve.app import create_app
from sememe.serve.keys import KeyRing, make_key
from sememe.serve.metrics import Metrics
from sememe.serve.served import Served
from sememe.serve.service import Service
from sememe.serve.stores.open import open_store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MISSING = [
    name
    for name, there in (("playwright", importlib.util.find_spec("playwright")), ("chromium", CHROMIUM))
    if not there
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' and '.join(MISSING)}")

Open = Callable[..., Any]
VIEWS = ("try", "tree", "report", "server")


class Site:
    """A server in a thread of this process."""

    def __init__(self, served: Served, store: Path, *, keys: Path | None = None) -> None:
        service = Service(served, open_store(f"sqlite:///{store}"), settings=PATIENT, metrics=Metrics())
        config = uvicorn.Config(create_app(service, KeyRing(keys)), port=0, log_config=None, lifespan="on", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def address(generator: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Site(generator, tmp_path_factory.mktemp("page") / "store.sqlite") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    """Opens pages; whatever they complain of fails the test."""
    complaints: list[str] = []
    opened = []

    def start(path: str = "", *, at: str | None = None, **options: Any) -> Any:
        page = browser.new_page(viewport=options.pop("viewport", {"width": 1200, "height": 900}), **options)
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(f"{at or address}/{path}")
        opened.append(page)
        return page

    yield start
    for page in opened:
        page.close()
    # What the server refuses is told by the browser too, and is what some tests are about.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []


def listed(page: Any) -> list[str]:
    """Titles of the list, once no other one is waited for."""
    page.wait_for_selector(".list li")
    page.wait_for_selector(".waiting", state="detached")
    return [text.strip() for text in page.locator(".list .entry-title").all_inner_texts()]


def test_a_history_changes_the_list_and_the_list_says_why(open_page: Open) -> None:
    page = open_page()
    popular = listed(page)
    assert "fallback:popularity" in page.inner_text(".card >> nth=1")
    title = page.locator("#found li span").first.inner_text()
    page.locator("#found li").first.click()
    page.wait_for_selector("[data-source^=beam]")
    first = listed(page)
    assert first != popular and title not in first
    assert page.locator(".history li").count() == 1 and title in page.inner_text(".history")
    page.locator(".list .entry-title").first.click()
    reasons = page.inner_text(".reasons")
    assert "Probability of each code" in reasons and title in reasons
    assert page.locator(".reasons .levels >> nth=0").locator("li").count() == 3
    assert "1 item of the history" in page.inner_text(".left-out")
    page.get_by_role("button", name=f"Add {first[0]} to the history").click()
    page.wait_for_selector(".history li:nth-child(2)")
    second = listed(page)
    assert second != first and first[0] not in second
    page.get_by_role("button", name=f"Remove {title}").click()
    page.wait_for_function("document.querySelectorAll('.history li').length === 1")
    page.get_by_role("button", name="Clear the history").click()
    page.wait_for_selector("[data-source='fallback:popularity']")
    assert listed(page) == popular


def test_all_of_it_works_by_keys_alone(open_page: Open) -> None:
    page = open_page()
    listed(page)

    def walk_to(selector: str) -> None:
        for _ in range(80):
            if page.evaluate(f"document.activeElement?.matches({selector!r})"):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"no way to {selector} by Tab")

    walk_to("#search")
    page.wait_for_selector("#found li")
    title = page.locator("#found li span").nth(1).inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator("#found li[aria-selected=true] span").inner_text() == title
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-source^=beam]")
    assert title in page.inner_text(".history")
    # Faster than the search: what is typed counts, not what still stands there.
    wanted = page.locator("#found li span").nth(3).inner_text()
    page.keyboard.type(wanted)
    page.keyboard.press("Enter")
    page.wait_for_selector(".history li:nth-child(2)")
    assert wanted in page.inner_text(".history li:nth-child(2)")
    listed(page)
    walk_to(".entry-title")
    page.keyboard.press("Enter")
    page.wait_for_selector(".reasons")
    walk_to(".reasons a")
    page.keyboard.press("Enter")
    page.wait_for_selector(".sunburst")
    assert page.evaluate("document.activeElement.tagName") == "H1"
    walk_to("canvas")
    page.keyboard.press("Backspace")
    page.wait_for_function("location.hash === '#/tree'")
    page.wait_for_selector("text=branches at level 1 of 3")
    page.locator("canvas").focus()
    page.keyboard.press("ArrowRight")
    told = page.inner_text(".picture-text")
    assert told.startswith("code ")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=branches at level 2 of 3")
    assert page.inner_text(".path a[aria-current]") == told.split()[1].rstrip(",")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_the_colours_of_the_system(open_page: Open, scheme: str) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    listed(page)
    page.locator("#found li").first.click()
    page.wait_for_selector("[data-source^=beam]")
    page.locator(".list .entry-title").first.click()
    for view in VIEWS:
        page.goto(page.url.partition("#")[0] + f"#/{view}")
        page.wait_for_selector(".card h2")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), view
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in background.removeprefix("rgb(").removesuffix(")").split(","))
    assert (brightness < 150) if scheme == "dark" else (brightness > 600)


def test_every_control_has_a_name(open_page: Open) -> None:
    page = open_page()
    listed(page)
    page.locator("#found li").first.click()
    page.wait_for_selector("[data-source^=beam]")
    for view in VIEWS:
        page.goto(page.url.partition("#")[0] + f"#/{view}")
        page.wait_for_selector(".card h2")
        nameless = page.evaluate(
            """[...document.querySelectorAll('button, a, input, select, [tabindex]')]
            .filter(one => !one.matches('h1') && !one.textContent.trim())
            .filter(one => !one.getAttribute('aria-label') && !one.labels?.[0]?.textContent)
            .map(one => one.outerHTML)"""
        )
        assert nameless == [], view
        assert page.title().endswith("- Sememe") and page.locator("main h1").count() == 1


def test_a_user_is_read_and_the_report_and_the_server_are_shown(open_page: Open, generator: Served) -> None:
    page = open_page()
    listed(page)
    serving = generator.engine.serving
    user, events = str(serving.users.ids[3]), len(serving.run.world.interactions.history(3))
    page.get_by_text("A user's history").click()
    page.get_by_label("User id").fill(user)
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-source^=beam]")
    assert f"{events} events of the run" in page.inner_text(".card >> nth=1")
    page.wait_for_selector(f"text=Events in the data of the run: {events}")
    page.get_by_role("link", name="Report").click()
    page.wait_for_selector("text=Health of the semantic IDs")
    row = next(
        row
        for row in serving.run.metrics["rows"]
        if (row["model"], row["split"], row["mask_seen"]) == ("tiny", "test", True)
    )
    assert f"{row['ndcg@10']:.4f}" in page.inner_text("tr.own")
    (line,) = serving.run.metrics["calibration"]
    assert page.locator("[aria-label='Calibration of tiny, seed 0'] tbody tr").count() == len(line["bins"])
    assert f"of {line['pairs']:,} listed items" in page.inner_text("section[aria-labelledby=calibration-title]")
    assert page.locator(".chart canvas").count() == 1
    page.get_by_role("link", name="Server").click()
    page.wait_for_selector("text=post /v1/recommend")
    page.wait_for_selector("#models-title")
    assert generator.version in page.inner_text(".facts")


def test_another_model_is_activated_and_rolled_back_after_a_second_word(open_page: Open) -> None:
    entries = [
        {
            "name": name,
            "active": name == "first",
            "answering": name == "first",
            "recipe": "tiny",
            "metrics": {"ndcg@10": 0.25},
        }
        for name in ("first", "second")
    ]
    posted: list[str] = []

    def models(route: Any) -> None:
        route.fulfill(json={"active": "first", "previous": "older", "models": entries})

    def act(route: Any) -> None:
        posted.append(route.request.url.rpartition("/v1/")[2])
        if posted[-1].endswith(":rollback"):
            detail = {"detail": "it is damaged", "fix": "copy it anew", "status": 409}
            route.fulfill(status=409, content_type="application/problem+json", json=detail)
            return
        for entry in entries:
            entry["active"] = entry["answering"] = entry["name"] == "second"
        canary = {"requests": 50, "unreadable": 0, "failures": 0, "overlap": 0.5, "old_ms": 1.0, "new_ms": 2.0}
        route.fulfill(json={"active": "second", "previous": "first", "model": "abc", "canary": canary, "seconds": 1.5})

    page = open_page()
    listed(page)
    page.route("**/v1/models", models)
    page.route("**/v1/models:rollback", act)
    page.route("**/v1/models/*:activate", act)
    page.get_by_role("link", name="Server").click()
    page.get_by_role("button", name="activate", exact=True).click()
    assert posted == []
    page.get_by_role("button", name="Yes, activate").click()
    page.wait_for_selector("text=second answers, after 1.5 s; on 50 histories its lists share 50 %")
    assert posted == ["models/second:activate"]
    page.wait_for_selector("tr.own >> text=second")
    page.get_by_role("button", name="roll back to older").click()
    page.get_by_role("button", name="Yes, roll back to older").click()
    page.wait_for_selector("text=it is damaged")
    assert "copy it anew" in page.inner_text("[role=alert]")


def test_a_key_is_asked_for_and_kept_for_the_tab_only(open_page: Open, generator: Served, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = make_key(file, name="shop", scopes=("read",))
    with Site(generator, tmp_path / "store.sqlite", keys=file) as guarded:
        page = open_page(at=guarded)
        page.get_by_label("Key", exact=True).fill(key)
        page.keyboard.press("Enter")
        assert len(listed(page)) == 10
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        assert page.evaluate("sessionStorage.getItem('sememe-key')") == key
        page.get_by_text("A user's history").click()
        page.get_by_label("User id").fill("u01")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=a key with the scope admin is needed")
        page.close()
