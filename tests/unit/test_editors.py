"""What an editor is told of a program: names, hover, completion, edits that mend, colours; and of texts half typed."""

from __future__ import annotations

import json
import random
import re
import sys
import time
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from pygments.token import Error

from posterior_lm.editors.completion import complete
from posterior_lm.editors.document import Document
from posterior_lm.editors.hover import hover
from posterior_lm.editors.mends import Edits, mends
from posterior_lm.editors.pygments_lexer import PlmLexer
from posterior_lm.editors.rewards import _first
from posterior_lm.lang import ast
from posterior_lm.lang.codes import CODES
from posterior_lm.lang.colours import pieces
from posterior_lm.lang.diagnostics import PlmError
from posterior_lm.lang.lexer import KEYWORDS
from posterior_lm.lang.parser import parse
from posterior_lm.lang.signatures import DISTRIBUTIONS, FUNCTIONS, LMS, ROLES, TOOLS
from posterior_lm.lang.source import Source
from posterior_lm.lang.typed import Binding
from posterior_lm.lang.value_types import VALUE_TYPES
from tests.conftest import ROOT

PROGRAMS = sorted([*(ROOT / "programs").glob("*.plm"), *(ROOT / "posteriors").rglob("*.plm")])
STORY = (ROOT / "programs" / "story_infilling.plm").read_text(encoding="utf-8")
PLATE = """lm base = "tiny"

program p(rows: table(input: text, label: one_of("yes", "no")), rate: real = 0.5) {
  let limit = 3
  latent rule: text(tokens=1..9, stop=".") ~ base("Rule:")
  condition words(rule) <= limit
  temper rate {
    plate r in rows {
      observe r.label ~ base(r.input, rule)
    }
  }
  infer smc(particles=8)
}
"""


def at(text: str, words: str) -> int:
    """The offset of the `|` in some words of a text."""
    return text.index(words.replace("|", "")) + words.index("|")


def told(text: str, words: str) -> str:
    found = hover(Document("p.plm", text), at(text, words))
    assert found is not None
    return found[1]


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_every_name_of_every_program_is_known(path: Path) -> None:
    document = Document(path.name, path.read_text(encoding="utf-8"))
    known = {(span.start, span.end) for span, _ in document.names}
    called = {id(n.function) for n in document.nodes if isinstance(n, ast.Call)}
    program = document.checked.module.program.name
    for node in document.nodes:
        if isinstance(node, ast.Name) and id(node) not in called and node is not program:
            assert (node.span.start, node.span.end) in known, node
    assert all(span.text == (n.name if isinstance(n, Binding) else n.name.id) for span, n in document.names)


def test_a_renamed_program_is_the_same_with_another_name() -> None:
    document = Document("p.plm", PLATE)
    for words, old, count in (("|rule:", "rule", 3), ("r.inp|ut", "input", 2), ("in rows|", "rows", 2)):
        spans = document.rename(at(PLATE, words), "other")
        assert [s.text for s in spans] == [old] * count
        new = edited(PLATE, [(span, "other") for span in spans])
        assert Document("p.plm", new).checked.diagnostics == ()


@pytest.mark.parametrize("new", ["words", "latent", "base", "rows", "input", "two words", "9", ""])
def test_names_that_a_name_cannot_become(new: str) -> None:
    with pytest.raises(PlmError, match=r"PLM20[23]"):
        Document("p.plm", PLATE).rename(at(PLATE, "|rule:"), new)


def test_what_has_no_name_is_not_renamed() -> None:
    for text, words in ((PLATE, "condit|ion"), (PLATE + "}", "|rule:")):
        with pytest.raises(PlmError, match="PLM201"):
            Document("p.plm", text).rename(at(text, words), "other")


