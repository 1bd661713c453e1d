"""The page, in a real browser, with the local cloud and a worker of the kit.

`make ui-screenshot` lets the first test write docs/ui.png.
"""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.conftest import ROOT, CommandLine

# A worker's words are a segment's error. They must not become markup.
HOSTILE = "<img src=x onerror=alert(1)>"
SEGMENTS = 5
# Segments from this one on wait until the test lets them go on.
HELD = 3
PROMPT_MS = 20_000
expect.set_options(timeout=PROMPT_MS)

# Reads its orders from files, so that the test decides what the worker does.
WORKER = """
import os, pathlib, shutil, sys, time
orders, index = pathlib.Path(sys.argv[1]), int(os.environ["MEDIA_WORKER_INDEX"])
print("progress=0.6", flush=True)
if (orders / f"fail-{index}").exists():
    (orders / f"fail-{index}").unlink()
    sys.exit("HOSTILE")
while index >= HELD and not (orders / "go").exists() or (orders / f"hold-{index}").exists():
    time.sleep(0.05)
shutil.copyfile(os.environ["MEDIA_WORKER_INPUT"], os.environ["MEDIA_WORKER_OUTPUT"])
with (orders / "log").open("a") as log:
    print(index, file=log)
""".replace("HELD", str(HELD)).replace("HOSTILE", HOSTILE)


@dataclass(frozen=True, slots=True)
class Served:
    """A running `media-worker ui`."""

    url: str

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].split("/")[0])

    @property
    def token(self) -> str:
        return self.url.rpartition("=")[2]

    def request(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Any, bytes]:
        """Status, headers and body. The cookie is sent unless `cookie` is given."""
        named = {"cookie": f"media_worker_{self.port}={self.token}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), named)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()


@contextmanager
def serving(command_line: CommandLine) -> Iterator[Served]:
    process = command_line.start("ui", "--no-open")
    try:
        assert process.stdout
        yield Served(process.stdout.readline().split()[-1])
    finally:
        command_line.interrupt(process)


@pytest.fixture(scope="module")
def served(cloud: CommandLine) -> Iterator[Served]:
    with serving(cloud) as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--autoplay-policy=no-user-gesture-required"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test at its end if a script failed or the policy refused something."""
    page = browser.new_page(viewport={"width": 1100, "height": 1000}, color_scheme="light")
    page.set_default_timeout(PROMPT_MS)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(f"a script of the media ran: {dialog.message}"))
    page.on("console", lambda message: problems.append(message.text) if "Content Security" in message.text else None)
    yield page
    page.close()
    assert problems == []


