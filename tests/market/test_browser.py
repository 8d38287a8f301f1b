"""The pages in a real browser: the Chromium of this machine, without a window."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from flock_ray.chain.values import TOKEN
from flock_ray.chain.words import format_tokens, rounded_tokens
from flock_ray.market.feedback import FeedbackStore
from flock_ray.market.licences import Licences
from flock_ray.market.pages import Pages, add_pages
from tests.market.entries import entry
from tests.market.gateways import Steps, World, adapter_bytes
from tests.waiting import PATIENCE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NONE = pytest.mark.skipif(CHROMIUM is None, reason="no chromium (apt-get install chromium)")
pytestmark = [pytest.mark.browser, NONE]
MARKUP = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>'
NO_PROBLEM = "Failed to load resource"
"""What the browser tells of a status of 404, which some tests ask for."""
AMOUNTS = (0, 1, 24, 99_995, 237_999_999_999_996, TOKEN - 1, TOKEN, 1_234_567 * TOKEN + 89 * 10**12, -5, -(10**30) // 7)
PATHS = ("/", "/playground", "/keys", "/runs", "/models/latest", "/docs")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses root
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=PATIENCE * 1e3)
        yield started
        started.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = FeedbackStore(tmp_path / "feedback")
    found = World(tmp_path, models=1, wrap=Steps, feedback=store)
    found.store = store
    data, licences = adapter_bytes(2), Licences("apache-2.0", MARKUP[:90], "apache-2.0")
    model = entry(data, name="hostile", licences=licences)
    found.models.append(found.registry.publish(model, data, accept=licences.to_accept))
    add_pages(found.app, Pages(found.registry, found.ledger))
    with found.served():
        yield found


@pytest.fixture
def page(world: World, browser: Browser) -> Iterator[Page]:
    context = browser.new_context(base_url=world.url, viewport={"width": 1_000, "height": 800})
    context.set_default_timeout(PATIENCE * 1e3)
    expect.set_options(timeout=PATIENCE * 1e3)
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on(
        "console",
        lambda told: problems.append(told.text) if told.type == "error" and NO_PROBLEM not in told.text else None,
    )
    yield opened
    context.close()
    assert problems == [], "the page's own policy or script failed"


def ask(page: Page, world: World, message: str, events: int = 10_000) -> None:
    """Have the playground ask; of each answer so many events come."""
    if not page.url.endswith("/playground"):
        page.goto("/playground")
        page.get_by_label("Key (kept in this tab only)").fill(world.secret)
    page.get_by_label("Message").fill(message)
    world.client.let(events)
    page.get_by_role("button", name="Send", exact=True).click()


def answers(page: Page) -> Any:
    return page.locator(".turn").last.locator(".answer")


def test_an_answer_appears_as_it_is_made(page: Page, world: World) -> None:
    ask(page, world, "abcdefgh", events=3)
    expect(answers(page)).to_have_text("abc")
    expect(answers(page)).to_have_attribute("aria-busy", "true")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    expect(page.get_by_role("status").first).to_have_text("Answering")
    world.client.let(100)
    expect(answers(page)).to_have_text("abcdefgh")
    expect(answers(page)).to_have_attribute("aria-busy", "false")
    expect(page.get_by_text("8 tokens in, 8 out")).to_be_visible()
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_enabled()
    page.get_by_text("Receipt", exact=True).click()
    expect(page.locator(".receipt")).to_contain_text('"output_tokens": 8')


def test_the_key_is_kept_in_the_tab_and_nowhere_else(page: Page, world: World) -> None:
    ask(page, world, "abc")
    expect(answers(page)).to_have_text("abc")
    page.reload()
    assert page.get_by_label("Key (kept in this tab only)").input_value() == world.secret
    assert page.evaluate("localStorage.length") == 0 and page.context.cookies() == []
    assert world.secret not in page.content()
    page.get_by_role("button", name="Forget it").click()
    assert page.evaluate("sessionStorage.length") == 0


def test_an_answer_that_is_stopped_ends_at_the_engine_too(page: Page, world: World) -> None:
    ask(page, world, "abcdefgh", events=2)
    expect(answers(page)).to_have_text("ab")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped; what came is paid.")).to_be_visible()
    page.wait_for_function("() => document.getElementById('stop').disabled")
    while world.client.running:
        page.wait_for_timeout(5)


def test_base_model_and_adapter_side_by_side(page: Page, world: World) -> None:
    page.goto("/playground")
    page.get_by_label("Key (kept in this tab only)").fill(world.secret)
    page.get_by_label("and the base model beside it").check()
    ask(page, world, "abc")
    expect(answers(page)).to_have_count(2)
    expect(answers(page)).to_have_text(["abc", "abc"])
    expect(page.locator(".turn h3")).to_have_text([world.models[0].id, "base"])


def test_a_correction_is_kept_with_consent_and_licence(page: Page, world: World) -> None:
    ask(page, world, "abc")
    page.get_by_label("may be trained on").check()
    page.get_by_label("under").select_option("cc-by-4.0")
    page.get_by_role("button", name="Correct it").click()
    page.get_by_label("What would have been right").fill("xyz")
    page.get_by_role("button", name="Send the correction").click()
    expect(page.get_by_text("Kept; it may be trained on.")).to_be_visible()
    [said] = list(world.store)
    assert (said.answer, said.correction, said.rating) == ("abc", "xyz", -1)
    assert (said.consent, said.licence, said.model) == (True, "cc-by-4.0", world.models[0].adapter)
    assert said.messages == (("user", "abc"),)
    page.get_by_role("button", name="Good answer").click()
    expect(page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")
    assert [one.rating for one in world.store] == [1]


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.id || document.activeElement.textContent"))


def tab_to(page: Page, name: str) -> None:
    for _ in range(40):
        if focused(page) == name:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{name} is not reached by the keyboard")


def test_all_of_it_works_by_keyboard(page: Page, world: World) -> None:
    page.goto("/playground")
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    tab_to(page, "key")
    page.keyboard.type(world.secret)
    tab_to(page, "beside")
    page.keyboard.press("Space")
    tab_to(page, "message")
    page.keyboard.type("abc")
    world.client.let(1_000)
    page.keyboard.press("Control+Enter")
    expect(answers(page)).to_have_text(["abc", "abc"])
    expect(page.locator("#message")).to_be_focused()
    tab_to(page, "Correct it")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_label("What would have been right").first).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("xyz")
    tab_to(page, "Send the correction")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Kept; it is not trained on.").first).to_be_visible()
    assert [said.correction for said in world.store] == ["xyz"]


def test_every_control_has_a_name(page: Page, world: World) -> None:
    for path in PATHS:
        page.goto(path)
        nameless = page.evaluate(
            "[...document.querySelectorAll('input, select, textarea, button')]"
            ".filter((one) => !one.labels?.length && !one.textContent.trim()).map((one) => one.outerHTML)"
        )
        assert nameless == [], path


def test_nothing_is_wider_than_a_phone(page: Page, world: World) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    for path in PATHS:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, path
    page.goto("/playground")
    page.get_by_label("Key (kept in this tab only)").fill(world.secret)
    page.get_by_label("and the base model beside it").check()
    ask(page, world, "x" * 300)
    expect(page.get_by_role("button", name="Correct it")).to_have_count(2)
    page.get_by_text("Receipt", exact=True).first.click()
    page.get_by_role("button", name="Correct it").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_markup_in_names_answers_and_corrections_is_text(page: Page, world: World) -> None:
    for path in ("/", f"/models/{world.models[1].id}", "/models/%3Cscript%3Ewindow.hacked=1%3C%2Fscript%3E"):
        page.goto(path)
        assert page.evaluate("window.hacked") is None
    ask(page, world, MARKUP)
    expect(answers(page)).to_have_text(MARKUP)
    page.get_by_role("button", name="Correct it").click()
    page.get_by_label("What would have been right").fill(MARKUP)
    page.get_by_role("button", name="Send the correction").click()
    expect(page.get_by_text("Kept; it is not trained on.")).to_be_visible()
    assert page.evaluate("window.hacked") is None
    assert page.locator("#conversation img, #conversation script").count() == 0


def test_dark_and_light(page: Page, world: World) -> None:
    colours = set()
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.goto("/")
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_usage_and_a_receipt(page: Page, world: World) -> None:
    ask(page, world, "abc")
    page.get_by_text("Receipt", exact=True).click()
    request = page.locator(".receipt").inner_text().partition('"request": "')[2].partition('"')[0]
    page.goto("/keys")
    page.get_by_role("button", name="Show usage").click()
    cells = page.locator("#days tr").first.locator("td")
    expect(cells.nth(2)).to_have_text(world.models[0].id)
    expect(cells.nth(6)).to_have_text("0.000000000000000024")  # 3 tokens at 2 and 3 at 6
    expect(cells.nth(6)).to_have_attribute("title", "0.000000000000000024 tokens")
    page.get_by_label("Id of an answer").fill(request)
    page.get_by_role("button", name="Show the receipt").click()
    expect(page.locator("#signed")).to_contain_text('"cost":24')
    page.get_by_label("Id of an answer").fill("nonsense")
    page.get_by_role("button", name="Show the receipt").click()
    expect(page.get_by_role("status")).to_have_text("This account has no such request")


def test_amounts_are_rounded_as_the_server_rounds_them(page: Page, world: World) -> None:
    page.goto("/keys")
    for wei in AMOUNTS:
        assert page.evaluate(f"[tokens('{wei}'), rounded('{wei}')]") == [format_tokens(wei), rounded_tokens(wei)]


def test_a_wrong_key_is_told(page: Page, world: World) -> None:
    page.goto("/playground")
    page.get_by_label("Message").fill("abc")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_role("status").first).to_have_text("An API key is needed.")
    expect(page.get_by_label("Key (kept in this tab only)")).to_be_focused()