# ---------------------------------------------------------------- what is told of a place


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("|rule:", ["latent rule: text(", "a latent: text, number 1", "tokens of `base`", "log-probability of `rule`"]),
        ("words(ru|le)", ["a latent: text"]),
        ("<= lim|it", ["let limit = 3", "always `3`"]),
        ("|words(", ["words(text) → int", "runs without white space"]),
        ("|rate {", ["rate: real = 0.5", "a parameter: a real"]),
        ("r.lab|el", ["label: one_of("]),
        ("plate |r in", ["plate r in rows", "a row of a table"]),
        ("|observe", ["`base(r.input, rule)`, in nats", "`r`, `rows`, `rule`", "times `rate`", "each row of `rows`"]),
        ("|condition", ["−∞ where it does not; reads `rule`", "`prefix` for `rule`"]),
        ("infer |smc", ["infer smc", "- `particles`: number of draws"]),
        ("smc(|part", ["`particles`: number of draws"]),
        (": te|xt(tokens", ["text(…)", "- `stop`: the text ends"]),
        ("words(rule) |<=", ["a truth value; reads `rule`"]),
    ],
)  # fmt: skip
def test_hover(words: str, parts: list[str]) -> None:
    for part in parts:
        assert part in told(PLATE, words)


def test_nothing_is_told_of_a_comment() -> None:
    assert hover(Document("p.plm", "# words\n" + STORY), 3) is None


# ---------------------------------------------------------------- what may be typed


@pytest.mark.parametrize(
    ("typed", "there", "not_there"),
    [
        ("", {"lm", "program"}, {"latent"}),
        ("lm m = ", {"transformers", "tabular"}, {"calculator"}),
        ("tool m = ", {"calculator"}, {"tabular"}),
        (PLATE.replace("condition words(rule) <= limit", "con|"), {"condition", "latent"}, {"words"}),
        (PLATE.replace("words(rule) <= limit", "wo|"), {"words", "rule", "limit", "rate"}, {"base", "poisson", "r"}),
        (PLATE.replace("words(rule) <= limit", "words(|)"), {"rule"}, {"latent"}),
        (PLATE.replace("r.label", "r.|"), {"input", "label"}, {"rule", "words"}),
        (PLATE.replace("r.label", "|"), {"r", "rule"}, {"latent"}),
        (PLATE.replace("base(r.input, rule)", "|"), {"base", "poisson"}, {"rule", "words"}),
        (PLATE.replace("r.input, rule", "r.input, |"), {"rule", "user", "bos"}, {"base"}),
        (PLATE.replace("text(tokens", "|text(tokens"), {"text", "int", "one_of"}, {"rule"}),
        (PLATE.replace("stop=", "|="), {"stop", "pattern", "tokens"}, {"rule", "n"}),
        (PLATE.replace('stop="."', "canonical=|"), {"true", "rate"}, {"rule"}),
        (PLATE.replace('stop="."', "end=|"), {'"eos"', '"free"'}, {"rule"}),
        (PLATE.replace("infer smc(particles=8)", "infer |"), {"smc", "exact"}, {"rule"}),
        (PLATE.replace("particles=8", "|"), {"particles", "threshold"}, {"rule", "stop"}),
        (PLATE.replace("in rows", "in |"), {"rows"}, {"rate"}),
        (PLATE.replace("infer smc(particles=8)", "guide |"), {"rule"}, {"rate"}),
        (PLATE.replace("let limit", "let |"), set(), {"rule", "rows", "latent"}),
        (PLATE.replace("Rule:", "Rule: |"), set(), {"rule", "words"}),
        (PLATE + "# |", set(), {"lm"}),
        (PLATE.replace("let limit = 3", "let limit = |"), {"rate", "words"}, {"rule", "limit"}),
    ],
)  # fmt: skip
def test_completion(typed: str, there: set[str], not_there: set[str]) -> None:
    offset = typed.index("|") if "|" in typed else len(typed)
    document = Document("p.plm", PLATE).then(typed.replace("|", ""))
    labels = {item.label for item in complete(document, offset)}
    assert there <= labels and not labels & not_there
    assert there or not labels


