"""Lists the names TensorRT's Python bindings define, as JSON, from a checkout of github.com/NVIDIA/TensorRT.

    python tests/engines/bindings/extract.py CHECKOUT COMMIT OUT.json [--note TEXT]

Only names are taken: no signature, documentation or code of NVIDIA's is copied. A class lists what it defines itself;
"bases" leads to the rest. An enum bound inside a class is listed as "Class.Enum".
"""

import argparse
import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

# As the tensorrt wheel is built: the lean and dispatch wheels alone turn EXPORT_ALL_BINDINGS off, and nothing in the
# repository turns ENABLE_INETWORK_SERIALIZE on.
# On anything else (the platform, pybind11's version) the first branch is read: none of those binds a name.
SWITCHES = {"EXPORT_ALL_BINDINGS": True, "ENABLE_INETWORK_SERIALIZE": False}

# What pybind11's bind_vector defines for every element type, and what it adds where elements compare by ==.
VECTOR = {"__bool__", "__delitem__", "__getitem__", "__init__", "__iter__", "__len__", "__setitem__"}
VECTOR |= {"append", "clear", "extend", "insert", "pop"}
COMPARED = {"__contains__", "count", "remove"}

LITERAL = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'', re.S)
COMMENT_OR_LITERAL = re.compile(rf"(//[^\n]*|/\*.*?\*/)|{LITERAL.pattern}", re.S)
BINDING = re.compile(r"py::(class_|enum_|bind_vector)\s*(?=<)")
OPENED = re.compile(r"\s*(\w*)\s*(?=[({])")
STRING = re.compile(r'\s*"([^"]*)"')
PRIVATE = re.compile(r"_(?!_)")
CALL = re.compile(r"\s*\.\s*(\w+)\s*(?=\()")


def preprocessed(text: str) -> str:
    """The C++ text less its comments, its directives and the branches SWITCHES turns off."""
    text = COMMENT_OR_LITERAL.sub(lambda match: " " if match[1] else match[0], text)
    lines: list[str] = []
    kept: list[bool] = []
    for line in text.splitlines():
        directive = re.match(r"\s*#\s*(\w+)\s*(.*?)\s*$", line)
        if not directive:
            if all(kept):
                lines.append(line)
        elif directive[1] in ("if", "ifdef", "ifndef"):
            kept.append(SWITCHES.get(directive[2], True))
        elif directive[1] in ("else", "elif"):
            kept[-1] = not kept[-1]
        elif directive[1] == "endif":
            kept.pop()
    return "\n".join(lines)


def pieces(text: str, start: int) -> tuple[list[str], int]:
    """The top-level comma-separated pieces of the bracket opened at START, and where it ends."""
    # In a template's list < and > are brackets; elsewhere they are also operators and arrows.
    opening, closing = ("<([{", ">)]}") if text[start] == "<" else ("([{", ")]}")
    found: list[str] = []
    depth, begun, at = 0, start + 1, start
    while True:
        if literal := LITERAL.match(text, at):
            at = literal.end()
            continue
        if text[at] in opening:
            depth += 1
        elif text[at] in closing:
            depth -= 1
        if depth == 0 or (depth == 1 and text[at] == ","):
            found.append(text[begun:at].strip())
            begun = at + 1
        at += 1
        if depth == 0:
            return found, at


def calls(text: str, at: int) -> Iterator[tuple[str, str]]:
    """Each chained call from AT on, as (method, the name it defines)."""
    while call := CALL.match(text, at):
        arguments, at = pieces(text, call.end())
        if name := STRING.match(arguments[0]):
            yield call[1], name[1]
        elif arguments[0].startswith("py::init"):
            yield call[1], "__init__"
        else:
            yield call[1], ""


