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
    Code(
        code="PLM780",
        title="a metric that has no value for what it was given",
        explanation="A metric of an empty list, of too few texts, of lists of different lengths or of NaN is "
        "not defined. The message names the metric, and the place where that can be said.",
        wrong="semantic_diversity([text]), with a single text",
        right="semantic_diversity(texts), with two or more",
    ),
    Code(
        code="PLM781",
        title="a package of a metric is missing",
        explanation="A metric needs a package that is not installed by default.",
        wrong="bleu4(text, references), without nltk",
        right="pip install 'posterior_lm[metrics]'",
    ),
    Code(
        code="PLM782",
        title="log-probabilities that are no distribution",
        explanation="A distance between distributions is given log-probabilities by value, in nats. A target "
        "sums to 1, and nothing sums to more.",
        wrong="kl_to_target(values, {0: 0.5, 1: 0.5})",
        right="kl_to_target(values, {0: log(0.5), 1: log(0.5)})",
    ),
    Code(
        code="PLM783",
        title="a folder without a text encoder",
        explanation="Embeddings need a folder with config.json, a tokenizer and all weights as safetensors. "
        "Pickled weights are not read and nothing is downloaded.",
        wrong='bert_score(texts, references, model="models/empty")',
        right='bert_score(texts, references, model="models/deberta"), saved there before',
    ),
    Code(
        code="PLM784",
        title="a judge that cannot be asked as it is set up",
        explanation="The judge's address is no http or https URL without a password in it, or its model, "
        "timeout or number of retries is none.",
        wrong='Judge(url="localhost:8000", model="m")',
        right='Judge(url="http://localhost:8000/v1", model="m")',
    ),
    Code(
        code="PLM785",
        title="no key for the judge",
        explanation="The environment variable that key_env names is not set, is empty, or holds what no key "
        "is. The key itself is never shown.",
        wrong='Judge(url=..., model=..., key_env="JUDGE_KEY"), where JUDGE_KEY is not set',
        right="export JUDGE_KEY=... before",
    ),
    Code(
        code="PLM786",
        title="a judge that rated nothing",
        explanation="No text got a rating: the server is down, too slow, refuses, or does not answer with one "
        "digit. The message holds what came of the first text. Where some texts were rated, the "
        "others are listed in `failures` instead.",
        wrong="Judge(...).rate(texts), where nothing listens at its address",
        right="the same with the server up",
    ),
    Code(
        code="PLM790",
        title="nothing for an M-step to train",
        explanation="EM trains the model on what the program observes: `observe` statements that a language "
        "model scores and whose value holds no latent. The program has none, or none of the model that was named.",
        wrong="plm em p.plm --data rows.jsonl --out em, where p observes `count ~ poisson(3)` alone",
        right="observe label ~ base(question, reason)",
    ),
    Code(
        code="PLM791",
        title="no row holds what is observed",
        explanation="EM learns p(observed | latents) from rows that hold the observed value. Rows without it "
        "are left out, and here nothing is left.",
        wrong='{"review": "A clever film."} in every row, where the program observes `label`',
        right='{"review": "A clever film.", "label": "subjective"}',
    ),
    Code(
        code="PLM792",
        title="several models score what is observed",
        explanation="An M-step trains one model, and the observed statements use several.",
        wrong="observe a ~ small(z) and observe b ~ large(z), without --train",
        right="plm em p.plm --data rows.jsonl --out em --train small",
    ),
    Code(
        code="PLM793",
        title="a negative power on a trained term",
        explanation="The bound rises as the term's probability falls, so the M-step has no maximum.",
        wrong="observe label ~ base(question, reason) ^ -1",
        right="observe label ~ base(question, reason)",
    ),
    Code(
        code="PLM794",
        title="EM with one label only",
        explanation="Every row observes the same text. The M-step would learn to say it whatever the latents "
        "are: the bound rises, and nothing is learned.",
        wrong='rows that all have "label": "objective"',
        right="rows of at least two labels",
    ),
    Code(
        code="PLM795",
        title="a folder that holds no result of EM",
        explanation="`em.json` is missing or of another format, or a file beside it is not the one that it lists.",
        wrong="plm predict p.plm label --em policy, with a folder that `plm fit` wrote",
        right="plm predict p.plm label --em em, with the folder that `plm em --out em` wrote",
    ),
    Code(
        code="PLM796",
        title="a result of EM of another program or model",
        explanation="The adapter is of another program's terms, or changes the weights of another model.",
        wrong="plm run changed.plm --em em, after editing what it observes",
        right="plm em changed.plm --data rows.jsonl --out another",
    ),
    Code(
        code="PLM760",
        title="a tool that raised an error",
        explanation="A tool of your own raised an error on a text. A text that it has no answer to is no error: "
        "it returns None, and the text goes on.",
        wrong='def half(text): return str(int(text.split()[-2]) // 2), called with " x ="',
        right="the same, returning None where the word is no number",
    ),
    Code(
        code="PLM761",
        title="a tool that took too long",
        explanation="One call of a tool has a time limit, seconds= of its declaration (5 by default), after which its "
        "process is ended. A tool that loops would hold up everything.",
        wrong="a tool that waits for an answer from the network for a minute",
        right='tool t = slow(trigger="=", seconds=90)',
    ),
    Code(
        code="PLM762",
        title="a tool that answered no text",
        explanation="A tool returns a text, or None where it has nothing to write.",
        wrong="def length(text): return len(text)",
        right='def length(text): return f" {len(text)}"',
    ),
    Code(
        code="PLM763",
        title="a tool's text that the tokenizer cannot spell",
        explanation="What a tool writes is spliced in as tokens, and the tokens of this model do not spell it "
        "character by character.",
        wrong='a tool that writes "∑" for a model whose tokens lack it',
        right="a tool that writes plain characters",
    ),
    Code(
        code="PLM764",
        title="a tool that wrote too much",
        explanation="One call may write 32 tokens at most, so that the length of a text stays bounded.",
        wrong="a tool that writes a paragraph",
        right="a tool that writes a number or a few words",
    ),
    Code(
        code="PLM765",
        title="a tool whose process ended",
        explanation="Tools of your own run in a process of their own, which imports the module by its name. It "
        "could not be started, or it ended while it was asked.",
        wrong="a tool that calls os._exit, or one that is defined in a notebook",
        right="a tool in a module that can be imported",
    ),
    Code(
        code="PLM766",
        title="a text that a tool would have written otherwise",
        explanation="A given value of a text with tools holds their outputs. Where it goes on otherwise after a "
        "trigger, no draw could be this value.",
        wrong='steps = " 3 + 4 = 8." with a calculator',
        right='steps = " 3 + 4 = 7."',
    ),
)
