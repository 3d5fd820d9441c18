"""What a checked module answers about its expressions, and that each answer is found once."""

from __future__ import annotations

from collections import Counter

import attrs
import pytest

from posterior_lm import load
from posterior_lm.graph import lower
from posterior_lm.graph.nodes import Latent, RowField
from posterior_lm.lang import ast
from posterior_lm.lang.ast import nodes
from posterior_lm.lang.check import types
from posterior_lm.lang.diagnostics import CompileError
from posterior_lm.lang.driver import check, compile_source, load_module
from posterior_lm.lang.signatures import BEFORE
from posterior_lm.lang.source import Source
from posterior_lm.lang.typed import CheckedModule, Dist, Value
from posterior_lm.lang.values import ChoiceSpec
from tests.conftest import ROOT

PROGRAMS = sorted((ROOT / "programs").glob("*.plm"))
EVERYTHING = """lm base = "tiny"
lm other = transformers("gpt2", dtype="bfloat16")
use mine from "package.module:f"
tool calc = calculator(trigger="=")

program p(prompt: text, k: int(0..9), beta: real = -1.5, rows: table(input: text, n: int(0..9))) {
  let two = 1 + 1
  let start = [bos, "so: ", prompt]
  latent z: text(tokens=1..20, stop=".", tools=[calc]) ~ base(start) ^ two
  latent n: int(0..k, lead=" ") ~ choice(other(z) ^ beta)
  latent w: one_of("yes", "no") ~ uniform()
  latent u: text(tokens=1..k + 1) ~ mine(z)
  guide w ~ base(prompt)
  plate r in rows {
    let both = [r.input, z]
    observe r.n ~ poisson(2 * 3)
    observe both ~ base(w)
  }
  temper beta {
    factor if n > 3 then log_prob(z, base()) else -two
    condition not contains(z, "dog") and w != "no"
  }
}
"""


def compiled(text: str = EVERYTHING) -> CheckedModule:
    return compile_source(Source("test.plm", text)).without_errors()


def find(checked: CheckedModule, text: str, nth: int = 0) -> ast.Expr:
    """The expression that is spelled like this."""
    kinds = tuple(types._OF)
    found = [n for n in nodes(checked.module) if isinstance(n, kinds) and n.span.text == text]
    return found[nth]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "kind", "constant", "depends"),
    [
        ("1 + 1", "int", 2, ""),
        ("two", "int", 2, ""),
        ("-1.5", "real", -1.5, ""),
        ("-two", "int", -2, ""),
        ("2 * 3", "int", 6, ""),
        ("1..20", "unknown", (1, 20), ""),
        ("0..k", "unknown", None, "k"),
        ('[bos, "so: ", prompt]', "list", None, "prompt"),
        ("start", "list", None, "prompt"),
        ("r.input", "text", None, "r rows"),
        ("r.n", "int", None, "r rows"),
        ("[r.input, z]", "list", None, "r rows z"),
        ("both", "list", None, "r rows z"),
        ("n > 3", "bool", None, "n"),
        ("log_prob(z, base())", "real", None, "z"),
        ("if n > 3 then log_prob(z, base()) else -two", "real", None, "n z"),
        ('not contains(z, "dog") and w != "no"', "bool", None, "w z"),
    ],
)
def test_expressions(text: str, kind: str, constant: object, depends: str) -> None:
    checked = compiled()
    expr = find(checked, text, nth=-1)
    assert checked.value(expr).kind == kind
    assert checked.constant(expr) == constant
    assert checked.depends_on(expr) == set(depends.split())


def test_a_constant_through_a_let_is_not_written() -> None:
    checked = compiled()
    assert [checked.value(find(checked, text)).written for text in ("1 + 1", "-two")] == [True, False]


def test_distributions_and_who_spells() -> None:
    checked = compiled()
    found = {
        s.name.id: checked.dist(s.dist)
        for s in checked.module.program.body
        if isinstance(s, (ast.Latent, ast.Guide))
    }
    assert [found[name].sort for name in ("z", "n", "u")] == ["lm", "choice", "unknown"]
    assert [found[name].tempered for name in ("z", "n", "u")] == [True, False, False]
    assert checked.spellers == {"z": "base", "n": "other", "w": "base", "u": "mine"}


def test_names_and_types() -> None:
    checked = compiled()
    sorts = {
        n.id: binding.sort
        for n in nodes(checked.module)
        if isinstance(n, ast.Name) and (binding := checked.binding(n)) is not None
    }
    assert sorts == {
        "base": "lm", "other": "lm", "mine": "use", "calc": "tool", "r": "row", "both": "let",
        "prompt": "parameter", "k": "parameter", "beta": "parameter", "rows": "parameter",
        "two": "let", "start": "let", "z": "latent", "n": "latent", "w": "latent", "u": "latent",
    }  # fmt: skip
    z, n, w, u = (checked.type(s.type) for s in checked.module.program.body if isinstance(s, ast.Latent))
    assert z.options == {"tokens": (1, 20), "stop": ".", "tools": None} and not z.is_written
    assert (n.range, n.is_finite, n.finite, n.options) == (None, True, None, {"lead": " "})
    assert (w.choices, w.finite, w.is_written) == (("yes", "no"), ChoiceSpec(("yes", "no")), True)
    assert u.options == {"tokens": None} and not u.is_finite
    assert checked.declared(find(checked, "r.n")).range == (0, 9)  # type: ignore[union-attr]


