"""Compiles JSON schemas to grammars. Knows JSON Schema, not llama.cpp.

The grammar allows only texts that are valid, though not all of them: properties come in the order they are declared,
undeclared ones are left out where any are declared, and white space is what people write. A keyword that changes the
meaning and is not supported is refused; annotations (title, description, format other than dates and uuid) are not.

llama.cpp's own converters are not used. In the wheel from PyPI completions hand the schema to llguidance: one it cannot
compile leaves the answer unbound without any error, and one that asks for 10^9 items took all memory. Chats ignore
`not`, `if` and `uniqueItems` silently and allow a Markdown fence around the JSON. And only a grammar of our own can be
advanced over the text already delivered, so that a cut answer continues.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from inference_engine.domain.errors import InvalidRequest
from inference_engine.infra.text.grammar import (
    Chars,
    Choice,
    Language,
    Node,
    Repeat,
    Rule,
    Sequence,
    Text,
    chars,
    left_recursive,
    optional,
)
from inference_engine.infra.text.json_strings import in_json, json_text
from inference_engine.infra.text.number_ranges import (
    FRACTION,
    Bound,
    decimal_in_range,
    digits_between,
    whole_in_range,
)
from inference_engine.infra.text.regex import RegexError, compile_search

MAX_BYTES = 65536
MAX_DEPTH = 64  # steps of a JSON pointer
MAX_NODES = 5000
MAX_REPEAT = 2000  # llama.cpp refuses more
MAX_REPEATS = 20_000
MAX_PLACES = 15  # digits after a bound's point

_UNSUPPORTED = (
    "not", "if", "then", "else", "patternProperties", "propertyNames", "minProperties", "maxProperties",
    "dependentRequired", "dependentSchemas", "dependencies", "contains", "minContains", "maxContains", "uniqueItems",
    "unevaluatedItems", "unevaluatedProperties", "multipleOf", "$dynamicRef", "$recursiveRef",
)  # fmt: skip
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_HINTS = {
    "properties": "object", "required": "object", "additionalProperties": "object", "items": "array",
    "prefixItems": "array", "minItems": "array", "maxItems": "array", "minLength": "string", "maxLength": "string",
    "pattern": "string",
    "minimum": "number", "maximum": "number", "exclusiveMinimum": "number", "exclusiveMaximum": "number",
}  # fmt: skip
_ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "example", "$schema", "$id", "$comment", "deprecated", "readOnly",
     "writeOnly", "$defs", "definitions", "discriminator")
)  # fmt: skip

_DIGIT = chars("09")
_SPACE = Rule("space")
_VALUE = Rule("value")
_STRING = Rule("string")
_HEX = chars("09afAF")

_COMMON: dict[str, Node] = {
    "space": Choice(
        (Text(""), Text(" "), Sequence((Repeat(Chars(((10, 10),)), 1, 2), Repeat(Chars(((32, 32), (9, 9))), 0, 20))))
    ),
    "char": Choice(
        (
            Chars(((0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0, 0x1F)), negated=True),
            Sequence(
                (
                    Text("\\"),
                    Choice((Chars(tuple((ord(c), ord(c)) for c in '"\\/bfnrt')), Sequence((Text("u"), Rule("hex4"))))),
                )
            ),
        )
    ),
    "hex4": Repeat(_HEX, 4, 4),
    "string": Sequence((Text('"'), Repeat(Rule("char"), 0, None), Text('"'))),
    "natural": Choice((Text("0"), Sequence((chars("19"), Repeat(_DIGIT, 0, 15))))),
    "integer": Sequence((optional(Text("-")), Rule("natural"))),
    "fraction": FRACTION,
    "number": Sequence(
        (
            Rule("integer"),
            optional(Rule("fraction")),
            optional(Sequence((chars("eeEE"), optional(chars("++--")), Repeat(_DIGIT, 1, 2)))),
        )
    ),
    "boolean": Choice((Text("true"), Text("false"))),
    "null": Text("null"),
    "value": Choice(
        (Rule("object"), Rule("array"), _STRING, Rule("number"), Rule("boolean"), Rule("null")),
    ),
    "member": Sequence((_STRING, Text(":"), _SPACE, _VALUE)),
}


def _listed(open_: str, item: Node, close: str, low: int = 0, high: int | None = None) -> Node:
    """`item`s between brackets, separated by commas, `low` to `high` of them."""
    if high == 0:
        return Sequence((Text(open_), _SPACE, Text(close)))
    more = Repeat(Sequence((Text(","), _SPACE, item)), max(0, low - 1), None if high is None else high - 1)
    filled: Node = Sequence((item, more, _SPACE))
    return Sequence((Text(open_), _SPACE, filled if low else optional(filled), Text(close)))


_COMMON["object"] = _listed("{", Rule("member"), "}")
_COMMON["array"] = _listed("[", _VALUE, "]")


def compile_schema(schema: dict[str, Any], prefix: str = "") -> Language:
    """The JSON texts that `schema` allows. An empty schema means any object.

    The schema's own rules have names that begin with `prefix`, so that several schemas fit into one grammar.

    Raises:
        InvalidRequest: the schema is malformed, contradictory, too large, or uses what is not supported; the message
            names the place in the schema.
    """
    try:
        size = len(json.dumps(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise _refused("#", f"it is not JSON: {error}") from None
    if size > MAX_BYTES:
        raise _refused("#", f"it has {size} bytes, at most {MAX_BYTES} are compiled")
    compiler = _Compiler(schema, prefix)
    root = compiler.node(schema or {"type": "object"}, "#")
    looping = left_recursive(compiler.rules)
    if looping is not None:
        raise _refused("#", "a $ref refers to itself with nothing in between")
    return Language(root, compiler.rules)


def _refused(place: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"the JSON schema cannot be used: at {place}, {why}", param="response_format")


class _Compiler:
    """`place` is a JSON pointer, for messages."""

    def __init__(self, root: dict[str, Any], prefix: str) -> None:
        self._prefix = prefix
        self.rules: dict[str, Node] = dict(_COMMON)
        self._root = root
        self._references: dict[str, Rule] = {}
        self._nodes = 0
        self._repeats = 0

    def node(self, schema: Any, place: str) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES or place.count("/") > MAX_DEPTH:
            raise _refused(place, f"it is larger than {MAX_NODES} parts or deeper than {MAX_DEPTH} steps")
        if schema is True or schema == {}:
            return _VALUE
        if not isinstance(schema, dict):
            raise _refused(place, f"{json.dumps(schema)[:80]} is not a schema that anything can match")
        for keyword in _UNSUPPORTED:
            if keyword in schema and not (keyword == "uniqueItems" and schema[keyword] is False):
                raise _refused(place, f"the keyword {keyword!r} is not supported: remove it")
        if "$ref" in schema:
            return self._reference(schema, place)
        if "allOf" in schema:
            return self.node(self._all_of(schema, place), place)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                options = self._list(schema, keyword, place)
                rest = {key: value for key, value in schema.items() if key != keyword}
                merged = [self._merge(rest, option, f"{place}/{keyword}/{i}") for i, option in enumerate(options)]
                return self._choice([self.node(m, f"{place}/{keyword}/{i}") for i, m in enumerate(merged)])
        return self._plain(schema, place)

    def _plain(self, schema: dict[str, Any], place: str) -> Node:
        types = schema.get("type")
        if "const" in schema or "enum" in schema:
            return self._fixed(schema, types, place)
        if types is None:
            types = next((kind for hint, kind in _HINTS.items() if hint in schema), None)
            if types is None:
                return _VALUE
        names = types if isinstance(types, list) else [types]
        if not names or any(name not in _TYPES for name in names):
            raise _refused(place, f"type {json.dumps(types)[:80]} must be of {', '.join(_TYPES)}")
        return self._choice([self._typed(name, schema, place) for name in names])

    def _fixed(self, schema: dict[str, Any], types: Any, place: str) -> Node:
        """The values that `enum` and `const` list, and `type` allows."""
        values = self._list(schema, "enum", place) if "enum" in schema else [schema["const"]]
        if "const" in schema:
            values = [value for value in values if json_text(value) == json_text(schema["const"])]
        fitting = [value for value in values if types is None or _is_one_of(value, types)]
        if not fitting:
            raise _refused(place, f"none of its values is allowed: type {json.dumps(types)[:80]} contradicts them")
        return self._choice([Text(json_text(value)) for value in fitting])

    def _typed(self, kind: str, schema: dict[str, Any], place: str) -> Node:
        if kind == "object":
            return self._object(schema, place)
        if kind == "array":
            return self._array(schema, place)
        if kind == "string":
            return self._string(schema, place)
        if kind in ("integer", "number"):
            return self._number(kind, schema, place)
        return Rule(kind)

    def _object(self, schema: dict[str, Any], place: str) -> Node:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise _refused(place, "properties must be an object and required a list")
        unknown = [name for name in required if name not in properties]
        extra = schema.get("additionalProperties", not properties)
        if unknown:
            raise _refused(place, f"required names {unknown[0]!r}, which is not among the properties")
        if not properties:
            if extra is False:
                return _listed("{", Text(""), "}", high=0)
            value = self.node(extra, f"{place}/additionalProperties")
            return _listed("{", self._rule(Sequence((_STRING, Text(":"), _SPACE, value))), "}")
        members: list[tuple[Rule, bool]] = []
        for name, sub in properties.items():
            value = self.node(sub, f"{place}/properties/{name}")
            members.append((self._rule(Sequence((Text(f"{json_text(name)}:"), _SPACE, value))), name in required))
        return Sequence((Text("{"), _SPACE, self._members(members), Text("}")))

    def _members(self, members: list[tuple[Rule, bool]]) -> Node:
        """Members in order, optional ones may be missing. Two chains of rules: before and after the first one."""
        first: Node = Text("")
        after: Node = _SPACE
        for member, needed in reversed(members):
            later = self._rule(after)
            here = Sequence((member, later))
            first = here if needed else Choice((here, self._rule(first)))
            following = Sequence((Text(","), _SPACE, member, later))
            after = following if needed else Choice((following, later))
        return first

    def _array(self, schema: dict[str, Any], place: str) -> Node:
        fixed = schema.get("prefixItems", [])
        if not isinstance(fixed, list):
            raise _refused(place, "prefixItems must be a list")
        low, high = self._bounds(schema, "minItems", "maxItems", place)
        items = schema.get("items", True)
        if not fixed:
            if items is False:
                high = 0
            if high == 0:
                return _listed("[", Text(""), "]", high=0)
            return _listed("[", self._rule(self.node(items, f"{place}/items")), "]", low, high)
        nodes = [self.node(sub, f"{place}/prefixItems/{i}") for i, sub in enumerate(fixed)]
        if low > len(nodes) or (high is not None and high < len(nodes)):
            raise _refused(place, "minItems and maxItems must allow exactly the prefixItems")
        joined: list[Node] = []
        for node in nodes:
            joined += [node, Text(","), _SPACE]
        return Sequence((Text("["), _SPACE, *joined[:-2], _SPACE, Text("]")))

    def _string(self, schema: dict[str, Any], place: str) -> Node:
        low, high = self._bounds(schema, "minLength", "maxLength", place)
        if "pattern" in schema:
            return self._pattern(schema, place)
        shape = _FORMATS.get(schema.get("format", "")) if isinstance(schema.get("format", ""), str) else None
        if shape is not None:
            return Sequence((Text('"'), shape, Text('"')))
        if not low and high is None:
            return _STRING
        return Sequence((Text('"'), Repeat(Rule("char"), low, high), Text('"')))

    def _pattern(self, schema: dict[str, Any], place: str) -> Node:
        pattern = schema["pattern"]
        if not isinstance(pattern, str):
            raise _refused(place, "pattern must be a string")
        for other in ("minLength", "maxLength"):
            if other in schema:
                raise _refused(place, f"{other} beside pattern is not supported: write the length into the pattern")
        if schema.get("format") in _FORMATS:
            raise _refused(place, "format beside pattern is not supported: remove one of them")
        try:
            return self._rule(Sequence((Text('"'), in_json(compile_search(pattern)), Text('"'))))
        except RegexError as error:
            raise _refused(place, f"the pattern {pattern[:80]!r} cannot be used: {error}") from None

    def _bounds(self, schema: dict[str, Any], least: str, most: str, place: str) -> tuple[int, int | None]:
        low, high = schema.get(least, 0), schema.get(most)
        for name, value in ((least, low), (most, high)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise _refused(place, f"{name} must be a whole number of at least 0")
            if value is not None and value > MAX_REPEAT:
                raise _refused(place, f"{name} is {value}, at most {MAX_REPEAT} can be enforced")
        self._repeats += max(low, high or 0)
        if self._repeats > MAX_REPEATS:
            raise _refused(place, f"its lengths and counts add up to more than {MAX_REPEATS}")
        if high is not None and low > high:
            raise _refused(place, f"{least} {low} is more than {most} {high}")
        return low, high

    def _number(self, kind: str, schema: dict[str, Any], place: str) -> Node:
        low = self._bound(schema, "minimum", "exclusiveMinimum", place)
        high = self._bound(schema, "maximum", "exclusiveMaximum", place)
        if low is None and high is None:
            return Rule(kind)
        node = _whole_numbers(low, high) if kind == "integer" else decimal_in_range(low, high)
        if node is None:
            raise _refused(place, f"no {kind} lies between its bounds")
        return node

    def _bound(self, schema: dict[str, Any], closed: str, open_: str, place: str) -> Bound | None:
        """The narrower of two bounds on the same side."""
        found: list[Bound] = []
        for name in (closed, open_):
            value = schema.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _refused(place, f"{name} must be a number")
            exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
            if not exact.is_finite() or abs(exact) > 10**18:
                raise _refused(place, f"{name} is larger than 10^18")
            bound = Bound(exact, name == open_)
            if len(bound.digits[1]) > MAX_PLACES:
                raise _refused(place, f"{name} has more than {MAX_PLACES} digits after the point")
            found.append(bound)
        if not found:
            return None
        narrower = max if closed == "minimum" else min
        value = narrower(bound.value for bound in found)
        return Bound(value, any(bound.open for bound in found if bound.value == value))

    def _reference(self, schema: dict[str, Any], place: str) -> Node:
        pointer = schema["$ref"]
        beside = [key for key in schema if key != "$ref" and key not in _ANNOTATIONS]
        if beside:
            raise _refused(place, f"{beside[0]!r} beside $ref is not supported: move it into the schema referred to")
        target = self._resolve(pointer, place)
        if pointer not in self._references:
            rule = self._references[pointer] = Rule(f"{self._prefix}ref{len(self._references)}")
            self.rules[rule.name] = rule  # stands for itself until it is known
            self.rules[rule.name] = self.node(target, pointer)
        return self._references[pointer]

    def _resolve(self, pointer: Any, place: str) -> Any:
        if not isinstance(pointer, str) or not pointer.startswith("#"):
            raise _refused(place, f"$ref {pointer!r} must point into this schema, as in '#/$defs/NAME'")
        target: Any = self._root
        for part in pointer[1:].split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and key.isdigit() and int(key) < len(target):
                target = target[int(key)]
            elif isinstance(target, dict) and key in target:
                target = target[key]
            else:
                raise _refused(place, f"$ref {pointer!r} points to nothing")
        return target

    def _all_of(self, schema: dict[str, Any], place: str) -> dict[str, Any]:
        merged: Any = {key: value for key, value in schema.items() if key != "allOf"}
        for index, part in enumerate(self._list(schema, "allOf", place)):
            merged = self._merge(merged, part, f"{place}/allOf/{index}")
        if not isinstance(merged, dict):
            raise _refused(place, "allOf must combine schemas that are objects")
        return merged

    def _merge(self, base: dict[str, Any], part: Any, place: str) -> Any:
        """Both schemas at once, for what is commonly combined: properties, and keywords that do not meet."""
        meaning = {key: value for key, value in base.items() if key not in _ANNOTATIONS}
        if not meaning:
            return part
        for _ in range(MAX_DEPTH):
            if not (isinstance(part, dict) and "$ref" in part):
                break
            part = self._resolve(part["$ref"], place)
        if not isinstance(part, dict):
            raise _refused(place, "only schemas that are objects can be combined")
        merged = dict(meaning)
        for key, value in part.items():
            if key in _ANNOTATIONS or key not in merged or merged[key] == value:
                merged[key] = value
            elif key == "properties" and isinstance(value, dict) and isinstance(merged[key], dict):
                both = [name for name in value if name in merged[key] and merged[key][name] != value[name]]
                if both:
                    raise _refused(place, f"property {both[0]!r} is declared twice, differently")
                merged[key] = merged[key] | value
            elif key == "required" and isinstance(value, list) and isinstance(merged[key], list):
                merged[key] = [*merged[key], *(name for name in value if name not in merged[key])]
            else:
                raise _refused(place, f"{key} contradicts the schema it is combined with")
        return merged

    def _list(self, schema: dict[str, Any], keyword: str, place: str) -> list[Any]:
        value = schema[keyword]
        if not isinstance(value, list) or not value:
            raise _refused(place, f"{keyword} must be a list that is not empty")
        return value

    def _choice(self, options: list[Node]) -> Node:
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _rule(self, node: Node) -> Rule:
        """`node` under a name, so that using it twice does not write it twice."""
        if isinstance(node, Rule):
            return node
        rule = Rule(f"{self._prefix}rule{len(self.rules)}")
        self.rules[rule.name] = node
        return rule


def _whole_numbers(low: Bound | None, high: Bound | None) -> Node | None:
    least = None if low is None else math.floor(low.value) + 1 if low.open else math.ceil(low.value)
    most = None if high is None else math.ceil(high.value) - 1 if high.open else math.floor(high.value)
    return None if least is not None and most is not None and least > most else whole_in_range(least, most)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: not isinstance(value, bool) and isinstance(value, int | float) and value % 1 == 0,
    "number": lambda value: not isinstance(value, bool) and isinstance(value, int | float),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def _is_one_of(value: Any, types: Any) -> bool:
    names = types if isinstance(types, list) else [types]
    return any(_KINDS[name](value) for name in names if isinstance(name, str) and name in _KINDS)


def _two(low: int, high: int) -> Node:
    return digits_between(f"{low:02}", f"{high:02}")


def _hex(count: int) -> Node:
    return Repeat(_HEX, count, count)


_DATE = Sequence(
    (Repeat(_DIGIT, 4, 4), Text("-"), _two(1, 12), Text("-"), _two(1, 31)),
)
_TIME = Sequence(
    (
        _two(0, 23),
        Text(":"),
        _two(0, 59),
        Text(":"),
        _two(0, 59),
        optional(Sequence((Text("."), Repeat(_DIGIT, 1, 6)))),
        Choice((Text("Z"), Sequence((chars("++--"), _two(0, 23), Text(":"), _two(0, 59))))),
    )
)
_FORMATS: dict[str, Node] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": Sequence((_DATE, Text("T"), _TIME)),
    "uuid": Sequence((_hex(8), Text("-"), _hex(4), Text("-"), _hex(4), Text("-"), _hex(4), Text("-"), _hex(12))),
}
