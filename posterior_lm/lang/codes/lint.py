"""9xx: warnings about legal programs that probably mean something else."""

from __future__ import annotations

from posterior_lm.lang.codes.base import Code, program

_Z = 'latent z: text(tokens=1..20) ~ base(prompt)\nobserve [" ", ending] ~ base(z)'
_LATENT = "latent z: text(tokens=1..9) ~ base(prompt)\n"
_P = "prompt: text, ending: text"
_LABEL = 'prompt: text, label: one_of("yes", "no")'

CODES = (
    Code(
        code="PLM901",
        title="a lone space before what is drawn or scored",
        explanation="What is drawn or observed has tokens of its own, and models learn words with the "
        "space in front of them. A context that ends in a space makes every next word "
        "unlikely: cutting after a space cost 12.5 nats where cutting before it cost "
        "nothing. Move the space to the start of what follows.",
        wrong=program('observe label ~ base(prompt, " It is ")', _LABEL),
        right=program('observe [" ", label] ~ base(prompt, " It is")', _LABEL),
    ),
    Code(
        code="PLM902",
        title="a word cut in two",
        explanation="The context ends inside a word that the drawn or observed text goes on with. Its "
        "tokens are not those of the whole word.",
        wrong=program('observe label ~ base(prompt, " It is")', _LABEL),
        right=program('observe [" ", label] ~ base(prompt, " It is")', _LABEL),
    ),
    Code(
        code="PLM903",
        title="never used",
        explanation="A parameter, let, language model, tool or import that nothing reads.",
        wrong=program(_Z, _P + ", tone: text"),
        right=program(_Z, _P),
    ),
    Code(
        code="PLM904",
        title="a guide that reads what is to be predicted",
        explanation="The guide reads an observed one_of or int. That is legal, but plm predict leaves "
        "just that value out, and then the guide has nothing to read.",
        wrong=program(
            _LATENT + 'observe [" ", label] ~ base(z)\nguide z ~ base(prompt, label)',
            _LABEL,
        ),
        right=program(
            _LATENT + 'observe [" ", label] ~ base(z)\nguide z ~ base(prompt)',
            _LABEL,
        ),
    ),
    Code(
        code="PLM905",
        title="a choice that begins another",
        explanation="A choice scores exactly its own tokens and no end. Where one choice begins another, "
        "the shorter one collects the mass of both. End every choice with a mark, such as a "
        "full stop, where that is not meant.",
        wrong=program(
            'observe [" ", kind] ~ base(prompt)', 'prompt: text, kind: one_of("program", "program file")'
        ),
        right=program(
            'observe [" ", kind] ~ base(prompt)', 'prompt: text, kind: one_of("program.", "program file.")'
        ),
    ),
    Code(
        code="PLM906",
        title="a latent that nothing reads",
        explanation="No observe, factor, condition or other latent reads this latent, and it has no "
        "power: its posterior is its prior.",
        wrong=program("latent z: text(tokens=1..20) ~ base(prompt)"),
        right=program("latent z: text(tokens=1..20) ~ base(prompt) ^ 1.5"),
    ),
    Code(
        code="PLM907",
        title="a program without latents",
        explanation="There is nothing to infer. The log reward can still be computed.",
        wrong=program("observe prompt ~ base()"),
        right=program(_Z, _P),
    ),
)
