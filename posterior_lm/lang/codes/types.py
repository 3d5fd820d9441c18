"""3xx: types and supports."""

from __future__ import annotations

from posterior_lm.lang.codes.base import Code, program

_Z = "latent z: text(tokens=1..20) ~ base(prompt)"
_LABEL = 'prompt: text, label: one_of("yes", "no")'

CODES = (
    Code(
        code="PLM301",
        title="an argument of the wrong type",
        explanation="A function or distribution was given a value of another type than it takes.",
        wrong=program(_Z + "\ncondition contains(z, 3)"),
        right=program(_Z + '\ncondition contains(z, "3")'),
    ),
    Code(
        code="PLM302",
        title="an empty range",
        explanation="low..high includes both ends, so low must not be larger than high, and a number "
        "of tokens is not negative.",
        wrong=program("latent z: text(tokens=5..2) ~ base(prompt)"),
        right=program("latent z: text(tokens=2..5) ~ base(prompt)"),
    ),
    Code(
        code="PLM303",
        title="a test that is neither true nor false",
        explanation="A condition and the test of an if are truth values. Compare a number, or look "
        "into a text with contains, starts_with, ends_with or matches.",
        wrong=program(_Z + "\ncondition words(z)"),
        right=program(_Z + "\ncondition words(z) <= 5"),
    ),
    Code(
        code="PLM304",
        title="a factor that is not a number",
        explanation="factor adds a number of nats to the log reward. To forbid something use "
        "condition; to weigh a truth value write if … then … else ….",
        wrong=program(_Z + '\nfactor contains(z, "dog")'),
        right=program(_Z + '\nfactor if contains(z, "dog") then 0.5 else 0'),
    ),
    Code(
        code="PLM305",
        title="not a value",
        explanation="A language model, distribution, function, tool or plate row stands where a value "
        "is needed, or something that is no function is called. A distribution stands "
        "after ~ or in log_prob(value, distribution).",
        wrong=program(_Z + "\nfactor base(z)"),
        right=program(_Z + "\nfactor log_prob(z, base())"),
    ),
    Code(
        code="PLM306",
        title="not a part of a text",
        explanation="A context or a scored text is made of texts, numbers, lists of them, bos and eos. "
        "Whether bos or eos stands there cannot depend on a latent. A truth value is spelled with if, a table is gone through with plate.",
        wrong=program(_Z + "\nobserve z ~ base(rows)", "prompt: text, rows: table(input: text)"),
        right=program(
            _Z + "\nplate r in rows {\n  observe r.input ~ base(z)\n}",
            "prompt: text, rows: table(input: text)",
        ),
    ),
    Code(
        code="PLM307",
        title="a wrong number of arguments",
        explanation="The call has more or fewer arguments than it takes, or categorical has not one "
        "probability for each value.",
        wrong=program(_Z + "\ncondition contains(z)"),
        right=program(_Z + '\ncondition contains(z, "dog")'),
    ),
    Code(
        code="PLM308",
        title="a latent without a limit",
        explanation="What is drawn needs a bound: a text a number of tokens, an int a range. The limit "
        "cuts the support and is part of the model, so it is never chosen silently.",
        wrong=program("latent z: text ~ base(prompt)"),
        right=program("latent z: text(tokens=1..20) ~ base(prompt)"),
    ),
    Code(
        code="PLM309",
        title="a wrong value of an option",
        explanation="The option takes another kind of value, or one of a few words.",
        wrong=program('latent z: text(tokens=1..20, stop="") ~ base(prompt)'),
        right=program('latent z: text(tokens=1..20, stop=".") ~ base(prompt)'),
    ),
    Code(
        code="PLM310",
        title="not a type of a latent",
        explanation="Latents are text(…), int(a..b) or one_of(…): values that have tokens. Reals, truth "
        "values and tables can only be given.",
        wrong=program("latent z: real ~ base(prompt)"),
        right=program("latent z: int(0..9) ~ base(prompt)"),
    ),
    Code(
        code="PLM311",
        title="a distribution over other values",
        explanation="poisson, geometric, binomial and uniform(low, high) are over ints; uniform(), "
        "categorical and choice need a type that lists its values, int(a..b) or one_of(…); "
        "a language model scores text and what can be spelled.",
        wrong=program("latent z: text(tokens=1..20) ~ poisson(3)"),
        right=program("latent z: int(0..20) ~ poisson(3)"),
    ),
    Code(
        code="PLM312",
        title="not a distribution",
        explanation="After ~, in log_prob and in choice stands a distribution: a declared language "
        "model that is called, such as base(prompt), or a built-in one.",
        wrong=program("latent z: text(tokens=1..20) ~ base"),
        right=program("latent z: text(tokens=1..20) ~ base()"),
    ),
    Code(
        code="PLM313",
        title="a parameter of a distribution out of range",
        explanation="A rate is at least 0, a probability lies between 0 and 1, and the probabilities of "
        "categorical add up to 1.",
        wrong=program("latent z: int(0..9) ~ geometric(1.5)"),
        right=program("latent z: int(0..9) ~ geometric(0.5)"),
    ),
    Code(
        code="PLM314",
        title="an inverse temperature that is not a known number",
        explanation="The b of d ^ b and of temper b { … } is a number that is known before anything is "
        "drawn: a literal, a parameter, or computed from them.",
        wrong=program(_Z + "\nobserve prompt ~ base(z) ^ words(z)"),
        right=program(_Z + "\nobserve prompt ~ base(z) ^ beta", "prompt: text, beta: real = 2"),
    ),
    Code(
        code="PLM315",
        title="a default of the wrong type",
        explanation="The default of a parameter is a literal of the parameter's type. Tables have none.",
        wrong=program("observe prompt ~ base() ^ beta", 'prompt: text, beta: real = "high"'),
        right=program("observe prompt ~ base() ^ beta", "prompt: text, beta: real = 1.5"),
    ),
    Code(
        code="PLM316",
        title="wrong choices",
        explanation="The choices of one_of are different, non-empty strings, and comparing one with "
        "any other string is never true.",
        wrong=program('observe [" ", label] ~ base(prompt)', 'prompt: text, label: one_of("yes", "yes")'),
        right=program('observe [" ", label] ~ base(prompt)', _LABEL),
    ),
    Code(
        code="PLM317",
        title="not a pattern",
        explanation='The pattern is not a regular expression. Write patterns as r"…", so that a '
        "backslash is a plain character.",
        wrong=program(_Z + '\ncondition matches(z, r" [A-Z")'),
        right=program(_Z + '\ncondition matches(z, r" [A-Z].*")'),
    ),
    Code(
        code="PLM318",
        title="operands that do not fit",
        explanation="Arithmetic and < <= > >= take numbers, == and != two values of one kind, and or not "
        "take truth values. Texts are joined in a list: [a, b]. ^ raises a distribution.",
        wrong=program(_Z + "\ncondition z == 3"),
        right=program(_Z + '\ncondition z == "3"'),
    ),
    Code(
        code="PLM319",
        title="branches of an if that differ in kind",
        explanation="Both branches of if … then … else … have one kind, such as two texts.",
        wrong=program('latent z: text(tokens=1..20) ~ base(if words(prompt) > 3 then "Long" else true)'),
        right=program('latent z: text(tokens=1..20) ~ base(if words(prompt) > 3 then "Long" else "Short")'),
    ),
    Code(
        code="PLM320",
        title="a plate over something that has no rows",
        explanation="plate row in rows { … } goes over a parameter that is a table.",
        wrong=program("plate r in prompt {\n  factor 1\n}"),
        right=program("plate r in rows {\n  observe r.input ~ base()\n}", "rows: table(input: text)"),
    ),
    Code(
        code="PLM321",
        title="options that contradict each other",
        explanation="A text with stop= ends there and nowhere else, so end= has nothing to say.",
        wrong=program('latent z: text(tokens=1..20, stop=".", end="free") ~ base(prompt)'),
        right=program('latent z: text(tokens=1..20, stop=".") ~ base(prompt)'),
    ),
    Code(
        code="PLM322",
        title="a malformed type",
        explanation="text takes options only, int one range of known ints, one_of choices, table columns "
        "with types. The range of a latent may use parameters, never other latents.",
        wrong=program("latent z: int(9) ~ base(prompt)"),
        right=program("latent z: int(0..9) ~ base(prompt)"),
    ),
    Code(
        code="PLM330",
        title="an empty support",
        explanation="With this model's tokenizer no text satisfies the declared type: too few tokens for "
        "the stop, characters that no token can spell, or a pattern that no text of that "
        "length matches.",
        wrong="a stop that takes four tokens in a text of tokens=1..3",
        right="tokens=1..20",
    ),
    Code(
        code="PLM331",
        title="a type with too many values to list",
        explanation="A finite type is kept as the tokens of each of its values, so there is a limit to "
        "their number. The message says what it is.",
        wrong="int(0..1000000000)",
        right="int(0..1000)",
    ),
    Code(
        code="PLM332",
        title="two values with the same tokens",
        explanation="With this model's tokenizer two values of a finite type are spelled by the same "
        "tokens, so no score can tell them apart.",
        wrong="two choices that the tokenizer makes one, such as a composed and a decomposed accent",
        right="choices that differ in their tokens",
    ),
    Code(
        code="PLM340",
        title="a condition that no value satisfies",
        explanation="A condition about one latent alone is built into its support. Here it leaves no value "
        "of the declared type, whatever the data, so the posterior has nothing to stand on.",
        wrong="condition n > 9 on n: int(0..9)",
        right="condition n > 4",
    ),
    Code(
        code="PLM333",
        title="a pattern that is not regular",
        explanation="pattern= and matches(…) are compiled to an automaton, which cannot follow back references, "
        "look-ahead, look-behind, atomic groups or possessive repeats.",
        wrong=program('latent z: text(tokens=1..20, pattern=r" ([a-z])\\1") ~ base(prompt)'),
        right=program('latent z: text(tokens=1..20, pattern=r" (aa|bb|cc)") ~ base(prompt)'),
    ),
    Code(
        code="PLM334",
        title="a pattern that is too large",
        explanation="The automaton of the pattern has too many states. Long counts, counts inside "
        "counts, alternatives that begin alike and classes of all of Unicode make it large.",
        wrong=program('latent z: text(tokens=1..20, pattern=r"(a|b)*a(a|b){20}") ~ base(prompt)'),
        right=program('latent z: text(tokens=1..20, pattern=r"(a|b)*a(a|b){4}") ~ base(prompt)'),
    ),
    Code(
        code="PLM335",
        title="options that no text satisfies",
        explanation="Pattern, stop, characters and conditions have no text in common, whatever the model. "
        "The pattern is of the whole text, the stop included.",
        wrong='text(tokens=1..20, stop=".", pattern=r" [a-z]+")',
        right='text(tokens=1..20, stop=".", pattern=r" [a-z]+\\.")',
    ),
    Code(
        code="PLM336",
        title="a file of a grammar or schema that cannot be read",
        explanation="The path of grammar= and json= starts at the folder of the program. The file is text "
        "in UTF-8 of at most 1 MB.",
        wrong='grammar="sentence.lark" without such a file beside the program',
        right="the file beside the program, or its path from there",
    ),
    Code(
        code="PLM337",
        title="a wrong grammar",
        explanation="The grammar of grammar= has wrong syntax, asks for what is not supported, or has no "
        "finite text, as a rule that always needs itself again.",
        wrong='start: "a" start',
        right='start: "a" start | "a"',
    ),
    Code(
        code="PLM338",
        title="a refused schema",
        explanation="The schema of json= is no JSON, no JSON schema, cannot be satisfied, or uses a "
        "keyword that is not supported.",
        wrong='{"type": "object", "not": {"required": ["a"]}}',
        right='{"type": "object", "properties": {"b": {"type": "integer"}}}',
    ),
    Code(
        code="PLM339",
        title="options of a text that do not go together",
        explanation="A text has one grammar= or one json=, and neither goes with canonical=true. pattern=, "
        "stop=, chars= and tokens= go with all of them.",
        wrong='text(tokens=1..20, grammar="g.lark", canonical=true)',
        right='text(tokens=1..20, grammar="g.lark")',
    ),
    Code(
        code="PLM341",
        title="a tool without a trigger",
        explanation="A tool is called when the text ends with its trigger. Only the calculator has one of its "
        'own, "=".',
        wrong=program(
            "latent z: text(tokens=1..20, tools=t) ~ base(prompt)",
            declarations='lm base = "tiny"\nuse f from "my_package:f"\ntool t = f()',
        ),
        right=program(
            "latent z: text(tokens=1..20, tools=t) ~ base(prompt)",
            declarations='lm base = "tiny"\nuse f from "my_package:f"\ntool t = f(trigger="=")',
        ),
    ),
    Code(
        code="PLM342",
        title="two tools that write at the same place",
        explanation="The trigger of one tool of a text ends in that of another, so both would write after it.",
        wrong=program(
            "latent z: text(tokens=1..20, tools=[a, b]) ~ base(prompt)",
            declarations='lm base = "tiny"\ntool a = calculator()\ntool b = calculator(trigger="==")',
        ),
        right=program(
            "latent z: text(tokens=1..20, tools=[a, b]) ~ base(prompt)",
            declarations='lm base = "tiny"\ntool a = calculator()\ntool b = calculator(trigger="->")',
        ),
    ),
    Code(
        code="PLM343",
        title="tools where no tool can write",
        explanation="Tools write into the text of a latent. A parameter's text is given, and grammar=, json= and "
        "canonical=true look at all tokens as drawn ones. pattern=, chars= and stop= go with tools.",
        wrong=program(
            "latent z: text(tokens=1..20, canonical=true, tools=calc) ~ base(prompt)",
            declarations='lm base = "tiny"\ntool calc = calculator()',
        ),
        right=program(
            "latent z: text(tokens=1..20, tools=calc) ~ base(prompt)",
            declarations='lm base = "tiny"\ntool calc = calculator()',
        ),
    ),
    Code(
        code="PLM344",
        title="a file that is no table",
        explanation="A lookup reads two columns of a .csv file whose first row holds headings, an object of texts in "
        'a .json file, or lines of {"key": …, "text": …} in a .jsonl file, of at most 1 MB. Keys are '
        "not empty and stand once. The path starts at the folder of the program.",
        wrong='tool t = lookup("capitals.txt", trigger=":")',
        right='tool t = lookup("capitals.csv", trigger=":"), with the file beside the program',
    ),
    Code(
        code="PLM345",
        title="a trigger that no text holds",
        explanation="The text has ended before the trigger is whole, since the trigger holds the stop, or the "
        "trigger's characters are not among chars=. The tool would never be called.",
        wrong=program(
            'latent z: text(tokens=1..20, chars="0123456789+ ", tools=calc) ~ base(prompt)',
            declarations='lm base = "tiny"\ntool calc = calculator()',
        ),
        right=program(
            'latent z: text(tokens=1..20, chars="0123456789+-= ", tools=calc) ~ base(prompt)',
            declarations='lm base = "tiny"\ntool calc = calculator()',
        ),
    ),
    Code(
        code="PLM346",
        title="a tool's output under other tokens",
        explanation='With output="intervene" the tokens that a tool wrote do not count where the latent alone is '
        "scored. Another model's tokenizer cuts the text elsewhere, so there is no saying which tokens those are.",
        wrong='observe z ~ other(prompt), where the tools of z have output="intervene" and other has its own tokenizer',
        right='the same with output="observe", or with the model that z is drawn from',
    ),
)
