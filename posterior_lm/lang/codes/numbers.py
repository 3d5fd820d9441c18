"""7xx: numbers that went wrong while a program ran."""

from __future__ import annotations

from posterior_lm.lang.codes.base import Code

CODES = (
    Code(
        code="PLM701",
        title="a statement that is not a number (NaN)",
        explanation="A term came out as NaN, such as 0 / 0 or the logarithm of a negative number. Minus "
        "infinity means outside the support; NaN means a mistake, so nothing goes on.",
        wrong="factor log(words(z) - 5), where z has three words",
        right="factor log(words(z))",
    ),
    Code(
        code="PLM702",
        title="every draw has weight zero",
        explanation="No draw survived. The message names the statement that ruled out most of them. Draw "
        "more, give a better guide, or loosen that statement.",
        wrong='condition contains(z, "zebra"), with a hundred draws from a prior that hardly says so',
        right="more draws, or a guide that mentions it",
    ),
    Code(
        code="PLM703",
        title="no value satisfies the conditions",
        explanation="Every value was looked at, and each has log reward minus infinity.",
        wrong='condition contains(z, "b"), where chars="a"',
        right="a condition that some value satisfies",
    ),
    Code(
        code="PLM704",
        title="an infinite reward",
        explanation="A term came out as plus infinity, so the posterior cannot be normalised.",
        wrong='factor 1 / count(z, "x"), where z has none',
        right='factor 1 / (1 + count(z, "x"))',
    ),
    Code(
        code="PLM705",
        title="a parameter of a distribution out of range",
        explanation="A computed or given number is no rate, probability or range: a rate is at least 0, a "
        "probability lies between 0 and 1, low is at most high.",
        wrong="poisson(rate), with rate = -1",
        right="poisson(rate), with rate = 1",
    ),
    Code(
        code="PLM706",
        title="out of budget with nothing to show",
        explanation="The time that --budget allows ended before exact enumeration had listed any value.",
        wrong="plm run story_infilling.plm --method exact --budget 0.01",
        right="plm run story_infilling.plm --method exact --budget 10",
    ),
    Code(
        code="PLM710",
        title="all particles died while a latent was drawn",
        explanation="No particle could go on: the first tokens of every one of them can no longer satisfy the "
        "conditions, or what was observed has probability zero after it.",
        wrong="condition words(z) <= 1, with a prior that hardly ever ends after one word",
        right="more particles, a looser condition, or a guide that knows of it",
    ),
    Code(
        code="PLM711",
        title="a guide that cannot draw one latent at a time",
        explanation="smc weighs particles between latents, so its guide has to draw them one by one.",
        wrong="query.using('smc').draw(guide=guide), where the guide only draws everything at once",
        right="query.using('importance').draw(guide=guide)",
    ),
    Code(
        code="PLM712",
        title="a prediction that needs the log evidence",
        explanation="Each value that a missing parameter can take is weighed by its log evidence, and mcmc "
        "does not estimate one.",
        wrong="plm predict p.plm label --method mcmc",
        right="plm predict p.plm label --method smc",
    ),
    Code(
        code="PLM730",
        title="nothing says how long a simulated text should be",
        explanation="A text that the program observes has no length of its own. Rows of data show how long "
        "such texts are.",
        wrong="plm calibrate p.plm, where a text is observed",
        right="plm calibrate p.plm --data rows.jsonl",
    ),
    Code(
        code="PLM731",
        title="too few exact draws can be simulated",
        explanation="Exact posterior draws come from simulating the program, or from listing its posterior. "
        "Here the terms that cannot be simulated rule out nearly every draw, and the posterior is too large to list.",
        wrong="a factor that rules out nearly every simulated draw",
        right="a smaller program, whose posterior can be listed",
    ),
    Code(
        code="PLM732",
        title="an optional package is missing",
        explanation="A plot needs a package that is not installed by default.",
        wrong="plm calibrate p.plm --plot x.png, without matplotlib",
        right="pip install 'posterior_lm[plots]'",
    ),
    Code(
        code="PLM740",
        title="a report of other draws",
        explanation="The posterior belongs to another program, or its log rewards do not come out again with "
        "the data and models of the query.",
        wrong='report(query.given(y="b"), query.given(y="a").draw(), "r.html")',
        right='report(query, query.draw(), "r.html")',
    ),
)
