"""A hostile transcript in a real browser: no script runs, nothing leaves the page, the page stays whole."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agent_client.chat_events import ArtifactCreated, ChatEvent, MessageSent
from agent_client.messages import Artifact, Message
from agent_client.transcript_file import TranscriptWriter
from tests.agent_client.test_console import everything, png

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists() and os.environ.get("CODECELL_REQUIRE_CHROMIUM") != "1",
    reason="no /usr/bin/chromium (apt-get install chromium); a failure where CODECELL_REQUIRE_CHROMIUM=1",
)
STEAL = "document.title='pwned';fetch('{url}/fetch')"


class Listener:
    """Listens on loopback and keeps the first line of what comes."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                connection.settimeout(10)
                try:
                    line = connection.recv(1000).split(b"\r\n")[0].decode()
                except TimeoutError:
                    line = "silent"
                if line == "stop":
                    return
                self.requests.append(line)
                connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    def close(self) -> None:
        with socket.create_connection(self._socket.getsockname()) as ending:
            ending.sendall(b"stop")
        self._thread.join(30)
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Sees whatever leaves the browser for it."""
    made = Listener()
    yield made
    made.close()


class Found(HTMLParser):
    """The names of a document's elements and attributes, and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.sources += [value or "" for name, value in attrs if name == "src"]


def opened(page: Path, folder: Path) -> str:
    """The page's document after Chromium has loaded it and run what it would run."""
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=120, env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    return done.stdout


def payloads(url: str) -> list[str]:
    """What would run, load or break out, in any place where the page were careless."""
    steal = STEAL.format(url=url)
    return [
        f"<script>{steal}</script>",
        f"<img src={url}/img onerror=\"{steal}\"><svg onload=\"{steal}\"/>",
        f"\"><script>{steal}</script>",
        f"' onmouseover='{steal}' autofocus onfocus='{steal}' x='",
        f"</pre></details></article></style></title><script>{steal}</script>",
        f"<iframe src=\"{url}/frame\"></iframe><iframe srcdoc=\"<script>parent.{steal}</script>\"></iframe>",
        f"<meta http-equiv=refresh content='0;url={url}/refresh'><base href='{url}/'>",
        f"<link rel=stylesheet href={url}/css>",
        f"<style>@import '{url}/import'; body{{background:url({url}/bg)}}</style>",
        f"[click](javascript:{steal}) ![i]({url}/markdown)",
        f"<a href=\"javascript:{steal}\" ping={url}>x</a>",
        f"```python\n</pre><script>{steal}</script>\n```\n```\"><script>{steal}</script>\nx\n```",
        f"**<b onclick=1>** `<script>{steal}</script>` **`</b>**`<script>{steal}</script>`",
        f"--><!--<script>{steal}</script>-->$body$started<![CDATA[<script>{steal}</script>]]>",
        f"&lt;script&gt;{steal}&lt;/script&gt;\x00<scr\x00ipt>{steal}</scr\x00ipt>\x1b]0;<script>{steal}</script>\x07",
        f"+ADw-script+AD4-{steal}+ADw-/script+AD4-\ufeff<\u2028script>{steal}</script>",
        f"<form action={url}/form><input type=submit autofocus></form><object data={url}/object></object>",
    ]  # fmt: skip


def images(url: str) -> list[bytes]:
    """Images that carry scripts and addresses, and bytes that only say they are images."""
    steal = STEAL.format(url=url)
    return [
        (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            f' onload="{steal}"><script>{steal}</script><image xlink:href="{url}/svg" width="9" height="9"/>'
            f"<style>@import '{url}/svgcss';</style>"
            f"<foreignObject><iframe src='{url}/svgframe'/></foreignObject></svg>"
        ).encode(),
        f'"><script>{steal}</script>'.encode(),
        b"\x89PNG\r\n\x1a\n" + f'"><script>{steal}</script>'.encode(),
        f"<html><script>{steal}</script></html>".encode(),
        png(),
    ]


def test_the_browser_would_tell(listener: Listener, tmp_path: Path) -> None:
    """What the other tests look for is seen where a page does run scripts and load things."""
    page = tmp_path / "careless.html"
    page.write_text(
        f"<title>x</title><img src={listener.url}/img><script>{STEAL.format(url=listener.url)}</script>"
    )
    assert "<title>pwned</title>" in opened(page, tmp_path)
    assert any("/img" in request for request in listener.requests)


def test_nothing_runs_and_nothing_leaves(listener: Listener, tmp_path: Path) -> None:
    """With attacks in every field of every event the page stays what it was: text."""
    events: list[ChatEvent] = []
    for payload in payloads(listener.url):
        events += everything(payload)
    for data in images(listener.url):
        events += everything("image", image=data)
        evil = Artifact(name='x.png" onerror="alert(1)', mime='image/png" onerror="1', data=data)
        events.append(ArtifactCreated(agent="u", artifact=evil))
    page = tmp_path / "out.html"
    with TranscriptWriter(page) as transcript:
        for event in events:
            transcript(event)
    document = opened(page, tmp_path)
    assert re.search(r"<title>Conversation of [^<]*</title>", document)
    assert listener.requests == []
    found = Found()
    found.feed(document)
    assert found.tags <= {
        "html", "head", "meta", "title", "style", "body", "h1", "article", "header", "b", "bdi", "time", "p",
        "code", "pre", "span", "details", "summary", "figure", "img", "figcaption", "footer",
    }  # fmt: skip
    known = {"lang", "charset", "http-equiv", "content", "name", "class", "style", "alt", "src"}
    assert found.attributes <= known
    assert len(found.sources) == 9  # an SVG and two PNGs, each three times
    for source in found.sources:
        assert re.fullmatch(r"data:image/(png|svg\+xml);base64,[\w+/=]+", source)
    assert (
        document.count("<article")
        == document.count("</article>")
        == sum(isinstance(e, MessageSent) for e in events)
    )


def test_the_policy_holds_by_itself(listener: Listener, tmp_path: Path) -> None:
    """Were something let in after all, the page's policy would still keep it from running and loading."""
    path = tmp_path / "out.html"
    with TranscriptWriter(path) as transcript:
        transcript(MessageSent(sender="a", recipient="b", message=Message(content="HERE")))
    evil = "".join(payloads(listener.url)).replace("http-equiv=refresh", "")  # which no policy covers
    path.write_text(path.read_text().replace("HERE", evil))
    document = opened(path, tmp_path)
    assert "<script>" in document
    assert "<title>Conversation of" in document
    # A connection may be opened ahead of a request that is then refused: nothing is said over it.
    assert [request for request in listener.requests if request] == []
