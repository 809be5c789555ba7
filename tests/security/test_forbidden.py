"""What this package does not do with anything that it reads, held by its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import alexnet_deploy

PACKAGE = Path(alexnet_deploy.__file__).parent
# Modules that may not be imported: they run what they read, or speak to a network.
FORBIDDEN_MODULES = frozenset({
    "pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle", "yaml", "runpy", "code",
    "codeop", "telnetlib", "xmlrpc", "http", "ftplib", "requests", "socket", "socketserver", "xml",
})  # fmt: skip
# What may not be used: it runs what it reads, believes what it reads, or makes what others can guess.
FORBIDDEN = frozenset({
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.execve", "os.execvp",
    "subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp", "numpy.load", "numpy.fromfile",
    "numpy.memmap", "pandas.read_pickle", "torch.jit.load", "torch.hub.load", "torch.ops.load_library",
    "torch.classes.load_library", "torch.package.PackageImporter", "torch.export.load",
    "onnx.load", "onnx.load_model", "onnx.load_model_from_string", "onnx_ir.load", "shutil.unpack_archive",
    "shutil.rmtree", "os.chmod", "ssl._create_unverified_context", "urllib.request.urlopen",
    "urllib.request.urlretrieve",
})  # fmt: skip
METHODS = frozenset({"extractall", "extract", "register_custom_ops_library", "unsafe_load", "full_load", "read_pickle"})
# The one place of each that is guarded.
GUARDED = {
    "onnx.load_from_string": {"graph_guard"},
    "onnx.load_external_data_for_model": {"graph"},
    "PIL.Image.open": {"data.sources"},
    "torch.load": {"weights"},
    "zipfile.ZipFile": {"weights_guard"},
    "gzip.open": {"data.sources"},
    "zlib.decompressobj": {"precision.histogram"},
    "zstandard.ZstdDecompressor": {"weights_guard"},
    "importlib.import_module": {"optional", "cli.main"},
    "ctypes.CDLL": {"machine", "lrn.library_name"},
    "multiprocessing.get_context": {"bench.worker", "bench.loadgen_worker"},
    "json.loads": {
        # Of what a runtime or this package wrote just now or into the work directory, or of bytes that are bounded.
        "limits", "data.shipped", "inspection", "precision.resume", "lrn.launch", "engines.inspector",
        "runtimes.onnxruntime", "bench.loadgen_log", "training.run",
        "pipeline.costs", "pipeline.lrn_measured", "pipeline.placement",
    },
    "safetensors.torch.load": {"weights"},
    "safetensors.safe_open": {"training.state"},
}  # fmt: skip
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def names_of(tree: ast.AST) -> dict[str, str]:
    """What names at hand stand for, by the imports of a module and of its functions."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """`Image.open` as `PIL.Image.open`; empty for what is no chain of names."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value, names)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def wrong_with(source: str, module: str) -> Iterator[str]:
    """Every use that is forbidden, in words."""
    tree = ast.parse(source)
    names = names_of(tree)
    imported = {
        alias.name if isinstance(node, ast.Import) else f"{node.module}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    yield from (f"imports {name}" for name in sorted(imported) if name.split(".")[0] in FORBIDDEN_MODULES)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = dotted(node, names)
            if name in FORBIDDEN:
                yield f"line {node.lineno}: {name}"
            if name in GUARDED and module not in GUARDED[name]:
                yield f"line {node.lineno}: {name} outside {', '.join(sorted(GUARDED[name]))}"
        if isinstance(node, ast.Call):
            yield from _wrong_with_call(node, dotted(node.func, names))


def _wrong_with_call(node: ast.Call, name: str) -> Iterator[str]:
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
        yield f"line {node.lineno}: .{node.func.attr}()"
    if name == "torch.load" and not _is(given.get("weights_only"), True):
        yield f"line {node.lineno}: torch.load without weights_only=True"
    for flag in ("shell", "allow_pickle", "trust_remote_code"):
        if flag in given and not _is(given[flag], False):
            yield f"line {node.lineno}: {flag}"
    if name.startswith("subprocess.") and node.args and not isinstance(node.args[0], ast.List | ast.Name):
        yield f"line {node.lineno}: {name} of a text"
    if name == "PIL.Image.open" and "formats" not in given:
        yield f"line {node.lineno}: Image.open of any format"


def _is(value: ast.expr | None, constant: bool) -> bool:
    return isinstance(value, ast.Constant) and value.value is constant


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_a_module_does_none_of_it(path: Path) -> None:
    assert list(wrong_with(path.read_text(), module_of(path))) == []


def test_every_exception_is_used() -> None:
    sources = {module_of(path): path.read_text() for path in MODULES}
    for name, modules in GUARDED.items():
        for module in modules:
            names = names_of(ast.parse(sources[module]))
            used = {dotted(node, names) for node in ast.walk(ast.parse(sources[module]))}
            assert name in used, f"{module} does not use {name}"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import marshal as m",
        "eval('1')",
        "exec(text)",
        "import builtins\n__import__(name)",
        "import numpy as np\nnp.load(path)",
        "from numpy import load as read\nread(path)",
        "import torch\ntorch.load(path, weights_only=True)",
        "import yaml\nyaml.safe_load(text)",
        "import subprocess\nsubprocess.run('ls', check=True)",
        "import subprocess\nsubprocess.run(command, shell=True)",
        "import subprocess\nsubprocess.run(command, shell=flag)",
        "import tempfile\ntempfile.mktemp()",
        "archive.extractall(folder)",
        "import tarfile\ntarfile.open(path).extract('a')",
        "import onnx\nonnx.load(path, load_external_data=False)",
        "import onnx\nonnx.load_from_string(data)",
        "from PIL import Image\nImage.open(path, formats=('PNG',))",
        "def f():\n    import onnx_ir as ir\n    return ir.load(path)",
        "options.register_custom_ops_library(path)",
        "import os\nos.system('ls')",
        "import numpy\nnumpy.lib.format.read_array(file, allow_pickle=True)",
        "import gzip\ngzip.open(path)",
        "import json\njson.loads(path.read_text())",
        "import ctypes\nctypes.CDLL(name)",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert list(wrong_with(source, "somewhere"))


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import torch\ntorch.load(path)", "weights"),
        ("import torch\ntorch.load(path, weights_only=flag)", "weights"),
        ("from PIL import Image\nImage.open(path)", "data.sources"),
    ],
)
def test_the_guarded_place_is_searched_too(source: str, module: str) -> None:
    assert list(wrong_with(source, module))


def test_the_search_lets_pass() -> None:
    lines = (
        "import re, subprocess, torch",
        "model.eval()",
        "subprocess.run(['ls'], check=True)",
        "torch.compile(model)",
        "re.compile('x')",
        "requests = code",
    )
    assert list(wrong_with("\n".join(lines), "somewhere")) == []