def test_names_are_known_while_the_text_cannot_be_parsed() -> None:
    first = Document("p.plm", PLATE)
    assert first.readable
    broken = PLATE.replace('rule: text(tokens=1..9, stop=".") ~ base("Rule:")', "").replace(
        "rows {", "rows {{("
    )
    second = first.then(broken)
    assert not second.readable and second.then(broken).earlier is first
    assert "rule" in {i.label for i in complete(second, broken.index("words(rule") + 6)}


# ---------------------------------------------------------------- mechanical mends


def edited(text: str, edits: Edits) -> str:
    for span, new in sorted(edits, key=lambda edit: edit[0].start, reverse=True):
        text = text[: span.start] + new + text[span.end :]
    return text


WRONG = {path.stem: path.read_bytes().decode() for path in sorted((ROOT / "tests/golden/bad").glob("*.plm"))}
WRONG |= {code.code: code.wrong for code in CODES.values()}


def test_every_mend_mends_what_it_says() -> None:
    """In each wrong program of the tests and of `plm explain`: the diagnostic is gone, and a text that parsed still does."""
    mended: set[str] = set()
    for name, text in WRONG.items():
        document = Document(name, text)
        found = document.checked.diagnostics
        for one in found:
            if not (edits := mends(document.checked.module, one)):
                continue
            after = Document(name, edited(text, edits))
            same = [(d.code, d.message) for d in (*after.checked.diagnostics, None) if d]
            before = [(d.code, d.message) for d in found]
            this = (one.code, one.message)
            assert same.count(this) < before.count(this), (name, this, edits)
            assert after.readable or not document.readable, (name, this, edits)
            mended.add(one.code)
    assert mended >= {
        *("PLM101", "PLM102", "PLM103", "PLM105", "PLM106", "PLM111", "PLM201", "PLM203", "PLM204", "PLM206"),
        *("PLM208", "PLM210", "PLM211", "PLM302", "PLM307", "PLM309", "PLM311", "PLM312", "PLM315", "PLM316"),
        *("PLM401", "PLM901", "PLM902", "PLM903", "PLM905", "PLM908"),
    }


def test_mends_that_move_more_than_a_word() -> None:
    text = PLATE.replace("  let limit = 3\n", "").replace("  infer", "  let limit = 3\n  infer")
    document = Document("p.plm", text)
    (late,) = document.checked.diagnostics
    again = edited(text, mends(document.checked.module, late))
    assert "  let limit = 3\n  condition words(rule) <= limit\n" in again
    assert Document("p.plm", again).checked.diagnostics == ()
    unused = PLATE.replace("<= limit", "<= 3")
    (idle,) = Document("p.plm", unused).checked.diagnostics
    assert edited(unused, mends(Document("p.plm", unused).checked.module, idle)) == unused.replace(
        "  let limit = 3\n", ""
    )


NUMBER = 'lm base = "tiny"\n\nprogram p(a: text) {\n  latent n: int(0..99) ~ base(a, " is ") ^ 2\n}\n'
KINDS = (
    'lm base = "tiny"\n\nprogram p(a: text) {\n  latent n: one_of("no", "yes", "yes please") ~ base(a)\n}\n'
)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (NUMBER, '~ base(a, " is ") ^ 2\n  observe "." ~ base(a, " is ", n)\n'),
        (KINDS, 'one_of("no.", "yes.", "yes please.")'),
    ],
)
def test_mends_of_values_that_begin_others(text: str, written: str) -> None:
    document = Document("p.plm", text)
    (one,) = [d for d in document.checked.diagnostics if d.code == "PLM905"]
    after = edited(text, mends(document.checked.module, one))
    assert written in after
    assert "PLM905" not in [d.code for d in Document("p.plm", after).checked.diagnostics]


# ---------------------------------------------------------------- texts half typed


