"""What a person sees in Dagster's web UI, in a real browser."""

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Page

from fine_tune_pipeline.guide.environment.mask_picture import WIDTH as MASK_WIDTH
from fine_tune_pipeline.guide.environment.mask_picture import markdown_mask, svg
from fine_tune_pipeline.guide.training.curve import HEIGHT, WIDTH, markdown_picture
from fine_tune_pipeline.programs.preflight_requests import Piece, Rendered
from fine_tune_pipeline.ui import shown
from fine_tune_pipeline_tests.browser import chromium_page
from fine_tune_pipeline_tests.end_to_end import web_ui_defs
from fine_tune_pipeline_tests.waiting import wait_until

pytestmark = pytest.mark.browser

ADAPTER, ENVIRONMENT = dg.AssetKey(["triage", "adapter"]), dg.AssetKey(["triage", "environment"])


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/server_info", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n", encoding="utf-8")
    with dg.DagsterInstance.get() as made:
        yield made


@pytest.fixture
def url(instance: dg.DagsterInstance, tmp_path: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "dagster_webserver", "-f", web_ui_defs.__file__, "-h", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "webserver.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "DAGSTER_HOME": str(tmp_path)})
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(address) or server.poll() is not None, deadline_seconds=120, what="the web UI")
        assert server.poll() is None, (tmp_path / "webserver.log").read_text(encoding="utf-8")[-2000:]
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def page() -> Iterator[Page]:
    with chromium_page() as page:
        yield page


def test_the_loss_curve_is_a_picture_in_the_metadata_of_the_adapter(instance: dg.DagsterInstance, url: str, page: Page):
    curves = {"training loss": [(1.0, 3.0), (2.0, 1.5), (3.0, 0.5)], "validation loss": [(0.0, 3.1), (3.0, 0.7)]}
    picture = markdown_picture(curves, title="loss in nats per token", across="steps")
    instance.report_runless_asset_event(dg.AssetMaterialization(ADAPTER, metadata={"loss": dg.MetadataValue.md(picture)}))
    page.goto(f"{url}/assets/triage/adapter?view=events")
    page.get_by_text("Show Markdown").click()
    image = page.get_by_alt_text("loss in nats per token")
    image.wait_for()
    assert image.evaluate("image => [image.complete, image.naturalWidth, image.naturalHeight]") == [True, WIDTH, HEIGHT]
    drawn = image.bounding_box()
    assert drawn is not None
    assert drawn["width"] > WIDTH / 2


SCRIPTS = (
    "my card was charged twice",
    "我的卡被扣了两次，请帮我退款",
    "مرحبا بالعالم",
    "שלום עולם",
    "कार्ड दो बार",
    "บัตรของฉัน",
    "👩‍👩‍👧👍🏽🇩🇪" * 9,
    "</svg>&",
)


def masked() -> list[Rendered]:
    read, learned = Piece(text=", ".join(SCRIPTS * 3), tokens=90, learned=False), Piece(text=" yes\n", tokens=2, learned=True)
    end = Piece(text="<eos>", tokens=1, learned=True, special=True)
    return [Rendered(id=id, prompt="", completion="", tokens=93, pieces=(read, learned, end)) for id in ("short", "middle", "long")]


def test_what_is_learned_is_a_picture_in_the_metadata_of_the_environment(instance: dg.DagsterInstance, url: str, page: Page):
    picture = dg.MetadataValue.md(markdown_mask(masked(), title="What is learned"))
    instance.report_runless_asset_event(dg.AssetMaterialization(ENVIRONMENT, metadata={"what_is_learned": picture}))
    page.goto(f"{url}/assets/triage/environment?view=events")
    page.get_by_text("Show Markdown").click()
    image = page.get_by_alt_text("What is learned")
    image.wait_for()
    complete, width = image.evaluate("image => [image.complete, image.naturalWidth]")
    assert (complete, width) == (True, MASK_WIDTH)


def test_every_line_of_that_picture_lies_inside_it_and_what_is_learned_has_its_colour(page: Page):
    page.set_content(svg(masked(), title="What is learned"))
    ends = page.locator("svg > text").evaluate_all("lines => lines.map(line => line.getBBox()).map(box => box.x + box.width)")
    assert len(ends) > 3 * 4
    assert max(ends) <= MASK_WIDTH
    colours = page.locator("tspan.learned").evaluate_all("parts => [...new Set(parts.map(part => getComputedStyle(part).fill))]")
    assert colours == ["rgb(4, 120, 87)"]
    assert page.locator("tspan:not([class])").first.evaluate("part => getComputedStyle(part).fill") == "rgb(75, 85, 99)"


def test_live_numbers_stand_in_the_events_of_the_asset(instance: dg.DagsterInstance, url: str, page: Page):
    live = {"live/step": 3, "live/loss": 0.5, "live/padding_share": 0.02, "live/eta_seconds": 90.0}
    instance.report_runless_asset_event(
        dg.AssetObservation(ADAPTER, metadata={name: shown(value) for name, value in live.items()}),
    )
    page.goto(f"{url}/assets/triage/adapter?view=events")
    for name, value in live.items():
        row = page.locator("tr", has_text=name)
        row.wait_for()
        assert f"{value:g}" in row.inner_text()
