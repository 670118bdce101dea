"""A model's chat template: conversations to text, by a program that came with the model.

The idea: how a conversation is written stands in the model's files as a Jinja template, a stranger's program. It is
run as it came, with the helpers that transformers gives (`raise_exception`, `strftime_now`, `tojson`, loop controls,
`{% generation %}`), in Jinja's immutable sandbox, and on a budget. The sandbox keeps it from reaching anything; the
budget keeps it from running or growing for ever: every turn of a loop, call, filter and joined text is paid for by its
size, only functions whose work is bounded by what they are given are there at all, and a clock of this thread's own
computing time runs beside. So whatever a template does, it ends, and says why in one sentence.

`strftime_now` always says the same day (`TODAY`): a training run resumed on another day, a vote read again and a figure
measured twice must read the same prompt.

Needs neither torch nor the tokenizer library: the site compiles a template before it takes a model in.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any, Final

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace

from trainer.asked import Message

TODAY: Final = datetime(2024, 7, 26)
"""What `strftime_now` formats: the day that Llama 3's template itself falls back to where there is no clock."""
RENDER_S: Final = 2.0
"""Seconds of computing a rendering may take; a long conversation takes a hundredth of that."""
ALLOWANCE: Final = 2**20
"""Characters, elements and steps a rendering may cost, and `PER_CHARACTER` more for each character it is given."""
PER_CHARACTER: Final = 64
LITERAL_SHARE: Final = 8
"""A turn of a loop costs this part of the characters that stand in it: few of its branches are taken in one turn."""
COMPARED_SHARE: Final = 64
"""Comparing each letter of one text with each of another costs this part of a step for every pair."""
MOST_LOOPS: Final = 20
"""Loops in loops. Python takes no more, and Jinja's work to find that out grows with the cube of them."""
LARGEST_NUMBER: Final = 2**64
LARGEST_INDENT: Final = 64

_FILTERS: Final = """
abs capitalize count d default dictsort e escape first float indent int items join last length list lower map max min
reject rejectattr replace reverse safe select selectattr sort string title tojson trim unique upper wordcount
"""
"""Those whose work is bounded by what they are given. A template that names another one is refused."""
_SHALLOW: Final = """
count d default first float int items last length list map reject rejectattr reverse select selectattr
boolean callable defined even false filter float integer iterable lower mapping none number odd sameas sequence string
test true undefined upper
"""
"""Filters and tests that look at the things in a list one by one, if at all, and into none of them."""
_METHODS: Final = """
capitalize casefold count endswith find format get index isalnum isalpha isdecimal isdigit islower isnumeric isspace
istitle isupper items join keys lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit
rstrip split splitlines startswith strip swapcase title upper values cycle changed
"""
"""What may be called on texts, lists, objects and loops, by the same rule."""
_QUADRATIC: Final = "lstrip rfind rindex rpartition rsplit rstrip strip trim"
"""Those that may compare each letter of a text with each of another: Python searches backwards the plain way."""

Marks = tuple[str, str]
"""What is put before and behind everything inside `{% generation %}`."""


class ChatTemplate:
    """A compiled template; rendering it is safe in any thread."""

    def __init__(self, source: str, *, names: Mapping[str, str]) -> None:
        """`names` are the special tokens it may write ("eos_token"). ValueError for a template that is none."""
        self.source, self._names = source, dict(names)
        try:
            with _spending(ALLOWANCE):
                self._template = _ENVIRONMENT.from_string(source)
        except _Spent as spent:
            raise ValueError("The chat template takes too long to read. Take a model with another one.") from spent
        except Exception as error:  # a generated program that Python refuses may raise anything
            raise ValueError(
                f"The chat template has an error ({_reason(error)}). Correct it, or take a model with another one."
            ) from error

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False, marks: Marks = ("", "")
    ) -> str:
        """The conversation as text. ValueError, with the template's own reason, for one that it refuses."""
        given = [{"role": message["role"], "content": message["content"]} for message in messages]
        size = sum(len(message["content"]) for message in given)
        marked = _marks.set(marks)
        try:
            with _spending(ALLOWANCE + PER_CHARACTER * size):
                return self._template.render(
                    messages=given,
                    tools=None,
                    documents=None,
                    add_generation_prompt=add_generation_prompt,
                    **self._names,
                )
        except (_Spent, RecursionError, MemoryError) as error:
            raise ValueError(
                "The model's chat template does not come to an end: it was stopped. Take a model with another one."
            ) from error
        except Exception as error:  # it is a program: it may raise anything
            raise ValueError(f"The model's chat template does not take this conversation: {_reason(error)}") from error
        finally:
            _marks.reset(marked)


def _reason(error: Exception) -> str:
    """What an error says, on one line of a length that people read."""
    said = " ".join(str(getattr(error, "message", None) or error).split()) or type(error).__name__
    return said if len(said) <= 300 else said[:299] + "…"


