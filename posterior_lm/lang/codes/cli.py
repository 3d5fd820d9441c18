"""8xx: files and the command line."""

from __future__ import annotations

from posterior_lm.lang.codes.base import Code

CODES = (
    Code(
        code="PLM801",
        title="a file that cannot be read",
        explanation="The file does not exist, may not be read, is a folder, or is not UTF-8 text.",
        wrong="plm check no_such.plm",
        right="plm check programs/story_infilling.plm",
    ),
    Code(
        code="PLM802",
        title="a wrong value of an option",
        explanation="An option of the command line was given a value that it does not take.",
        wrong="plm run p.plm --given prompt",
        right='plm run p.plm --given prompt="One day"',
    ),
    Code(
        code="PLM803",
        title="nothing to predict",
        explanation="plm predict needs the name of a parameter of a type that lists its values, which an "
        "observe statement scores.",
        wrong="plm predict story_infilling.plm nothing",
        right="plm predict latent_rationale.plm label",
    ),
    Code(
        code="PLM804",
        title="the guide reads what is predicted",
        explanation="A parameter that is to be predicted is not known, so no guide may read it. Training "
        "may show it to a guide; prediction may not.",
        wrong="guide reason ~ base(review, label)   # and then: plm predict FILE label",
        right="guide reason ~ base(review)",
    ),
    Code(
        code="PLM805",
        title="a result that cannot be written",
        explanation="The file or the stream that the result goes to takes no more: it may not be written, "
        "its folder does not exist, or the disk is full. A file is replaced whole or left as it was.",
        wrong="plm fmt read_only.plm",
        right="chmod u+w read_only.plm && plm fmt read_only.plm",
    ),
)