def random_edit(text: str, rng: random.Random) -> str:
    """A key, a deletion, a line moved, or a piece of the text pasted elsewhere."""
    start = rng.randrange(len(text) + 1)
    end = min(len(text), start + rng.choice((0, 0, 1, 1, 3, 30)))
    keys = ["", " ", "\n", "~", "(", ")", "{", "}", "[", "]", '"', ",", ":", "=", ".", "..", "#", "^", "-", "é", "😀",
            "\ud800", "\0", "latent z: ", "temper 2 {", "words(", "if ", "r.", "1e999", "\r", "\u2028", "plate x in "]  # fmt: skip
    other = rng.randrange(len(text) + 1)
    return text[:start] + rng.choice([*keys, text[other : other + 25]]) + text[end:]


def typing(count: int, bound: float) -> float:
    """Edits programs at random and asks everything after each edit; the slowest check in seconds of this thread."""
    rng, slowest = random.Random(0), 0.0
    texts = [path.read_text(encoding="utf-8") for path in PROGRAMS]
    for k in range(count):
        if k % 8 == 0:
            document = Document("p.plm", rng.choice(texts))
        document = document.then(random_edit(document.source.text, rng))
        started = time.thread_time()
        found = document.checked.diagnostics
        slowest = max(slowest, time.thread_time() - started)
        offset = rng.randrange(len(document.source.text) + 1)
        complete(document, offset)
        if (about := hover(document, offset)) is not None:
            assert about[1] and about[0].start <= offset <= about[0].end
        document.formatted()
        for one in found:
            for span, _ in mends(document.checked.module, one):
                assert 0 <= span.start <= span.end <= len(document.source.text)
    assert slowest < bound
    return slowest