@contextmanager
def working(cloud: CommandLine, orders: Path) -> Iterator[None]:
    command = [
        str(Path(sys.executable).with_name("media-worker")),
        "work",
        "--name",
        "gpu-1",
        "--concurrency",
        str(SEGMENTS),
    ]
    command += ["--visibility", "4", "--retry-delay", "1", "--", sys.executable, "-c", WORKER, str(orders)]
    with (orders / "worker.log").open("w") as log:
        process = subprocess.Popen(command, env=cloud.stack_environment(), stdout=log, stderr=log, cwd=ROOT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def confirm(page: Page, button: str, action: str) -> None:
    page.get_by_role("button", name=button, exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name=action).click()


def cells(page: Page, state: str) -> Any:
    return page.locator(f".cell.is-{state}")


def status(page: Page) -> Any:
    return page.locator(".heading .pill")


def processed(orders: Path) -> list[int]:
    return [int(line) for line in (orders / "log").read_text().split()]


def test_a_job_is_watched_cancelled_retried_played_and_deleted(
    cloud: CommandLine, served: Served, page: Page, clip: Path, tmp_path: Path
) -> None:
    """All of it by updates: the page is loaded once."""
    source = shutil.copyfile(clip, tmp_path / "holiday.mp4")
    page.goto(served.url)
    expect(page.locator("#live")).to_have_text("live")
    assert "token" not in page.url
    job_id = cloud("submit", source, "--segment-seconds", "2").out.strip()
    page.get_by_role("link", name=job_id).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("holiday.mp4")
    expect(cells(page, "waiting")).to_have_count(SEGMENTS)
    (tmp_path / "fail-1").touch()
    with working(cloud, tmp_path):
        expect(cells(page, "done")).to_have_count(HELD)
        expect(page.locator(".failures")).to_contain_text(HOSTILE)

        confirm(page, "Cancel", "Cancel the job")
        expect(status(page)).to_have_text(re.compile("failed"))
        expect(page.locator(".note.bad")).to_contain_text("cancelled by")

        (tmp_path / "go").touch()
        confirm(page, "Retry", "Retry the job")
        expect(status(page)).to_have_text(re.compile("completed"))
        before = processed(tmp_path)
        assert set(before) == set(range(SEGMENTS))

        retry_segments(page, tmp_path)
        screenshot = Path(os.environ.get("MEDIA_WORKER_SCREENSHOT", tmp_path / "ui.png"))
        page.evaluate("document.getElementById('toasts').replaceChildren()")
        page.screenshot(path=screenshot)
        (tmp_path / "hold-3").unlink()
        expect(status(page)).to_have_text(re.compile("completed"))
        expect(cells(page, "done")).to_have_count(SEGMENTS)
        assert sorted(processed(tmp_path)[len(before) :]) == [2, 3]

    play_final(page)
    served_ranges(served, job_id, clip)
    delete_with_the_keyboard(page)
    assert json.loads(cloud("show", job_id, "--json").out)["status"] == "deleted"


def retry_segments(page: Page, orders: Path) -> None:
    """Choose segments 2 and 3 with the keyboard, and process them again. Segment 3 is held."""
    (orders / "hold-3").touch()
    page.locator("#segment-2").focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+Space")
    expect(page.locator("#segment-3")).to_have_attribute("aria-selected", "true")
    confirm(page, "Retry selected", "Retry segments")
    expect(cells(page, "running")).to_have_count(1)
    expect(cells(page, "done")).to_have_count(SEGMENTS - 1)
    expect(page.get_by_text("2 segments selected")).to_have_count(0)


def wait_until(page: Page, condition: str) -> None:
    """Wait for a condition. Playwright's own function for this is refused by the page's policy: it evaluates text."""
    give_up_at = time.monotonic() + PROMPT_MS / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < give_up_at, condition
        page.wait_for_timeout(50)


def play_final(page: Page) -> None:
    """Source and final play, and their positions agree; the slider puts one over the other."""
    page.get_by_role("button", name="Play").click()
    times = "[...document.querySelectorAll('video')].map((video) => video.currentTime)"
    wait_until(page, f"{times}.every((time) => time > 1)")
    source_s, final_s = page.evaluate(times)
    assert abs(source_s - final_s) < 0.2
    page.get_by_role("button", name="Pause").click()
    wait_until(page, f"Math.abs({times}[0] - {times}[1]) < 0.02")
    assert page.evaluate("document.querySelector('video[data-kind=final]').videoWidth") > 0
    page.get_by_label("Slider between the frames").check()
    page.get_by_role("slider", name="Border between source and final").press("ArrowRight")
    clip_path = "getComputedStyle(document.querySelector('.stage figure:last-child')).clipPath"
    assert page.evaluate(clip_path) == "inset(0px 0px 0px 51%)"


def served_ranges(served: Served, job_id: str, clip: Path) -> None:
    """The player gets the bytes that it asks for."""
    path, whole = f"/api/media?job={job_id}&kind=source", clip.read_bytes()
    code, headers, body = served.request(path, range="bytes=100-299")
    assert (code, body) == (206, whole[100:300])
    assert headers["content-range"] == f"bytes 100-299/{len(whole)}"
    assert headers["content-type"] == "video/mp4"
    assert served.request(path, range=f"bytes={len(whole)}-")[0] == 416
    assert served.request(f"/api/media?job={job_id}&kind=plan")[0] == 400


def delete_with_the_keyboard(page: Page) -> None:
    """The dialog's first button changes nothing."""
    page.get_by_role("button", name="Delete", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Go back")).to_be_focused()
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text(re.compile("completed"))
    page.get_by_role("button", name="Delete", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Go back")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Delete the job")).to_be_focused()
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text(re.compile("deleted"))


def test_dead_letters_are_listed_with_their_job_and_redriven(cloud: CommandLine, served: Served, page: Page) -> None:
    environment = cloud.stack_environment()
    letter = json.dumps({"job_id": "<i>no-such-job"})
    send = "import boto3, os, sys; s = boto3.client('sqs'); q = s.get_queue_attributes(QueueUrl=os.environ["
    send += "'REASSEMBLY_QUEUE_URL'], AttributeNames=['RedrivePolicy'])['Attributes']['RedrivePolicy']; import json; "
    send += "n = json.loads(q)['deadLetterTargetArn'].split(':')[-1]; "
    send += "s.send_message(QueueUrl=s.get_queue_url(QueueName=n)['QueueUrl'], MessageBody=sys.argv[1])"
    subprocess.run([sys.executable, "-c", send, letter], env=environment, check=True)
    page.goto(f"{served.url}#/dead-letters")
    found = page.locator("article").filter(has_text="<i>no-such-job")
    expect(found).to_contain_text("there is no such job")
    found.get_by_role("checkbox").check()
    confirm(page, "Redrive 1 selected message", "Redrive")
    expect(page.locator(".toast")).to_have_text("1 of 1 messages redriven")
    expect(found).to_have_count(0)


@pytest.mark.parametrize(
    ("path", "headers", "code"),
    [
        ("/", {"host": "rebound.example:80"}, 421),
        ("/", {"cookie": "none=1"}, 401),
        ("/?token=guessed", {"cookie": "none=1"}, 401),
        ("/api/letters", {"cookie": "none=1"}, 401),
        ("/files/app.js", {"cookie": "none=1"}, 401),
        ("/api/letters", {"sec_fetch_site": "cross-site"}, 403),
        ("/api/letters", {"sec_fetch_site": "same-site"}, 403),
        ("/files/server.py", {}, 404),
        ("/api/act", {}, 405),
    ],
)
def test_only_the_page_itself_may_read(served: Served, path: str, headers: dict[str, str], code: int) -> None:
    assert served.request(path, **headers)[0] == code


def test_an_action_needs_the_token_of_the_page(served: Served) -> None:
    """A request that another site could make changes nothing."""
    _, headers, html = served.request("/")
    token = re.findall(rb'name="action-token" content="([^"]+)"', html)[0].decode()
    act: dict[str, Any] = {
        "body": {"verb": "cancel", "job": "no-such-job"},
        "method": "POST",
        "content_type": "application/json",
    }
    good = {"x_media_worker_action": token}
    assert served.request("/api/act", **act)[0] == 403
    assert served.request("/api/act", **act, x_media_worker_action=served.token)[0] == 403
    assert served.request("/api/act", **act, **good, origin="http://127.0.0.1:1")[0] == 403
    assert served.request("/api/act", **act | {"content_type": "text/plain"}, **good)[0] == 415
    assert served.request("/api/act", **act, **good)[0] == 404
    assert served.request("/api/act", **act | {"body": {"verb": "drop"}}, **good)[0] == 400
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]


def test_a_page_without_a_stack_says_what_to_do(browser: Browser, page: Page, tmp_path: Path) -> None:
    """At 400 px width, nothing is cut off."""
    page.set_viewport_size({"width": 400, "height": 800})
    with serving(CommandLine(tmp_path)) as served:
        page.goto(served.url)
        expect(page.get_by_role("alert")).to_contain_text("media-worker up")
        expect(page.get_by_role("heading", name="The stack cannot be reached")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 400
    expect(page.get_by_role("alert")).to_contain_text("Start `media-worker ui` again")
