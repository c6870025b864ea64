"""Coroutines made of pymilvus's synchronous code, for what it has in no other form.

The iterators are some hundred lines of cursors, caches and checkpoints between a few calls of the
handler. They are compiled from pymilvus's own source, with an await in front of those calls and of
whatever then has to wait in turn: whichever version is installed, it is its behaviour.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from typing import Any

# Methods of the handler, or that get it, which are coroutines in the asynchronous client.
_WAITING = frozenset(
    (
        "_get_connection",
        "_get_schema",
        "describe_collection",
        "get_query_segment_info",
        "list_indexes",
        "query",
        "search",
        "GetQuerySegmentInfo",
    )
)


def _is_of_connection(value: ast.expr, method: str) -> bool:
    if isinstance(value, ast.Name):
        return value.id == "conn" or (value.id == "self" and method == "_get_connection")
    if isinstance(value, ast.Attribute):
        return value.attr in ("_conn", "_handler", "_stub")
    return isinstance(value, (ast.Await, ast.Call))


class _Rewriter(ast.NodeTransformer):
    """One pass; a function in which an await was put is known to wait in the next one."""

    def __init__(self, names: set[str]) -> None:
        self.names = names  # functions and classes that wait
        self.methods: set[str] = set()
        self.changed = False
        self._awaits = [False]

    def _waits(self, call: ast.Call) -> bool:
        function = call.func
        if isinstance(function, ast.Name):
            return function.id in self.names
        if not isinstance(function, ast.Attribute):
            return False
        if isinstance(function.value, ast.Name) and function.value.id == "self":
            return function.attr in self.methods or function.attr == "_get_connection"
        return function.attr in _WAITING and _is_of_connection(function.value, function.attr)

    def visit_Await(self, node: ast.Await) -> ast.AST:
        self._awaits[-1] = True
        assert isinstance(node.value, ast.Call)
        ast.NodeTransformer.generic_visit(self, node.value)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not self._waits(node):
            return node
        self.changed = self._awaits[-1] = True
        return ast.copy_location(ast.Await(node), node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        self._awaits.append(False)
        self.generic_visit(node)
        if not self._awaits.pop() or isinstance(node, ast.AsyncFunctionDef):
            return node
        self.changed = True
        arguments = node.args.posonlyargs + node.args.args
        if arguments and arguments[0].arg == "self":
            self.methods.add(node.name)
        else:
            self.names.add(node.name)
        made: Any = ast.AsyncFunctionDef
        fields = {name: getattr(node, name, None) for name in node._fields}
        waiting: ast.AST = made(**fields)
        return ast.copy_location(waiting, node)

    visit_FunctionDef = _visit_function
    visit_AsyncFunctionDef = _visit_function


def asyncified(original: Any, waiting: dict[str, Any] | None = None) -> Any:
    """
    The class or function with coroutines for what has to wait.

    waiting: coroutine functions in place of the functions and classes of these names.
    """
    lines, first = inspect.getsourcelines(original)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    rewriter = _Rewriter(set(waiting or ()))
    while True:
        rewriter.changed = False
        tree = rewriter.visit(tree)
        if not rewriter.changed:
            break
    # Tracebacks show pymilvus's lines.
    ast.increment_lineno(ast.fix_missing_locations(tree), first - 1)
    module = sys.modules[original.__module__]
    namespace = {**vars(module), **(waiting or {})}
    exec(compile(tree, inspect.getsourcefile(original) or "pymilvus", "exec"), namespace)
    return namespace[original.__name__]


def opening(kind: type) -> Any:
    """A coroutine function that makes an object whose __init__ waits."""

    async def make(*args: Any, **kwargs: Any) -> Any:
        made: Any = object.__new__(kind)
        await made.__init__(*args, **kwargs)  # type: ignore[misc]
        return made

    return make
