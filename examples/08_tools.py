"""Sums with a calculator in the text, and without.

    python examples/08_tools.py

The same questions are worked out by the model alone and with a calculator that adds or
subtracts two numbers at a time. The tokens that it wrote are forced: they stand in brackets
here. Prints what stands in 08_tools.out, up to rounding.
"""

from __future__ import annotations

import posterior_lm as plm
from posterior_lm.api.posterior import Posterior
from posterior_lm.support.base import spliced

QUESTIONS = ["6 - 9 - 7 = ?", "9 + 7 - 3 + 8 = ?"]
VALUES = [-10, 21]


def program(tools: str) -> plm.Query:
    return plm.loads(f"""
    lm base = "tiny"
    tool calc = calculator(operands=2)
    tool given = calculator(operands=2, output="intervene")

    program sums(question: text) {{
      latent steps: text(tokens=3..32, chars="0123456789+-=, ", stop="."{tools})
          ~ base("Question: ", question, " Answer:")
    }}""")


def marked(query: plm.Query, posterior: Posterior) -> str:
    """The likeliest text, what a tool wrote in brackets."""
    info = query.target().latent("steps")
    value = max(
        zip(posterior.draws.log_reward, posterior.draws.values["steps"], strict=True), key=lambda x: x[0]
    )[1]
    pieces = query.target().models["base"].tokenizer.token_bytes
    shown = ""
    for token, wrote in zip(value.ids, spliced(info.support, value.ids), strict=True):
        text = (pieces[token] or b"").decode()
        shown += f"[{text}]" if wrote else text
    return shown


for name, tools in (
    ("the model alone", ""),
    ("a calculator", ", tools=calc"),
    ("one that intervenes", ", tools=given"),
):
    right = 0.0
    print(name)
    for question, value in zip(QUESTIONS, VALUES, strict=True):
        query = program(tools).given(question=question).using("importance")
        posterior = query.draw(24, seed=1)
        right += sum(p for text, p in posterior.marginal("steps") if str(text).endswith(f"= {value}."))
        print(f"  {marked(query, posterior)}  (log evidence {posterior.log_evidence:.2f})")
    print(f"  posterior mass of texts that end in the right value: {right / len(QUESTIONS):.2f}")
