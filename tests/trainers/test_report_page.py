"""The report of a real run, in a real browser: it plays what is clicked, fits any width, and asks nothing of anyone."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup

from tests.trainers.browser import CHROMIUM, browser, open_tab, pixels
from tests.trainers.test_report import ATTACK, SECTIONS, Page, make_bare, make_example, make_report
from trainers.report import render_report
from trainers.report_sounds import Heard, Side, sound_uri
from trainers.run import Run

PLAYERS = """[...document.querySelectorAll("audio")].map(one => ({
    section: one.closest("section").id, time: one.currentTime, error: one.error && one.error.message,
}))"""
WHERE = """(one => {
    one.scrollIntoView({block: "center"});
    const box = one.getBoundingClientRect();
    return [box.x + 20, box.y + box.height / 2];
})(document.querySelectorAll("audio")[%d])"""  # 20: where Chromium has a player's button


def make_heard(*, text: str = "bass") -> Heard:
    wave = make_example(seconds=1).waveform
    uri = sound_uri(wave, sample_rate=16_000)
    side = Side(picture=Markup("<svg></svg>"), sound=uri, seconds=1.0, kept=0.5)
    return Heard(key=text, label=text, draws=((text, text),), before=side, after=side)


async def play(host: str, page: Path, *, width: int, scheme: str) -> dict[str, Any]:
    """Open a page, click every player, and tell what came of it."""
    async with open_tab(host, page, width=width, scheme=scheme) as tab:
        before = await tab.run(PLAYERS)
        for at in range(len(before)):
            await tab.click(*await tab.run(WHERE % at))
            for _ in range(100):
                if (await tab.run(PLAYERS))[at]["time"] > 0:
                    break
                await asyncio.sleep(0.05)
            await tab.run(f"document.querySelectorAll('audio')[{at}].pause()")
        after = await tab.run(PLAYERS)
        wide = await tab.run("document.documentElement.scrollWidth - innerWidth")
        sections = await tab.run('[...document.querySelectorAll("section")].map(one => one.id)')
        picture = await tab.picture()
    page.with_suffix(f".{scheme}.png").write_bytes(picture)
    return {
        "before": before,
        "after": after,
        "wide": wide,
        "sections": sections,
        "asked": tab.asked,
        "picture": picture,
    }


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
def test_a_browser_plays_what_is_clicked_in_a_real_runs_report(whole: Run, tmp_path: Path):
    page = tmp_path / "report.html"
    page.write_bytes(whole.report.read_bytes())
    with browser(tmp_path / "profile") as host:
        for width, scheme in ((1200, "light"), (400, "dark")):
            told = asyncio.run(play(host, page, width=width, scheme=scheme))
            assert told["sections"] == [*SECTIONS[:6], "heard", *SECTIONS[6:]]
            assert [one["section"] for one in told["before"]] == ["examples"] * 6 + ["heard"] * 8
            assert all(one["time"] == 0 for one in told["before"])
            assert not [one["error"] for one in told["after"] if one["error"]]
            assert all(one["time"] > 0 for one in told["after"]), "a click played nothing"
            assert told["wide"] <= 0, "it scrolls sideways"
            assert told["asked"] == [page.as_uri()]
            picture = pixels(told["picture"])
            assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 500
    assert page.stat().st_size < 3_000_000, "too heavy to mail"


def test_what_is_heard_is_shown_after_the_worst_mistakes():
    parsed = Page(render_report(make_report(heard=(make_heard(),) * 2)))
    assert parsed.ids == [*SECTIONS[:6], "heard", *SECTIONS[6:]]
    assert sum(address.startswith("data:audio/flac") for address in parsed.addresses) == 4
    assert parsed.text.count("Only the first 0.5 s are kept here.") == 4


def test_foreign_text_of_what_is_heard_stays_text():
    parsed = Page(render_report(make_bare(heard=(make_heard(text=ATTACK),))))
    assert "script" not in parsed.tags
    assert "img" not in parsed.tags
    assert parsed.text.count("alert(1)") == 4
    assert all(address.startswith("data:") for address in parsed.addresses)
