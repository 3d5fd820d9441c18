"""1xx: the text is not a program."""

from __future__ import annotations

from posterior_lm.lang.codes.base import Code, program

_RIGHT = program('latent z: text(tokens=1..20, stop=".") ~ base(prompt)')

CODES = (
    Code(
        code="PLM101",
        title="unexpected word or sign",
        explanation="Something stands where the grammar has no place for it. The label says what "
        "could stand there. Reading goes on at the next statement, so one run reports "
        "every such place.",
        wrong=program('latent z: text(tokens=1..20, stop=".") base(prompt)'),
        right=_RIGHT,
    ),
    Code(
        code="PLM102",
        title="a bracket is never closed",
        explanation="Every ( [ and { needs its partner. The error points at the bracket that was "
        "opened; the second label shows where its absence was noticed: at the next "
        "statement, or at the end of the file.",
        wrong=program('latent z: text(tokens=1..20, stop=".") ~ base(prompt'),
        right=_RIGHT,
    ),
    Code(
        code="PLM103",
        title="a closing bracket does not match",
        explanation="A closing bracket has no open partner, or closes one of another kind.",
        wrong=program('latent z: text(tokens=1..20, stop=".") ~ base(prompt]'),
        right=_RIGHT,
    ),
    Code(
        code="PLM104",
        title="a string is never closed",
        explanation="A string ends on the line on which it begins. A line break inside a string is "
        'written \\n, a quote \\". In r"…" a backslash is a plain character, and there is '
        "no way to write a quote.",
        wrong=program('latent z: text(tokens=1..20, stop=".) ~ base(prompt)'),
        right=_RIGHT,
    ),
    Code(
        code="PLM105",
        title="a stray character",
        explanation="The character is no part of the language. Strings stand in straight double "
        "quotes, comments begin with #, statements need nothing between them.",
        wrong=program("latent z: text(tokens=1..20) ~ base('Once')"),
        right=program('latent z: text(tokens=1..20) ~ base("Once")'),
    ),
    Code(
        code="PLM106",
        title="a word of the language used as a name",
        explanation="Words such as latent, guide, let, in, from and true are reserved everywhere, "
        "so that reading never depends on context. Choose another name.",
        wrong=program("latent guide: text(tokens=1..20) ~ base(prompt)"),
        right=program("latent guided: text(tokens=1..20) ~ base(prompt)"),
    ),
    Code(
        code="PLM107",
        title="the text ends too early",
        explanation="The end was reached in the middle of something. In a file the usual reason is "
        "an unclosed bracket, which is reported as such; this code is for the rest.",
        wrong="lm base =",
        right=_RIGHT,
    ),
    Code(
        code="PLM108",
        title="nested too deep",
        explanation="Brackets, blocks and operators may stand at most 100 deep inside one another. "
        "Give names to inner parts with let.",
        wrong=program("factor " + "(" * 101 + "1" + ")" * 101),
        right=program("factor ((1))"),
    ),
    Code(
        code="PLM109",
        title="the program is too large",
        explanation="A program holds at most one million characters. Data belong into a file that "
        "is given with --data, or into a parameter.",
        wrong="a program of more than 1,000,000 characters",
        right="a program and a file of data",
    ),
    Code(
        code="PLM110",
        title="not a text",
        explanation="A program is UTF-8 text without null bytes and without halves of characters. "
        "Usually the wrong file was named.",
        wrong=program('latent z: text(tokens=1..20) ~ base("\0")'),
        right=_RIGHT,
    ),
    Code(
        code="PLM111",
        title="an unknown escape",
        explanation='The escapes are \\n (line break), \\t (tab), \\" (quote), \\\\ (backslash) and '
        '\\u{1F600} (a character by its number). In a pattern, write r"…", where a '
        "backslash is a plain character.",
        wrong=program(r'latent z: text(tokens=1..20, stop="\d") ~ base(prompt)'),
        right=program(r'latent z: text(tokens=1..20, stop="\n") ~ base(prompt)'),
    ),
    Code(
        code="PLM112",
        title="a plain argument after an option",
        explanation="In a call plain arguments come first, then options with names.",
        wrong=program('latent z: int(lead=" ", 0..9) ~ uniform()'),
        right=program('latent z: int(0..9, lead=" ") ~ uniform()'),
    ),
    Code(
        code="PLM113",
        title="a number that is none",
        explanation="A number and a name are glued together, or a number is too large to be exact.",
        wrong=program("factor 2x"),
        right=program("let x = 3\nfactor 2 * x"),
    ),
    Code(
        code="PLM114",
        title="a program without statements",
        explanation="A program needs at least one statement between its braces.",
        wrong='lm base = "tiny"\n\nprogram example(prompt: text) {\n}\n',
        right=_RIGHT,
    ),
    Code(
        code="PLM115",
        title="a file without a program",
        explanation="A file holds declarations (lm, tool, use) and then exactly one program.",
        wrong='lm base = "tiny"\n',
        right=_RIGHT,
    ),
    Code(
        code="PLM116",
        title="a declaration that declares nothing",
        explanation='After lm name = stands a string ("tiny", a folder, a .json file, a name on the '
        'hub) or a call such as transformers("gpt2"); after tool name = stands a call '
        'such as calculator(trigger="=").',
        wrong=program("latent z: text(tokens=1..20) ~ base(prompt)", declarations="lm base = 3"),
        right=program("latent z: text(tokens=1..20) ~ base(prompt)"),
    ),
)
