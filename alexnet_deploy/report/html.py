"""A bench as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from html import escape
from typing import Any

from alexnet_deploy.report.svg import Point, bars, runtime_class, scatter
from alexnet_deploy.report.terminal import label_of, percent, reasons, sentences

_COLOURS = {
    "torch": ("#c2410c", "#fb923c"),
    "onnxruntime-cpu": ("#1d4ed8", "#7dabff"),
    "openvino": ("#7e22ce", "#c792f5"),
    "onnxruntime-cuda": ("#0e7490", "#5cc8e0"),
    "onnxruntime-tensorrt": ("#7c3aed", "#b99cf5"),
    "onnxruntime-tensorrt-rtx": ("#a21caf", "#e08bea"),
    "tensorrt": ("#4d7c0f", "#a3d65c"),
    "tensorrt-rtx": ("#15803d", "#6fdc97"),
}
_STYLE = """
:root{--ink:#1c1f23;--soft:#5b6470;--line:#dfe3e8;--paper:#fff;--panel:#f6f7f9}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa4b0;--line:#343a42;--paper:#15181c;--panel:#1d2127}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:960px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:25px;margin:0 0 4px}h2{font-size:18px;margin:34px 0 8px}
p{margin:6px 0}.soft{color:var(--soft)}
.said{background:var(--panel);border-left:3px solid var(--soft);padding:10px 14px;margin:16px 0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:5px 9px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{font-weight:600;color:var(--soft)}
th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}
td.why{white-space:normal}
svg{width:100%;height:auto;display:block;margin:4px 0 10px}
svg text{font:12px system-ui,sans-serif;fill:var(--ink)}
svg .axis{fill:var(--soft)}svg .grid{stroke:var(--line)}
svg .whisker{stroke:var(--ink);stroke-opacity:.65;stroke-width:1.5}
.dot{display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:7px;background:currentColor}
"""


def page_from_bench(document: dict[str, Any]) -> str:
    """Renders the whole page; every text from the document is escaped."""
    model, data = document["model"], document["data"]
    name = escape(str(model["name"]))
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{name}: latency and accuracy</title><style>{_STYLE}{_colour_rules()}</style></head><body><main>",
            f"<h1>{name}</h1>",
            f'<p class="soft">Measured {escape(str(document["made"]))} on '
            f"{escape(str(document['environment']['cpu']))}, {document['environment']['cpus']} CPUs; "
            f"accuracy on {data['images']} images: {escape(str(data['name']))}.</p>",
            _said(document),
            *[_batch(document, batch) for batch in document["options"]["batches"]],
            _not_run(document),
            _how(document),
            _environment(document["environment"]),
            "</main></body></html>\n",
        ]
    )


def _colour_rules() -> str:
    rules = []
    for position, scheme in enumerate(("", "@media(prefers-color-scheme:dark){")):
        for runtime, colours in _COLOURS.items():
            name, colour = runtime_class(runtime), colours[position]
            rule = f".{name} circle,.{name} rect{{fill:{colour}}}td.{name}{{color:{colour}}}"
            rules.append(f"{scheme}{rule}{'}' if scheme else ''}")
    return "".join(rules)


def _said(document: dict[str, Any]) -> str:
    lines = sentences(document)
    return f'<div class="said">{"".join(f"<p>{escape(line)}</p>" for line in lines)}</div>' if lines else ""


def _batch(document: dict[str, Any], batch: int) -> str:
    rows = [row for row in document["rows"] if row["batch"] == batch and row["status"] == "ok"]
    if not rows:
        return ""
    rows.sort(key=lambda row: row["latency_ms"]["median"])
    labelled = document["data"]["labelled"]
    points = [
        Point(
            label=label_of(row),
            runtime=row["runtime"],
            x=row["latency_ms"]["median"],
            interval=(row["latency_ms"]["ci95"][0], row["latency_ms"]["ci95"][1]),
            y=row["top1"] if labelled else row["agreement"],
        )
        for row in rows
    ]
    y_title = "top-1" if labelled else "agreement with the reference"
    picture = scatter(points, x_title=f"median milliseconds for a batch of {batch}", y_title=y_title)
    return (
        f"<h2>Batch {batch}</h2>{picture}{bars(points, title=f'latency at batch {batch}')}"
        f'<div class="scroll">{_table(rows)}</div>'
    )


def _table(rows: list[dict[str, Any]]) -> str:
    head = (
        "runtime", "precision", "median ms", "95 % interval", "p90", "p99", "images/s", "top-1", "top-5", "agrees",
        "lost / won", "SQNR dB", "MB", "cold start ms", "peak MB", "LRN",
    )  # fmt: skip
    body = []
    for row in rows:
        latency, flips = row["latency_ms"], row["flips"]
        cells = [
            f'<td class="{runtime_class(row["runtime"])}"><span class="dot"></span>{escape(row["runtime"])}</td>',
            *(
                f"<td>{escape(text)}</td>"
                for text in (
                    label_of(row).removeprefix(f"{row['runtime']} "),
                    f"{latency['median']:.2f}" + (" ~" if latency["noisy"] else ""),
                    f"{latency['ci95'][0]:.2f} to {latency['ci95'][1]:.2f}",
                    f"{latency['p90']:.2f}",
                    f"{latency['p99']:.2f}",
                    f"{row['throughput_ips']:.0f}",
                    percent(row["top1"]),
                    percent(row["top5"]),
                    percent(row["agreement"]),
                    f"{flips['lost']} / {flips['won']}",
                    "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}",
                    f"{row['size_bytes'] / 1e6:.1f}" if row["size_bytes"] else "",
                    f"{row['cold_start_ms']:.0f}",
                    f"{row['peak_memory_bytes'] / 1e6:.0f}" if row["peak_memory_bytes"] else "",
                    row["lrn"] or "",
                )
            ),
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    titles = "".join(f"<th>{title}</th>" for title in head)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _not_run(document: dict[str, Any]) -> str:
    lines = reasons(document["rows"])
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>What did not run here, and why</h2><ul>{items}</ul>"


def _how(document: dict[str, Any]) -> str:
    options = document["options"]
    return (
        "<h2>How it was measured</h2>"
        f"<p>Each session runs in a process of its own. {options['runs']} runs a row, taken in {options['rounds']} "
        "turns that visit every row, so that a slower minute of the machine hits all alike; three warm-up runs before "
        "each turn are left out. Times are from images in memory to logits in memory, without decoding. The interval "
        "is a bootstrap over the samples for the median. A row marked ~ is noisy: the middle half of its samples "
        "spreads over more than a tenth of the median.</p>"
        "<p>Lost and won are the images that only the reference (the first row that ran, torch in FP32), or only this "
        "row, gets right. Raw samples are in the JSON beside this page.</p>"
    )


def _environment(environment: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    flags = ", ".join(environment["cpu_flags"]) or "no notable flags"
    rows = {
        "CPU": f"{environment['cpu']} ({environment['cpus']} usable; {flags})",
        "memory": f"{environment['memory_bytes'] / 1e9:.0f} GB",
        "CUDA devices": str(environment["gpus"]),
        "system": f"{environment['system']}, Python {environment['python']}",
        "packages": packages,
    }
    body = "".join(
        f'<tr><td>{escape(name)}</td><td class="why">{escape(text)}</td></tr>' for name, text in rows.items()
    )
    return f"<h2>Environment</h2><table><tbody>{body}</tbody></table>"
