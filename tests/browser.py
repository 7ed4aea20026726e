"""A headless Chromium, asked through its DevTools protocol over a pipe. No driver is needed."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"),
)
PATIENCE = 90  # seconds until a browser that does not answer is ended


def executable() -> str | None:
    """The browser, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A tab. What it asks the network for and what goes wrong in it is kept.

    Attributes:
      errors: exceptions and messages of the console.
      requests: addresses.
    """

    def __init__(self, ask, told):
        self._ask, self._told = ask, told
        self.errors, self.requests = [], []

    def ask(self, method, **values):
        """The answer to a command of the protocol."""
        answer = self._ask(method, values)
        for event in self._told():
            self._note(event["method"], event.get("params", {}))
        return answer

    def _note(self, name, values):
        if name == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif name == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(values["exceptionDetails"])[:500])
        elif name == "Runtime.consoleAPICalled":
            self.errors.append(json.dumps(values["args"])[:500])
        elif name == "Log.entryAdded":
            self.errors.append(values["entry"]["text"])

    def open(self, file, width=1000, height=900, dark=False):
        """Loads a file and waits until it is drawn; errors and requests are its own from then."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.errors.clear()
        self.requests.clear()
        self.ask("Page.navigate", url=Path(file).resolve().as_uri())
        ready = "document.readyState === 'complete' && location.protocol === 'file:'"
        while not self.run(ready):
            pass
        self.run("new Promise(requestAnimationFrame)")

    def run(self, script):
        """What a line of JavaScript comes to."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    def move(self, x, y):
        """Moves the mouse to a place of the window."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, file):
        """Writes a PNG of the window."""
        shot = self.ask("Page.captureScreenshot")
        Path(file).write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def page(folder):
    """A new browser with its profile in a folder, and its one page."""
    to_child, from_us = os.pipe()
    from_child, to_us = os.pipe()
    command = [executable(), *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    # The protocol reads from descriptor 3 and writes to 4, whatever these pipes are here.
    shell = f'exec 3<&{to_child} 4>&{to_us}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", shell, "-", *command],
        pass_fds=(to_child, to_us),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_child)
    os.close(to_us)
    guard = threading.Timer(PATIENCE, process.kill)
    guard.start()
    try:
        with os.fdopen(from_us, "wb") as out, os.fdopen(from_child, "rb") as answers:
            yield _first_page(out, answers)
    finally:
        guard.cancel()
        process.kill()
        process.wait()


def _first_page(out, answers):
    number, events, session = 0, [], {}

    rest = b""

    def heard():
        nonlocal rest
        parts = [rest]
        while b"\0" not in parts[-1]:
            parts.append(answers.read1())
            if not parts[-1]:
                raise AssertionError("the browser ended")
        message, _, rest = b"".join(parts).partition(b"\0")
        return json.loads(message)

    def ask(method, values):
        nonlocal number
        number += 1
        line = {"id": number, "method": method, "params": values, **session}
        out.write(json.dumps(line).encode() + b"\0")
        out.flush()
        while (answer := heard()).get("id") != number:
            events.append(answer)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def told():
        found, events[:] = list(events), []
        return found

    targets = ask("Target.getTargets", {})["targetInfos"]
    target = next(one for one in targets if one["type"] == "page")["targetId"]
    found = ask("Target.attachToTarget", {"targetId": target, "flatten": True})
    session["sessionId"] = found["sessionId"]
    made = Page(ask, told)
    for domain in ("Page", "Runtime", "Log", "Network"):
        made.ask(f"{domain}.enable")
    return made