def test_programs() -> None:
    """As an editor would ask in the packaged programs."""
    rationale = load_module(ROOT / "programs" / "latent_rationale.plm")
    observed = find(rationale, '[" so it is ", label]')
    assert rationale.depends_on(observed) == {"label"} and rationale.value(observed).latents == []
    assert rationale.depends_on(find(rationale, "question", nth=-1)) == {"review"}
    assert rationale.spellers == {"reason": "base"}
    induction = load_module(ROOT / "programs" / "instruction_induction.plm")
    assert induction.depends_on(find(induction, "e.output")) == {"e", "examples"}
    label = load_module(ROOT / "programs" / "direct_label.plm")
    (latent,) = [s for s in label.module.program.body if isinstance(s, ast.Latent)]
    assert label.binding(latent.name).value.choices == (" objective", " subjective")  # type: ignore[union-attr]
    assert label.dist(latent.dist).model == "base" and label.depends_on(latent.dist) == {"demos", "review"}


@pytest.mark.parametrize("text", [EVERYTHING, *(path.read_text() for path in PROGRAMS)])
def test_every_expression_is_looked_at_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over checking and lowering; `choice`, tools, roles and what is called are names, not values."""
    looked: Counter[int] = Counter()
    for kind, finder in types._OF.items():

        def counted(scope: object, expr: ast.Node, finder=finder) -> Value:
            looked[id(expr)] += 1
            return finder(scope, expr)

        monkeypatch.setitem(types._OF, kind, counted)
    distribution = types._distribution

    def counted_too(scope: types.Scope, expr: ast.Expr) -> Dist:
        looked[id(expr)] += 1
        return distribution(scope, expr)

    monkeypatch.setattr(types, "_distribution", counted_too)
    checked = compiled(text)
    # What a running state is in the first row is read for its kind before.
    first = [n.args[1] for n in nodes(checked.module) if isinstance(n, ast.Call) and n.function.id in BEFORE]
    twice = {id(part) for one in first for part in nodes(one)}
    assert {count for one, count in looked.items() if one not in twice} == {1}
    before = dict(looked)
    lower(checked, ROOT / "programs")
    assert looked == before
    makers = [d.tool for d in checked.module.declarations if isinstance(d, ast.ToolDecl)]
    makers += [d.model for d in checked.module.declarations if isinstance(d, ast.LmDecl)]
    makers += [s.method for s in checked.module.program.body if isinstance(s, ast.Infer)]
    makers += [o.value for n in nodes(checked.module) if isinstance(n, ast.TypeExpr) for o in n.options]
    items = [a for n in nodes(checked.module) if isinstance(n, ast.TypeExpr) for a in n.args]
    makers += [n for a in items if isinstance(a, ast.Call) for n in nodes(a)]  # the type of a list's items
    for node in nodes(checked.module):
        if isinstance(node, tuple(types._OF)) and not isinstance(
            node, (ast.Name, ast.Range, ast.Column, ast.Role)
        ):
            assert id(node) in looked or node in makers, node


def test_lowering_reads_what_was_found() -> None:
    checked = compiled()
    spelled = {n.name: n.lm for n in lower(checked).nodes.values() if isinstance(n, Latent)}
    assert spelled == checked.spellers
    other = attrs.evolve(checked, spellers={**checked.spellers, "w": "other"})
    assert {n.lm for n in lower(other).nodes.values() if isinstance(n, Latent) and n.name == "w"} == {"other"}


def test_errors_warnings_and_what_cannot_be_read() -> None:
    wrong = compile_source(Source("t", 'lm base = "tiny"\nprogram p(a: text) { factor b }'), lint=True)
    assert [d.code for d in wrong.errors] == ["PLM201"]
    assert [d.code for d in wrong.warnings] == ["PLM903", "PLM907", "PLM903"]
    with pytest.raises(CompileError, match="PLM201"):
        wrong.without_errors()
    nothing = compile_source(Source("t", "\x00"))
    assert nothing.errors and nothing.module.program.body == ()


def test_statements_that_stand_in_two_plates_mean_two_things() -> None:
    """Python can put the same nodes into two plates, whose rows have one name."""
    part = compiled(
        'lm base = "tiny"\nprogram p(a: table(x: text), b: table(x: text)) { plate r in a { observe r.x ~ base() } }'
    ).module
    (plate,) = part.program.body
    twice = (plate, attrs.evolve(plate, table=ast.Name("b")))
    checked = check(attrs.evolve(part, program=attrs.evolve(part.program, body=twice)))
    assert checked.module.program.body == twice
    rows = [n for n in lower(checked.without_errors()).nodes.values() if isinstance(n, RowField)]
    assert [n.plate for n in rows] == [0, 1]


def test_a_loaded_query_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[ast.Module] = []
    for place in ("lang.driver", "api.query"):
        monkeypatch.setattr(
            f"posterior_lm.{place}.check", lambda module: checks.append(module) or check(module)
        )
    query = load(ROOT / "programs" / "story_infilling.plm")
    for opening in ("One day", "One night"):
        assert query.given(opening=opening, ending="The end.").graph.name == "story_infilling"
    assert len(checks) == 1
    assert query.factor("1").graph.fingerprint != query.fingerprint and len(checks) == 2
