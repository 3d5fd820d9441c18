"""2xx: names that mean nothing, or too much."""

from __future__ import annotations

from posterior_lm.lang.codes.base import Code, program

_Z = "latent z: text(tokens=1..20) ~ base(prompt)"
_TABLE = "rows: table(input: text, output: text)"

CODES = (
    Code(
        code="PLM201",
        title="an unknown name",
        explanation="Nothing of this name is declared: no parameter, latent, let, plate row, language "
        "model, function or distribution. If one is spelled almost the same, the help "
        "names it.",
        wrong=program("latent z: text(tokens=1..20) ~ base(promt)"),
        right=program(_Z),
    ),
    Code(
        code="PLM202",
        title="a name declared twice",
        explanation="Every name of a program stands for one thing; nothing hides anything.",
        wrong=program(_Z + "\nlet prompt = 3"),
        right=program(_Z + "\nlet three = 3"),
    ),
    Code(
        code="PLM203",
        title="a built-in name given another meaning",
        explanation="Functions and distributions keep their names, so that words(z) means the same "
        "in every program.",
        wrong=program("let words = 3"),
        right=program("let limit = 3"),
    ),
    Code(
        code="PLM204",
        title="an unknown column",
        explanation="row.column names a column that the table's type does not list.",
        wrong=program("plate r in rows {\n  observe r.outptu ~ base(r.input)\n}", _TABLE),
        right=program("plate r in rows {\n  observe r.output ~ base(r.input)\n}", _TABLE),
    ),
    Code(
        code="PLM206",
        title="an unknown option",
        explanation="A type, function, distribution, tool or method has no option of this name. "
        "Options of a language model stand in its declaration, limits of a text in its "
        "type, and a power is written base(…) ^ b.",
        wrong=program("latent z: text(token=1..20, tokens=1..20) ~ base(prompt)"),
        right=program(_Z),
    ),
    Code(
        code="PLM207",
        title="an option given twice",
        explanation="Each option can be given once.",
        wrong=program("latent z: text(tokens=1..20, tokens=1..30) ~ base(prompt)"),
        right=program(_Z),
    ),
    Code(
        code="PLM208",
        title="an unknown type",
        explanation="The types are text, int, real, bool, one_of and table.",
        wrong=program("latent z: txt(tokens=1..20) ~ base(prompt)"),
        right=program(_Z),
    ),
    Code(
        code="PLM209",
        title="use does not name a Python object",
        explanation='use takes a module and a name in it: use f from "package.module:f". It is off '
        "unless the caller allows it.",
        wrong=program("factor score(prompt)", declarations='use score from "score.py"'),
        right=program("factor score(prompt)", declarations='use score from "my_package:score"'),
    ),
    Code(
        code="PLM210",
        title="an unknown method of inference",
        explanation="The methods are auto, exact, importance, smc, mcmc and gflownet.",
        wrong=program(_Z + "\ninfer importnce(n=100)"),
        right=program(_Z + "\ninfer importance(n=100)"),
    ),
    Code(
        code="PLM211",
        title="an unknown kind of language model or tool",
        explanation='A language model is a string, transformers("name") or tabular("file.json"); a '
        "tool is calculator(…).",
        wrong=program(_Z, declarations='lm base = transformer("gpt2")'),
        right=program(_Z, declarations='lm base = transformers("gpt2")'),
    ),
)
