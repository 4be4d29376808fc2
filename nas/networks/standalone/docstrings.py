"""Docstrings of a simplified source file: what they say of parts that were left out is left out too."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Mapping

from nas.networks.standalone.module_source import Function

_SENTENCE = re.compile(r"(?<=[.:])\s+(?=[A-Z`\"(\[])")
_SECTION = re.compile(r"\n[ ]*(Args|Raises|Attributes):\n((?:[ ]*\n|[ ]+\S.*(?:\n|$))*)")


def parameters_of(tree: ast.Module) -> dict[str, set[str]]:
    """Return the parameters of each function and class of a file, by their names."""
    return {node.name: _parameters(node) for node in ast.walk(tree) if isinstance(node, Function | ast.ClassDef)}


def clean_docstrings(tree: ast.Module, written: Mapping[str, set[str]]) -> None:
    """Leave out sentences about names that the file does not have, errors that it does not raise, and parameters.

    Args:
        tree: The file. It is changed.
        written: The parameters of its functions and classes before parts were left out.
    """
    everywhere = _names(tree)
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef) and (text := ast.get_docstring(node)):
            raises = any(isinstance(part, ast.Raise) for part in ast.walk(node))
            known = everywhere - (written.get(node.name, set()) - _parameters(node))
            cleaned = _sections(_sentences(text, known, raises), _parameters(node), raises)
            indented = cleaned.replace("\n", "\n" + " " * (node.col_offset + 4))
            ending = "\n" + " " * (node.col_offset + 4) if "\n" in cleaned else ""
            node.body[0] = ast.Expr(ast.Constant(re.sub(r"[ ]+\n", "\n", indented) + ending))


def _names(tree: ast.Module) -> set[str]:
    found = {"x"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, Function | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(f'"{node.value}"')
    return found


def _parameters(node: ast.AST) -> set[str]:
    """Return the parameters of a function, or of a class when it is made."""
    for part in [node, *getattr(node, "body", [])]:
        if isinstance(part, Function) and (part is node or part.name == "__init__"):
            return {arg.arg for arg in ast.walk(part.args) if isinstance(arg, ast.arg)}
    return set()


def _sentences(text: str, known: set[str], raises: bool) -> str:
    """Return a docstring without the sentences of its paragraphs that speak of what is not there."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        if re.match(r"\s*(Args|Raises|Attributes|Returns):\n", paragraph):
            paragraphs.append(paragraph)
            continue
        sentences = _SENTENCE.split(paragraph)
        kept = [
            each for each in sentences if _is_true(each, known, raises) or (each is sentences[0] and not paragraphs)
        ]
        if kept:
            paragraphs.append(paragraph if len(kept) == len(sentences) else _wrapped(" ".join(kept)))
    return "\n\n".join(paragraphs)


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 80, break_long_words=False)


def _is_true(sentence: str, known: set[str], raises: bool) -> bool:
    mentioned = re.findall(r"`([A-Za-z_]\w*)`", sentence) + re.findall(r"\"[a-z_]+\"", sentence)
    return all(name in known for name in mentioned) and (raises or not sentence.strip().startswith("Raises"))


def _sections(text: str, parameters: set[str], raises: bool) -> str:
    """Return a docstring without entries for parameters that are not there, and without errors that are not raised."""

    def section(match: re.Match[str]) -> str:
        if match[1] == "Raises":
            return match[0] if raises else ""
        if match[1] != "Args":
            return match[0]
        entries = re.split(r"(?m)^(?=[ ]{4}\S)", match[2])
        kept = [each for each in entries if not (name := re.match(r"[ ]{4}(\w+):", each)) or name[1] in parameters]
        told = "".join(kept)
        return f"\nArgs:\n{told}" if told.strip() else ""

    return _SECTION.sub(section, text + "\n").rstrip()
