"""Tools: what a declaration needs, and what goes together in the type of a text."""

from __future__ import annotations

from posterior_lm.lang import ast
from posterior_lm.lang.check.scope import Scope
from posterior_lm.lang.signatures import TOOLS, USED_TOOL, Constructor
from posterior_lm.lang.source import Span

_OTHER_LANGUAGES = ("grammar", "json", "canonical")
"""Options of a text that look at all of its tokens as drawn ones."""


def constructor_of(scope: Scope, call: ast.Call) -> Constructor | None:
    """What a tool is made by: a built-in tool, or a function that `use` imports."""
    name = call.function.id
    binding = scope.get(name)
    if binding is not None and binding.sort == "use":
        scope.used.add(name)
        return USED_TOOL
    return TOOLS.get(name)


def needs_trigger(scope: Scope, call: ast.Call, constructor: Constructor) -> None:
    """PLM341 for a tool that nothing calls."""
    wanted = constructor.options["trigger"]
    if wanted.default is None and not any(o.name == "trigger" for o in call.options):
        scope.error("PLM341", f"{call.function.id}(…) has no trigger, so nothing would call it", call.span,
                    "no trigger", help='add the text that it writes after: trigger="="')  # fmt: skip


def tools_of_text(scope: Scope, type_: ast.TypeExpr, place: str) -> None:
    """PLM342, PLM343 and PLM345: tools that do not go with each other or with the other options."""
    given = {option.name: option for option in type_.options}
    option = given.get("tools")
    if option is None:
        return
    if place != "latent":
        scope.error("PLM343", f"the text of a {place} is given, so no tool writes into it", option.span,
                    "not of a latent", help="name the tools in the type of the latent that they write into")  # fmt: skip
        return
    for name in _OTHER_LANGUAGES:
        other = given.get(name)
        if other is not None and scope.written(other.value) is not False:
            scope.error("PLM343", f"{name}= and tools= cannot stand together", option.span,
                        "written by tools", secondary=[(other.span, "read as drawn")],
                        help="pattern=, chars= and stop= go with tools")  # fmt: skip
    triggers = _triggers(scope, option)
    _clashes(scope, triggers)
    stop, chars = (scope.written(given[name].value) if name in given else None for name in ("stop", "chars"))
    for trigger, span in triggers:
        if isinstance(stop, str) and stop and stop in trigger:
            scope.error("PLM345", f"no text goes on after stop={stop!r}, which trigger={trigger!r} holds", span,
                        "never called", secondary=[(given["stop"].span, "ends the text")],
                        help="choose another stop or another trigger")  # fmt: skip
        elif isinstance(chars, str) and (strange := [c for c in trigger if c not in chars]):
            scope.error("PLM345", f"no text holds trigger={trigger!r}, since {strange[0]!r} is not among its chars",
                        span, "never called", secondary=[(given["chars"].span, "the characters")],
                        help="add the trigger's characters to chars=")  # fmt: skip


def _triggers(scope: Scope, option: ast.Option) -> list[tuple[str, Span]]:
    """The triggers of the tools that an option names, as far as they are known."""
    items = option.value.items if isinstance(option.value, ast.ListExpr) else (option.value,)
    found = []
    for item in items:
        declared = scope.tools.get(item.id) if isinstance(item, ast.Name) else None
        if declared is None:
            continue
        constructor = constructor_of(scope, declared.tool)
        given = next((o.value for o in declared.tool.options if o.name == "trigger"), None)
        default = None if constructor is None else constructor.options["trigger"].default
        trigger = default if given is None else scope.written(given)
        if isinstance(trigger, str) and trigger:
            found.append((trigger, item.span))
    return found


def _clashes(scope: Scope, triggers: list[tuple[str, Span]]) -> None:
    for k, (trigger, span) in enumerate(triggers):
        for other, first in triggers[:k]:
            if trigger.endswith(other) or other.endswith(trigger):
                scope.error("PLM342", f"two tools write after {max(trigger, other, key=len)!r}", span,
                            f"writes after {trigger!r}", secondary=[(first, f"writes after {other!r}")],
                            help="give them triggers of which none ends in another")  # fmt: skip
                break