# --- The budget --------------------------------------------------------------------------------------


class _Spent(Exception):
    """A rendering's budget is spent. No ValueError: some filters take that for a reason to fall back."""


class _Budget:
    def __init__(self, allowance: int) -> None:
        self.left = allowance
        self.until = time.thread_time() + RENDER_S


_budget: ContextVar[_Budget | None] = ContextVar("template_budget", default=None)
_marks: ContextVar[Marks] = ContextVar("template_marks", default=("", ""))


@contextmanager
def _spending(allowance: int) -> Iterator[None]:
    token = _budget.set(_Budget(allowance))
    try:
        yield
    finally:
        _budget.reset(token)


def _pay(cost: int) -> None:
    budget = _budget.get()
    if budget is None:
        return
    budget.left -= cost
    if budget.left < 0 or time.thread_time() > budget.until:
        raise _Spent


def _pay_for(value: Any) -> Any:
    """The value, once what it takes to go through all of it is paid: a list of lists of lists may be very much."""
    if isinstance(value, str):
        _pay(1 + len(value))
    elif isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        raise _Spent
    elif isinstance(value, Mapping):
        _pay(1 + len(value))
        for one in value.values():
            _pay_for(one)
    elif isinstance(value, list | tuple):
        _pay(1 + len(value))
        for one in value:
            _pay_for(one)
    else:
        _pay(1)
    return value


def _pay_for_items(value: Any) -> Any:
    """The value, once a step for each of its items is paid; one that is no list of its own becomes one."""
    if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        raise _Spent
    if isinstance(value, Iterator | KeysView | ValuesView | ItemsView):
        taken = []
        for one in value:
            _pay(1)
            taken.append(one)
        return taken
    _pay(1 + (len(value) if hasattr(value, "__len__") else 0))
    return value


def _pay_toll(cost: int) -> None:
    _pay(cost)


def _join_all(parts: Sequence[Any]) -> str:
    """What Jinja's `~` makes of its parts, which have been paid for."""
    return "".join(map(str, parts))


def _check_loops(node: nodes.Node, outside: int = 0) -> None:
    """TemplateError for loops in more loops than Python takes."""
    outside += isinstance(node, nodes.For)
    if outside > MOST_LOOPS:
        raise TemplateError(f"it has more than {MOST_LOOPS} loops, one in the other")
    for one in node.iter_child_nodes():
        _check_loops(one, outside)


def _put_prices(node: nodes.Node) -> Any:
    """The node, with a price on what could grow or go on and is neither call nor filter: loops, `~`, comparisons."""
    for name, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            setattr(node, name, _put_prices(value))
        elif isinstance(value, list):
            setattr(node, name, [_put_prices(one) if isinstance(one, nodes.Node) else one for one in value])
    if isinstance(node, nodes.For):
        node.iter = _filtered(node.iter, "_items")
    if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
        cost = 1 + sum(len(data.data) for data in node.find_all(nodes.TemplateData)) // LITERAL_SHARE
        toll = _filtered(nodes.Const(cost), "_toll", line=node.lineno)
        node.body = [nodes.ExprStmt(toll).set_lineno(node.lineno), *node.body]
    if isinstance(node, nodes.Concat):
        parts = nodes.Tuple(node.nodes, "load").set_lineno(node.lineno)
        return _filtered(_filtered(parts, "_paid"), "_joined")
    if isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return _filtered(node, "_paid")
    if isinstance(node, nodes.Compare):
        node.expr = _filtered(node.expr, "_paid")
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, "_paid")
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _filtered(node, "_items")
    return node


def _filtered(value: Any, name: str, *, line: int | None = None) -> nodes.Filter:
    priced = nodes.Filter(value, name, [], [], None, None)
    priced.set_lineno(line or value.lineno)
    return priced