def test_a_text_half_typed_raises_nothing() -> None:
    typing(1000, 1.0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_edits_raise_nothing() -> None:
    print(f"slowest check: {1000 * typing(100_000, 1.0):.0f} ms")


def long_program(blocks: int = 39) -> str:
    """A program of five lines a block, three more than 200 with 39 of them."""
    lines = ['lm base = "tiny"', "program p(opening: text, ending: text) {"]
    for k in range(blocks):
        lines += [
            f'  latent z{k}: text(tokens=1..25, stop=".") ~ base(opening)',
            f'  observe [" ", ending] ~ base(opening, z{k})',
            f'  guide z{k} ~ base("Beginning: ", opening, "\\nEnding: ", ending)',
            f"  condition words(z{k}) <= 16  # not too long",
            "",
        ]
    return "\n".join([*lines, "}", ""])


def calls(text: str) -> int:
    """How many functions are called to check a text, of Python and of C."""
    count = 0

    def called(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        assert Document("p.plm", text).checked.diagnostics == ()
    finally:
        sys.setprofile(None)
    return count


def test_two_hundred_lines_are_checked_between_two_keys() -> None:
    """Counted, since a machine that is busy says nothing of time: 173,000 calls take 25 to 40 ms on a quiet one."""
    calls(long_program(1))  # tables are read once
    once, twice = calls(long_program()), calls(long_program(78))
    assert once < 190_000
    assert twice < 2.1 * once


# ---------------------------------------------------------------- colours


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_pygments_has_no_error_and_loses_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tokens = list(PlmLexer().get_tokens(text))
    assert "".join(part for _, part in tokens) == text
    assert not [part for kind, part in tokens if kind is Error]


def test_pygments_knows_words_and_mistakes() -> None:
    tokens = [(str(kind), part) for kind, part in PlmLexer().get_tokens('latent z: text ~ base("a" ; 1)\n')]
    for pair in (("Token.Keyword", "latent"), ("Token.Name.Variable", "z"), ("Token.Keyword.Type", "text"),
                 ("Token.Operator", "~"), ("Token.Literal.String", '"a"'), ("Token.Error", ";"),
                 ("Token.Literal.Number", "1"), ("Token.Punctuation", ")")):  # fmt: skip
        assert pair in tokens


GRAMMAR = json.loads((ROOT / "editors/vscode/syntaxes/plm.tmLanguage.json").read_text(encoding="utf-8"))
SCOPES = {"comment": "comment.", "string": "string.", "number": "constant.numeric.", "type": "support.type.",
          "name": "variable.other.declaration.", "function": "support.function.", "call": "entity.name.function.",
          "keyword": "keyword.", "option": "variable.parameter.option."}  # fmt: skip


def scopes(line: str) -> dict[int, str]:
    """The scope of each character of a line, as an editor finds it by the grammar of VS Code: no rule spans lines."""
    rules = [(re.compile(rule["match"]), rule) for rule in GRAMMAR["patterns"]]
    found: dict[int, str] = {}
    at = 0
    while at < len(line):
        matches = [
            (m.start(), k, m) for k, (pattern, _) in enumerate(rules) if (m := pattern.search(line, at))
        ]
        if not matches:
            break
        _, k, match = min(matches, key=lambda one: one[:2])
        rule = rules[k][1]
        found |= dict.fromkeys(range(*match.span()), rule.get("name", ""))
        for group, inner in rule.get("captures", {}).items():
            found |= dict.fromkeys(range(*match.span(int(group))), inner.get("name", rule.get("name", "")))
        at = max(match.end(), at + 1)
    return found


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_the_grammar_of_vs_code_agrees_with_the_lexer(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not [rule for rule in GRAMMAR["patterns"] if {"begin", "end", "include"} & rule.keys()]
    lines, line, column = [scopes(one) for one in text.split("\n")], 0, 0
    for kind, piece in pieces(Source("p", text)):
        if kind and piece not in ("true", "false", "bos", "eos"):
            assert lines[line].get(column, "").startswith(SCOPES[kind]), (
                kind,
                piece,
                lines[line].get(column),
            )
        line += piece.count("\n")
        column = len(piece) - piece.rfind("\n") - 1 if "\n" in piece else column + len(piece)


def test_the_grammar_of_vs_code_knows_every_word() -> None:
    for word in KEYWORDS:
        assert re.match(r"keyword|constant\.language", scopes(f"{word} ")[0]), word
    for name in (*FUNCTIONS, *DISTRIBUTIONS, *LMS, *TOOLS, *ROLES):
        assert scopes(f"{name}(z)")[0] == "support.function.plm", name
    for name in VALUE_TYPES:
        assert scopes(f"z: {name}")[3] == "support.type.plm", name


def test_the_extension_holds_what_it_names_and_its_snippets_are_programs() -> None:
    folder = ROOT / "editors" / "vscode"
    package = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    holds = package["contributes"]
    named = [package["main"], holds["grammars"][0]["path"], holds["snippets"][0]["path"],
             holds["languages"][0]["configuration"]]  # fmt: skip
    assert all((folder / name).is_file() for name in named)
    for title, snippet in json.loads((folder / named[2]).read_text(encoding="utf-8")).items():
        body = "\n".join(snippet["body"]).replace("$0", "factor 1")
        names = dict(re.findall(r"\$\{(\d):([^}]*)\}", body))
        body = re.sub(r"\$\{?(\d)(?::[^}]*\})?", lambda m, names=names: names[m[1]], body)
        if title != "Program":
            body = f"program p() {{\n{body}\n}}"
        _, found = parse(Source(title, body))
        assert not found, (title, body, found)


def test_pygments_finds_the_lexer_by_its_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["pygments.lexers"]["plm"].partition(":")
    assert getattr(import_module(module), name) is PlmLexer
    assert re.fullmatch(r"\*\.plm", PlmLexer.filenames[0]) and "plm" in PlmLexer.aliases


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ('starting, 1 s\n[\n  {"code": "PLM601", "message": "no value"}\n]\n', "no value"),
        ('[{"code": "PLM601", "message": "no value"}]', "no value"),
        ("Sorry: a mistake\nof two lines", "Sorry: a mistake"),
        ("[a line that is no list\n", "[a line that is no list"),
        ("", "no answer came"),
    ],
)
def test_what_took_long_is_not_why_there_are_no_rewards(told: str, said: str) -> None:
    assert _first(told) == said
