"""The page at `/`: one file that asks for nothing but this server's answers."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from pathlib import Path

from alexnet_deploy.printable import printable
from alexnet_deploy.serving.asgi import Response
from alexnet_deploy.serving.model import ServedModel

_FOLDER = Path(__file__).parent
# Script and style are known by their hashes; pictures are those that the page was given.
_POLICY = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_of(model: ServedModel) -> Response:
    """The page for a model; its texts are escaped."""
    parts = {name: (_FOLDER / f"page.{kind}").read_text("utf-8") for name, kind in (("style", "css"), ("script", "js"))}
    texts = {name: escape(printable(text)) for name, text in (("name", model.name), ("platform", model.platform))}
    html = (_FOLDER / "page.html").read_text("utf-8")
    for name, text in {**parts, **texts}.items():
        html = html.replace(f"{{{{{name}}}}}", text)
    return Response(
        body=html.encode(),
        headers={
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": _POLICY.format(**{name: _digest(text) for name, text in parts.items()}),
            "referrer-policy": "no-referrer",
            "x-frame-options": "DENY",
        },
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
