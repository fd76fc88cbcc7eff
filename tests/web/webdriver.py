"""A browser without a screen: Chromium by its WebDriver, over the standard library alone."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_ELEMENT = (  # the key of an element's id, by the W3C's standard
    "element-6066-11e4-a52e-4f735466cecf"
)
_ARGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--mute-audio",
]


class Browser:
    """One window of it."""

    def __init__(self, driver_port: int, program: str, profile: str, more: tuple[str, ...] = ()):
        self._base = f"http://127.0.0.1:{driver_port}/session"
        options = {"binary": program, "args": [*_ARGS, *more, f"--user-data-dir={profile}"]}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self._base += "/" + self._tell("", wanted)["sessionId"]

    def open(self, url: str) -> None:
        """Loads a page."""
        self._tell("/url", {"url": url})

    def run(self, script: str, *args: Any) -> Any:
        """What the body of a function gives; a promise is waited for."""
        return self._tell("/execute/sync", {"script": script, "args": list(args)})

    def until(self, script: str, within_s: float = 60.0) -> Any:
        """What an expression gives once that is true."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            if value := self.run(f"return {script}"):
                return value
            time.sleep(0.05)
        raise AssertionError(f"not within {within_s} s: {script}")

    def click(self, selector: str) -> None:
        """As a person does, which lets the page play sound."""
        self._tell(f"/element/{self._find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Into a field, or the path of a file."""
        self._tell(f"/element/{self._find(selector)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Keys of the keyboard one after another, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        source = {"type": "key", "id": "keys", "actions": actions}
        self._tell("/actions", {"actions": [source]})

    def emulate(self, width: int, height: int, dark: bool = False) -> None:
        """A screen of this size, light or dark."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._devtools("Emulation.setDeviceMetricsOverride", screen)
        self._devtools("Emulation.setEmulatedMedia", {"features": scheme})

    def picture(self, path: Path) -> None:
        """Writes a PNG of the whole page."""
        taken = self._devtools("Page.captureScreenshot", {"captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(taken["data"]))

    def _devtools(self, command: str, params: dict[str, Any]) -> Any:
        return self._tell("/goog/cdp/execute", {"cmd": command, "params": params})

    def _find(self, selector: str) -> str:
        return self._tell("/element", {"using": "css selector", "value": selector})[_ELEMENT]

    def _tell(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(self._base + path, json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from error


@contextmanager
def browser(*more: str):
    """A browser that ends with this, with more arguments; skips the test where there is none."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("chromium and chromium-driver are not installed")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True) as process,
    ):
        opened = None
        try:
            said = next(line for line in process.stdout if "successfully on port" in line)
            opened = Browser(int(re.search(r"port (\d+)", said)[1]), program, profile, more)
            yield opened
        finally:
            if opened:
                urllib.request.urlopen(
                    urllib.request.Request(opened._base, method="DELETE"), timeout=30
                )
            process.terminate()
