"""JSON schemas before they are handed over: which keywords are understood, everywhere in a schema.

llguidance refuses the keywords of JSON Schema that it cannot hold to, and ignores those that it does not know. A
misspelt limit would be no limit, so here every word that is neither a keyword, nor said to be a remark, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from posterior_lm.lang.diagnostics import nearest, shortened

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose values hold a schema under each of their names."""
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_ONES = ("additionalProperties", "additionalItems", "items", "contains", "not", "if", "then", "else",
         "propertyNames", "unevaluatedItems", "unevaluatedProperties")  # fmt: skip
_PLAIN = ("type", "enum", "const", "required", "format", "pattern", "minLength", "maxLength", "minimum", "maximum",
          "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "uniqueItems",
          "minProperties", "maxProperties", "minContains", "maxContains", "dependentRequired", "dependencies",
          "$ref", "$dynamicRef", "$recursiveRef", "x-guidance")  # fmt: skip
_REMARKS = ("title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly",
            "$schema", "$id", "id", "$comment", "$anchor", "$dynamicAnchor", "$vocabulary",
            "readonly", "links", "self")  # fmt: skip
"""Words that say nothing of values: of JSON Schema, its hyper-schemas, and self-describing schemas."""
KEYWORDS = (*_MAPS, *_LISTS, *_ONES, *_PLAIN)

_FORMER = {
    "divisibleBy": "it is called multipleOf now",
    "disallow": "it is called not now, which is not supported either: list what is allowed under anyOf",
    "extends": "it is called allOf now",
    "contentEncoding": "say it as a `pattern`",
    "contentMediaType": "say it as a `pattern`",
    "contentSchema": "say it as a `pattern`",
    "nullable": 'list null among the types, such as "type": ["integer", "null"]',
}
_OPTIONS = ("whitespace_flexible", "whitespace_pattern", "item_separator", "key_separator")
"""What `x-guidance` may say: how the text is laid out. The others make keywords mean less than they say."""


def refused(schema: object) -> tuple[str, str] | None:
    """What is wrong with a keyword somewhere in a schema, and what to do about it."""
    return next(_wrong(schema, "#"), None)


def understood(schema: Any) -> Any:
    """The schema without what says nothing, but which llguidance refuses: `uniqueItems: false`."""
    if isinstance(schema, list):
        return [understood(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {k: v for k, v in schema.items() if not (k == "uniqueItems" and v is False)}
    return {
        key: {name: understood(one) for name, one in value.items()}
        if key in _MAPS and isinstance(value, dict)
        else understood(value)
        if key in _LISTS or key in _ONES
        else value
        for key, value in kept.items()
    }


def _wrong(schema: object, place: str) -> Iterator[tuple[str, str]]:
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key in _FORMER:
            yield f"the keyword {key} at {place} is not of the JSON Schema that is read", _FORMER[key]
        elif key not in KEYWORDS and key not in _REMARKS and not key.startswith(("x-", "_")):
            near = next((k for k in KEYWORDS if k.lower() == key.lower()), None) or nearest(key, KEYWORDS)
            if key.startswith("$") and not near:
                continue  # what tools write into schemas, such as $async
            shown = json.dumps(shortened(key, 40), ensure_ascii=False)
            help = "take it out, or begin its name with x- where it is a remark"
            yield (
                f"{shown} at {place} is no keyword of JSON Schema",
                f"did you mean `{near}`?" if near else help,
            )
        inside = f"{place}/{key}"
        if key == "x-guidance":
            yield from _options(value, inside)
        elif (
            key == "format" and isinstance(types := schema.get("type"), str | list) and "string" not in types
        ):
            yield f"the format at {place} is one of texts, and its type has none", "take the format out"
        elif key in _MAPS and isinstance(value, dict):
            for name, one in value.items():
                yield from _wrong(one, f"{inside}/{shortened(name, 40)}")
        elif key in _LISTS or key in _ONES:
            for k, one in enumerate(value) if isinstance(value, list) else ():
                yield from _wrong(one, f"{inside}/{k}")
            yield from _wrong(value, inside)


def _options(value: object, place: str) -> Iterator[tuple[str, str]]:
    for name, said in value.items() if isinstance(value, dict) else ():
        if name in _OPTIONS or said is False:
            continue
        if name == "coerce_one_of":
            yield (
                f"{name} at {place} would let oneOf mean anyOf",
                "write anyOf itself, and leave the option out",
            )
        else:
            yield (
                f"{shortened(name, 40)} at {place} is no option that is supported",
                f"it has {', '.join(_OPTIONS)}",
            )
