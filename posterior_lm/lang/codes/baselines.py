"""PLM77x: decoders and policies trained in other ways."""

from __future__ import annotations

from posterior_lm.lang.codes.base import Code

CODES: tuple[Code, ...] = (
    Code(
        code="PLM770",
        title="beams that do not add up",
        explanation="A beam search returns at most as many values as it has beams, and groups of beams are of "
        "equal size.",
        wrong="infer diverse_beam(n=10, beams=10, groups=4)",
        right="infer diverse_beam(n=10, beams=10, groups=5)",
    ),
    Code(
        code="PLM771",
        title="few_shot without examples",
        explanation="The method few_shot shows solved examples, which a file of rows or a list of them holds.",
        wrong='query.using("few_shot", shots=3)',
        right='query.using("few_shot", shots=3, examples="rows.jsonl")',
    ),
    Code(
        code="PLM772",
        title="supervised fine-tuning without known values",
        explanation="The objective sft raises the probability of the values that the rows hold, in columns named "
        "after the latents, and none of the rows to train on has one.",
        wrong='plm fit p.plm --data rows.jsonl --out p --objective sft, with rows {"x": "a"}',
        right='plm fit p.plm --data rows.jsonl --out p --objective sft, with rows {"x": "a", "z": "b"}',
    ),
    Code(
        code="PLM773",
        title="a learning rate that cannot be searched",
        explanation="A search trains with each of several rates on some of the rows and looks at the others, so it "
        "needs a rate and two rows.",
        wrong="search_rate(sft, query, rows[:1], [1e-3], figure=log_likelihood)",
        right="search_rate(sft, query, rows, [1e-3, 1e-4], figure=log_likelihood)",
    ),
    Code(
        code="PLM774",
        title="too few solved examples",
        explanation="An example is a row that holds a value of every latent, other than the row that is asked about.",
        wrong="few_shot(shots=5) with three rows that hold a known latent",
        right="few_shot(shots=3) with three rows that hold a known latent",
    ),
    Code(
        code="PLM775",
        title="a tool without the mask",
        explanation="What a tool writes is forced by the support of the latent. A decoder that leaves the support "
        "aside leaves the tool aside, and its texts would lack what the tool says.",
        wrong="infer ancestral(masked=false), with text(tools=calc)",
        right="infer ancestral(), with text(tools=calc)",
    ),
    Code(
        code="PLM776",
        title="a beam search that found nothing",
        explanation="Every beam came to a place where no token may follow and no value is complete.",
        wrong="infer beam(n=1), under a grammar that can run into dead ends",
        right="infer beam(n=1, beams=20), or infer ancestral()",
    ),
)