class Names:
    """What the bindings define, gathered file by file."""

    def __init__(self) -> None:
        self.members: dict[str, set[str]] = {}
        self.types: dict[str, list[str]] = {}
        self.enums: dict[str, set[str]] = {}
        self.functions: set[str] = set()
        self.constants: set[str] = set()
        self.python: set[str] = set()

    def read_cpp(self, text: str) -> None:
        variables: dict[str, str] = {}
        for match in BINDING.finditer(text):
            types, at = pieces(text, match.end())
            # Either a statement, py::class_<T>(m, "Name"), or a variable, py::class_<T> name{m, "Name"}.
            opened = OPENED.match(text, at)
            if not opened:
                continue
            arguments, at = pieces(text, opened.end())
            scope, name = variables.get(arguments[0], ""), arguments[1].strip('"')
            if match[1] == "enum_":
                self.enums[f"{scope}.{name}".lstrip(".")] = values = set[str]()
                exported = False
                for method, value in calls(text, at):
                    exported |= method == "export_values"
                    if method == "value":
                        values.add(value)
                if scope:
                    self.members[scope] |= {name, *(values if exported else ())}
                continue
            if opened[1]:
                variables[opened[1]] = name
            self.types[name] = [kind.removeprefix("nvinfer1::") for kind in types]
            self.members[name] = set[str]()
            if match[1] == "bind_vector":
                self.members[name] |= VECTOR if "PluginField" in types[0] else VECTOR | COMPARED
            self._define(name, text, at)
        for variable, name in variables.items():
            for use in re.finditer(rf"\b{variable}(?=\s*\.)", text):
                self._define(name, text, use.end())
        self.functions.update(re.findall(r'\bm\s*\.\s*def\(\s*"(\w+)"', text))
        constants = re.findall(r'\bm\s*\.\s*attr\(\s*"(\w+)"\s*\)\s*=', text)
        self.constants.update(name for name in constants if not PRIVATE.match(name))

    def _define(self, name: str, text: str, at: int) -> None:
        self.members[name].update(member for method, member in calls(text, at) if method.startswith("def") and member)

    def read_python(self, body: list[ast.stmt]) -> None:
        for statement in body:
            names: list[str] = []
            if isinstance(statement, ast.FunctionDef):
                names = [statement.name]
            elif isinstance(statement, ast.If):
                # A test without a variable asks which wheel this is, and the answer is this one. The others ask for
                # Windows. The loop that copies ILogger.Severity's members to Logger adds only what Logger inherits.
                if not any(isinstance(node, ast.Name) for node in ast.walk(statement.test)):
                    self.read_python(statement.body)
            elif isinstance(statement, ast.Assign):
                names = [ast.unparse(target) for target in statement.targets]
            for name in names:
                owner, _, member = name.rpartition(".")
                if owner in self.members:
                    self.members[owner].add(member)
                elif not PRIVATE.match(member):
                    self.python.add(name)

    def as_json(self) -> dict[str, object]:
        bound = {types[0]: name for name, types in self.types.items()}
        classes = {
            # Beside the bases a class_ names its holder and its trampoline, which Python never sees.
            name: {"bases": [bound[kind] for kind in self.types[name][1:] if kind in bound], "members": sorted(members)}
            for name, members in sorted(self.members.items())
        }
        return {
            "classes": classes,
            "enums": {name: sorted(values) for name, values in sorted(self.enums.items())},
            "functions": sorted(self.functions),
            "constants": sorted(self.constants),
            "python": sorted(self.python),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("commit")
    parser.add_argument("out", type=Path)
    parser.add_argument("--note", help="anything a reader of the list must know")
    arguments = parser.parse_args()
    names = Names()
    for path in sorted((arguments.checkout / "python/src").rglob("*.cpp")):
        names.read_cpp(preprocessed(path.read_text(encoding="utf-8")))
    wheel = (arguments.checkout / "python/packaging/bindings_wheel/tensorrt/__init__.py").read_text(encoding="utf-8")
    wheel = re.sub(r"##\w+##", "0", wheel.replace("##TENSORRT_MODULE##", "tensorrt"))
    names.read_python(ast.parse(wheel).body)
    head = {
        "source": "https://github.com/NVIDIA/TensorRT",
        "licence": "Apache-2.0",
        "commit": arguments.commit,
        "version": (arguments.checkout / "VERSION").read_text(encoding="utf-8").strip(),
        **({"note": arguments.note} if arguments.note else {}),
    }
    text = json.dumps({**head, **names.as_json()}, indent=1, ensure_ascii=False)
    arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
