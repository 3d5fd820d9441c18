"""Names that other languages have for what stands here under another name, or not at all."""

from __future__ import annotations

_REAL = "reals have normal(mean, sd) and beta(a, b); any other density is a factor, such as: factor -abs(x)"
_POWER = "write exp(b * log(x)) for the power b of x"
ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(("gaussian", "gamma", "exponential", "laplace", "student_t"), _REAL),
    **dict.fromkeys(("length", "strlen"), "count with chars(…), words(…) or tokens(…)"),
    **dict.fromkeys(
        ("int", "float", "real", "parse_int", "to_number"), "number(…) reads the number that a text spells"
    ),
    **dict.fromkeys(("sqrt", "pow", "power"), _POWER),
    **dict.fromkeys(("log_sum_exp", "lse", "logaddexp"), "it is called logsumexp here"),
    **dict.fromkeys(("expit", "logistic", "inv_logit"), "it is called sigmoid here"),
    **dict.fromkeys(("avg", "average"), "it is called mean here"),
    **dict.fromkeys(("prod", "product"), "write the factors out: a * b"),
    "bot": "what the model says is assistant(…)",
    "human": "what the user says is user(…)",
    **dict.fromkeys(("discrete_uniform", "randint", "uniform_int"), "write uniform()"),
    **dict.fromkeys(("discrete", "multinomial"), "write categorical([…]), one probability for each value"),
    **dict.fromkeys(
        ("get", "getitem", "json", "json_field"), 'field(…, "name") reads a field of a JSON text'
    ),
    "flip": "write bernoulli(p)",
    "str": "numbers are spelled where they stand in a text",
    "regex": 'write matches(text, r"pattern")',
}
"""What other languages have by these names, and what to write here."""
