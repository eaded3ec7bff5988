"""A real browser for tests of pages: Chromium without a window, spoken to by the developer tools' protocol."""

import asyncio
import base64
import io
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import matplotlib.image
import numpy as np

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def browser(folder: Path) -> Iterator[str]:
    """Chromium without a window; gives where its developer tools answer."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
               "--mute-audio", "--disable-dev-shm-usage", f"--user-data-dir={folder}", "about:blank"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            yield next(line.split("//")[1].split("/")[0] for line in process.stderr if "DevTools listening on" in line)
        finally:
            process.terminate()


@asynccontextmanager
async def open_tab(host: str, page: Path, *, width: int, scheme: str) -> AsyncIterator["Tab"]:
    """Open a page in a tab of its own."""
    async with aiohttp.ClientSession() as session:
        async with session.put(f"http://{host}/json/new?about:blank") as answer:
            address = (await answer.json())["webSocketDebuggerUrl"]
        async with session.ws_connect(address, max_msg_size=0) as socket:
            tab = Tab(socket)
            await tab.open(page, width=width, scheme=scheme)
            yield tab


class Tab:
    """A browser's tab, spoken to by the developer tools' protocol; `events` are what it told by itself."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.number, self.events = socket, 0, []

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": params})
        while (answer := await self.socket.receive_json(timeout=30)).get("id") != self.number:
            self.events.append(answer)
        return answer["result"]

    async def run(self, code: str) -> Any:
        found = await self.ask("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        return found["result"].get("value")  # undefined has none

    async def open(self, page: Path, *, width: int, scheme: str) -> None:
        """Go to a page in a window of this width, in light or dark, and wait until all of it is there."""
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        await self.ask("Network.enable")
        await self.ask("Emulation.setDeviceMetricsOverride", **size)
        await self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.ask("Page.navigate", url=page.as_uri())
        while await self.run("document.readyState") != "complete":
            await asyncio.sleep(0.05)

    async def click(self, x: float, y: float) -> None:
        """Press and let go of the left button at a place in the window."""
        for kind in ("mousePressed", "mouseReleased"):
            await self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def picture(self) -> bytes:
        """Take a screenshot of the whole page."""
        return base64.b64decode((await self.ask("Page.captureScreenshot", captureBeyondViewport=True))["data"])

    @property
    def asked(self) -> list[str]:
        """The addresses that the page asked for."""
        found = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [address for address in found if not address.startswith("data:")]


def pixels(picture: bytes) -> np.ndarray:
    """Decode a screenshot: (height, width, colours)."""
    return matplotlib.image.imread(io.BytesIO(picture))
