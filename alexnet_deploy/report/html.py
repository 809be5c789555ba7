"""A bench as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from alexnet_deploy.report.markup import escape, section
from alexnet_deploy.report.sections import (
    accuracy,
    calibration,
    environment,
    latency,
    limits,
    method,
    mistakes,
    summary,
)
from alexnet_deploy.report.sections.start import starts
from alexnet_deploy.report.style import stylesheet

# Nothing is fetched and nothing runs, whatever a text of the document may hold; the style sheet is known by its hash.
_POLICY = "default-src 'none'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; form-action 'none'"
_THEME = (
    '<fieldset class="theme"><legend>Colours</legend>'
    '<label><input type="radio" name="theme" id="theme-auto" checked>auto</label>'
    '<label><input type="radio" name="theme" id="theme-light">light</label>'
    '<label><input type="radio" name="theme" id="theme-dark">dark</label></fieldset>'
)


def page_from_bench(document: dict[str, Any]) -> str:
    """Renders the whole page; every text from the document is escaped.

    Args:
        document: Of `bench --json` (docs/formats.md). A part that it lacks is left out of the page.
    """
    found = [(anchor, title, html) for anchor, title, html in _sections(document) if html]
    style = stylesheet()
    links = "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title, _ in found)
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY.format(_digest_of(style))}">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">',
            f"<title>{escape(str(document['model']['name']))}: latency and accuracy</title>",
            f"<style>{style}</style></head><body>",
            '<a class="skip" href="#content">Skip to the report</a><div class="layout">',
            summary.header(document),
            f'<div class="side"><nav aria-label="Sections"><ul>{links}</ul></nav>{_THEME}</div>',
            '<main id="content" tabindex="-1">',
            summary.warnings(document),
            *(section(anchor, title, html) for anchor, title, html in found),
            "</main></div></body></html>\n",
        ]
    )


def _digest_of(style: str) -> str:
    """As a policy names an inline style sheet (W3C, Content Security Policy Level 3, section 2.3.1)."""
    return base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


def _sections(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        ("recommendation", "Recommendation", summary.recommendation(document)),
        ("front", "Latency against accuracy", latency.fronts(document)),
        ("figures", "All figures", latency.figures(document)),
        ("latency", "Latency distributions", latency.strips(document)),
        ("throughput", "Throughput against batch", latency.lines(document)),
        ("start", "Start and memory", starts(document)),
        ("layers", "Time by layer", limits.profiles(document)),
        ("roofline", "Roofline", limits.roofs(document)),
        ("accuracy", "Accuracy", accuracy.accuracy(document)),
        ("calibration", "INT8 calibration", calibration.histograms(document)),
        ("confusion", "Confusion", mistakes.confusions(document)),
        ("flipped", "Flipped images", mistakes.flips(document)),
        ("not-run", "What did not run", method.not_run(document)),
        ("how", "How it was measured", method.how(document)),
        ("environment", "Environment", environment.environment(document) + environment.conditions(document)),
        ("passports", "Passports", environment.passports(document)),
    ]
