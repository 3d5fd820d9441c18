"""4xx: what is drawn when, and which statement stands where."""

from __future__ import annotations

from posterior_lm.lang.codes.base import Code, program

_Z = "latent z: text(tokens=1..20) ~ base(prompt)"
_TABLE = "prompt: text, rows: table(input: text)"
_TWO = _Z + "\nlatent y: text(tokens=1..20) ~ base(z)"

CODES = (
    Code(
        code="PLM401",
        title="used before it is drawn",
        explanation="Statements are read from top to bottom: a latent exists from its latent statement "
        "on, a let from its let.",
        wrong=program("observe prompt ~ base(z)\n" + _Z),
        right=program(_Z + "\nobserve prompt ~ base(z)"),
    ),
    Code(
        code="PLM402",
        title="a circle of latents",
        explanation="Each of some latents reads another, so none can be drawn first. Draw them in some "
        "order, and add what is left over as an observe or a factor.",
        wrong=program("latent a: text(tokens=1..9) ~ base(b)\nlatent b: text(tokens=1..9) ~ base(a)"),
        right=program(
            "latent a: text(tokens=1..9) ~ base()\nlatent b: text(tokens=1..9) ~ base(a)\nobserve a ~ base(b)"
        ),
    ),
    Code(
        code="PLM403",
        title="a latent that depends on itself",
        explanation="The distribution of a latent, or the value of a let, reads its own name.",
        wrong=program("latent z: text(tokens=1..20) ~ base(prompt, z)"),
        right=program(_Z),
    ),
    Code(
        code="PLM404",
        title="two priors for one latent",
        explanation="A latent has one latent statement. A second term that scores it is an observe: "
        "observe z ~ other().",
        wrong=program(_Z + "\nlatent z: text(tokens=1..20) ~ base()"),
        right=program(_Z + "\nobserve z ~ base()"),
    ),
    Code(
        code="PLM405",
        title="a name of a plate used outside it",
        explanation="A plate's row, and the latents and lets inside it, exist once per row, so outside "
        "the plate there is no one value.",
        wrong=program(
            "plate r in rows {\n  observe r.input ~ base(prompt)\n}\nfactor words(r.input)", _TABLE
        ),
        right=program(
            "plate r in rows {\n  observe r.input ~ base(prompt)\n  factor words(r.input)\n}", _TABLE
        ),
    ),
    Code(
        code="PLM406",
        title="two guides for one latent",
        explanation="A guide says what the proposal of a latent reads; there is at most one.",
        wrong=program(_Z + "\nguide z ~ base()\nguide z ~ base(prompt)"),
        right=program(_Z + "\nguide z ~ base(prompt)"),
    ),
    Code(
        code="PLM407",
        title="a guide that reads what is not drawn yet",
        explanation="When a guide draws its latent it knows the parameters and the latents drawn before "
        "it, never the latent itself or a later one.",
        wrong=program(_TWO + "\nguide z ~ base(prompt, y)"),
        right=program(_TWO + "\nguide y ~ base(prompt, z)"),
    ),
    Code(
        code="PLM408",
        title="a guide for something that is not a latent",
        explanation="Only latents are drawn, so only latents have guides.",
        wrong=program(_Z + "\nguide prompt ~ base()"),
        right=program(_Z + "\nguide z ~ base()"),
    ),
    Code(
        code="PLM409",
        title="a guide in the wrong shape or place",
        explanation="A guide stands in the block of its latent, and it is drawn from, so it has no power.",
        wrong=program(_Z + "\nguide z ~ base(prompt) ^ 2"),
        right=program(_Z + "\nguide z ~ base(prompt)"),
    ),
    Code(
        code="PLM410",
        title="infer in the wrong place",
        explanation="infer gives defaults for the whole program: it stands outside every block, once per "
        "method.",
        wrong=program("temper 2 {\n  " + _Z + "\n  infer exact()\n}"),
        right=program("temper 2 {\n  " + _Z + "\n}\ninfer exact()"),
    ),
    Code(
        code="PLM411",
        title="an empty block",
        explanation="A plate or temper without statements adds nothing.",
        wrong=program(_Z + "\ntemper 2 {\n}"),
        right=program("temper 2 {\n  " + _Z + "\n}"),
    ),
    Code(
        code="PLM490",
        title="two programs that do not compose",
        explanation="In a product, a parameter or latent that both programs have must have one type in "
        "both, and a name cannot be a parameter in one and a latent in the other. A latent inside a "
        "plate cannot be shared. Other names are renamed by themselves.",
        wrong="plm.program('a', 'x: text') * plm.program('b', 'x: int')",
        right="plm.program('a', 'x: text') * plm.program('b', 'x: text')",
    ),
)
