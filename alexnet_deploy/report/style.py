"""How a report looks: colours for light and dark, type, layout. No font, no picture, nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

_RULES = Path(__file__).with_name("report.css")
# Light and dark. Each has three to one or more against its paper, so that thin lines and small marks can be seen.
_PALETTE = {
    "ink": ("#1b1f24", "#e6e8eb"),
    "soft": ("#59626d", "#9aa5b1"),
    "line": ("#dde1e6", "#333a42"),
    "paper": ("#ffffff", "#14171b"),
    "panel": ("#f5f6f8", "#1c2025"),
    "accent": ("#0b5fb0", "#74b4f5"),
    "warn": ("#8a4b00", "#f0b35a"),
    "warn-panel": ("#fff6e5", "#2a2217"),
    "bad": ("#b3261e", "#ff8a80"),
    "heat": ("#0b5fb0", "#5aa5f0"),
    "bars": ("#b9c6d4", "#46525f"),
}
# Colours of the runtimes keep their distance for the colour-blind too (after M. Okabe and K. Ito 2008); in pictures the
# precision is a shape and a label says both, so that no figure depends on them.
RUNTIME_COLOURS = {
    "torch": ("#c2410c", "#ff8f57"),
    "onnxruntime-cpu": ("#0060a8", "#62b0f2"),
    "openvino": ("#9a2f7c", "#e895cf"),
    "onnxruntime-cuda": ("#00735a", "#2cc49b"),
    "onnxruntime-tensorrt": ("#5b46b0", "#ab9bf5"),
    "onnxruntime-tensorrt-rtx": ("#7d5500", "#dcb04c"),
    "tensorrt": ("#4b5563", "#b6bfca"),
    "tensorrt-rtx": ("#2e7500", "#8dd15c"),
    "torch-compile": ("#8a3b12", "#f2a477"),
}


def runtime_class(runtime: str) -> str:
    """CSS class of a runtime's colour."""
    return "rt-" + "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in runtime)


def stylesheet() -> str:
    """The whole style sheet: the reader's system says light or dark, and the switch on the page overrules it."""
    names = {**{f"--{name}": pair for name, pair in _PALETTE.items()}}
    names |= {f"--c-{runtime_class(name)}": pair for name, pair in RUNTIME_COLOURS.items()}
    light = ";".join(f"{name}:{pair[0]}" for name, pair in names.items())
    dark = ";".join(f"{name}:{pair[1]}" for name, pair in names.items())
    both = ";".join(f"{name}:light-dark({pair[0]},{pair[1]})" for name, pair in names.items())
    runtimes = "".join(f".{runtime_class(name)}{{--rt:var(--c-{runtime_class(name)})}}" for name in RUNTIME_COLOURS)
    # Browsers from before light-dark() follow the system alone, and do not show the switch.
    return (
        f":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
        f"@supports(color:light-dark(red,red)){{:root{{{both}}}}}"
        ":root:has(#theme-light:checked){color-scheme:light}:root:has(#theme-dark:checked){color-scheme:dark}"
        f"{runtimes}\n{_RULES.read_text(encoding='utf-8')}"
    )