def _priced(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A filter or test that pays for what it is given and what it makes of it."""

    @wraps(function)  # with the mark that says whether the environment or the context comes first
    def paying(*given: Any, **named: Any) -> Any:
        given = (*given[:skipped], *map(_pay_for_items, given[skipped:]))
        if is_deep:
            for one in (*given[skipped:], *named.values()):
                _pay_for(one)
        _pay_ahead(name, given[skipped:], named)
        return _pay_for_items(function(*given, **named))

    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0
    is_deep = name not in _SHALLOW.split()
    return paying


def _pay_ahead(name: str, given: Sequence[Any], named: Mapping[str, Any]) -> None:
    """For what makes more of its arguments than they are together, before it does."""
    every = (*given, *named.values())
    texts = [one for one in every if isinstance(one, str)]
    if name == "replace":
        first, *others = map(_size, every)
        _pay((1 + first) * max(others, default=0))
    elif name == "join":
        between = max((_size(one) for one in every if one is not every[0] or isinstance(one, str)), default=0)
        _pay(sum(len(one) for one in given if hasattr(one, "__len__")) * (1 + between))
    elif name in _QUADRATIC.split():
        first, *others = map(_size, every)
        _pay(first * max(others, default=0) // COMPARED_SHARE)
    elif name in ("indent", "tojson"):
        numbers = [one for one in every if isinstance(one, int)]
        widest = max([LARGEST_INDENT if name == "tojson" else 4, *numbers, *map(len, texts[1:])])
        if name == "tojson" and widest > LARGEST_INDENT:
            raise _Spent
        _pay(widest * (1 + texts[0].count("\n")) if name == "indent" and texts else 0)


# --- The environment ---------------------------------------------------------------------------------


@pass_context  # so that nothing is worked out when the template is compiled, outside of any rendering's budget
def _finalize(context: Context, value: Any) -> Any:
    return _pay_for(value)


def _raise_exception(message: str) -> str:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return TODAY.strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: letters stay letters, and nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _dict(*given: Any, **named: Any) -> dict[Any, Any]:
    return dict(*given, **named)


class _Names(Namespace):
    """Jinja's namespace with plain names only; shown, it says nothing of what it holds."""

    def __init__(*given: Any, **named: Any) -> None:
        self, *rest = given
        values = dict(*rest, **named)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "namespace"


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError("a namespace has no names that begin with an underscore")


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: what the assistant says, between marks where they are asked for."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        before, behind = _marks.get()
        return f"{before}{caller()}{behind}"


_FUNCTIONS: Final[tuple[Any, ...]] = (_raise_exception, _strftime_now, safe_range, _dict, _Names)
_WIDTH = re.compile(r"%[^a-zA-Z%]*(?:\d{3}|\*)")


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a price on everything."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,
            finalize=_finalize,
            cache_size=0,
        )
        known: dict[str, Callable[..., Any]] = {**self.filters, "tojson": _tojson}
        self.filters = {name: _priced(known[name], name) for name in _FILTERS.split()}
        self.filters |= {"_paid": _pay_for, "_items": _pay_for_items, "_toll": _pay_toll, "_joined": _join_all}
        tests: dict[str, Any] = dict(self.tests)
        self.tests = {name: _priced(test, name) for name, test in tests.items()}
        self.globals = {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "range": safe_range,
            "dict": _dict,
            "namespace": _Names,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _check_loops(template)
        _put_prices(template)
        return template

    def call(__self, __context: Context, __function: Any, *given: Any, **named: Any) -> Any:
        """Any call of a template's: of the few functions and methods there are, and paid for."""
        _check_call(__function, (*given, *named.values()))
        _pay(1 + len(given) + len(named))
        return _pay_for_items(super().call(__context, __function, *given, **named))

    def call_binop(self, context: Context, operator_: str, left: Any, right: Any) -> Any:
        """Arithmetic, paid for before it grows anything."""
        sizes = [len(one) for one in (left, right) if hasattr(one, "__len__")]
        if operator_ == "**" and isinstance(right, int | float) and abs(right) > 64:
            raise _Spent
        if operator_ == "*" and sizes:
            factor = left if isinstance(left, int) else right
            _pay(sizes[0] * max(1, factor if isinstance(factor, int) else 1))
        if operator_ == "%" and isinstance(left, str):
            if _WIDTH.search(left):
                raise SecurityError("a text with a width of its own")
            _pay_for(right)
            _pay(left.count("%") * (_size(right) + 1))
        _pay(1 + sum(sizes))
        value = self.binop_table[operator_](left, right)
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise _Spent
        return value


def _check_call(function: Any, given: Sequence[Any]) -> None:
    """SecurityError for anything that a template has no business to call, or that could grow without bound."""
    if function in _FUNCTIONS or isinstance(function, Macro | LoopContext):
        return
    plain = getattr(function, "__wrapped__", function)  # `format` comes wrapped, for the sandbox's sake
    owner, name = getattr(plain, "__self__", None), getattr(plain, "__name__", "")
    if isinstance(owner, Extension):
        return
    if name not in _METHODS.split() or not isinstance(owner, str | list | tuple | range | Mapping | LoopContext):
        raise SecurityError(f"{name or type(function).__name__} cannot be called here")
    for one in (owner, *given) if isinstance(owner, str) else given:
        _pay_for(one)
    if isinstance(owner, str):
        _pay_ahead(name, [owner, *given], {})
        if name == "format":
            if ":" in owner:
                raise SecurityError("a text with a format of its own")
            _pay(owner.count("{") * (1 + sum(map(_size, given))))


def _size(value: Any) -> int:
    """Characters of a value as it is shown, about."""
    if isinstance(value, Mapping):
        return 4 + sum(8 + _size(name) + _size(one) for name, one in value.items())
    return 4 + sum(4 + _size(one) for one in value) if isinstance(value, list | tuple) else len(str(value))


_ENVIRONMENT: Final = _Environment()
