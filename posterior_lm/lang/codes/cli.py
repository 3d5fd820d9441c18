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
        explanation="plm predict needs the name of a parameter that is left out, or of a latent.",
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
    Code(
        code="PLM806",
        title="a type that cannot be predicted",
        explanation="A prediction is a distribution over values that can be listed or written by a model. A real "
        "number and a table are neither.",
        wrong="plm predict tempered_continuation.plm beta",
        right="plm predict latent_rationale.plm label",
    ),
    Code(
        code="PLM807",
        title="an answer without an end",
        explanation="A text, or an int without bounds, is predicted by drawing it where the program scores it. "
        "That needs a place where it stands in the scored text of a language model, not in the context, and is "
        "followed by known text or by eos, or a text with a stop of its own.",
        wrong="observe answer ~ base(question)",
        right='observe [answer, "."] ~ base(question)',
    ),
    Code(
        code="PLM808",
        title="a vote without draws to cast it",
        explanation="A vote is cast by draws that have not seen what is predicted. Where the distribution of a "
        "latent reads it, there are none: each value has draws of its own, and their evidence is compared.",
        wrong="plm predict p.plm label --vote hard, where latent reason ~ base(review, label)",
        right="plm predict p.plm label",
    ),
    Code(
        code="PLM809",
        title="an answer that the model cannot write",
        explanation="A text or an int is predicted by drawing it from the model, token by token, and no tokens of "
        "its vocabulary spell a value of the type.",
        wrong="plm predict p.plm count, with a model that has no digits",
        right="plm predict p.plm count --lm base=tiny",
    ),
    Code(
        code="PLM820",
        title="a task or method that the bench does not have",
        explanation="plm bench paper runs the tasks and methods that it lists; --task and --method pick some of them.",
        wrong="plm bench paper --task integer",
        right="plm bench paper --task integers",
    ),
    Code(
        code="PLM821",
        title="a folder of another bench",
        explanation="A bench goes on in a folder where an earlier run of the same bench has left results. Cells that "
        "were made with another model, other sizes or other data are not averaged with its own.",
        wrong="plm bench paper --out results, where results holds those of --quick",
        right="plm bench paper --out other-results",
    ),
    Code(
        code="PLM822",
        title="data that the bench cannot read",
        explanation="The folder named does not hold the files of the task, or a line of one is not as it should be.",
        wrong="plm bench paper --task subjectivity --subj a/folder/of/pictures",
        right='--subj FOLDER, where its train.jsonl has lines such as {"text": "...", "label_text": "objective"}',
    ),
)
