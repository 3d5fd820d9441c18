"""6xx: parameters, rows and files of data."""

from __future__ import annotations

from posterior_lm.lang.codes.base import Code

CODES = (
    Code(
        code="PLM601",
        title="a missing parameter",
        explanation="A parameter without a default was not given, neither by --given nor by a column of "
        "the data. What is to be predicted is asked for with plm predict.",
        wrong="plm run story_infilling.plm --given opening=…, without ending",
        right="--given opening=… --given ending=…",
    ),
    Code(
        code="PLM602",
        title="an extra parameter or column",
        explanation="The program has no parameter, or the table no column, of this name.",
        wrong="--given openning=…",
        right="--given opening=…",
    ),
    Code(
        code="PLM603",
        title="a value of the wrong type",
        explanation="The value cannot be read as the declared type.",
        wrong="--given beta=high, with beta: real",
        right="--given beta=1.5",
    ),
    Code(
        code="PLM604",
        title="an empty data file",
        explanation="The file holds no rows.",
        wrong="a file of 0 bytes, or a CSV file with its header only",
        right="at least one row",
    ),
    Code(
        code="PLM605",
        title="a data file that is not UTF-8",
        explanation="Data files are UTF-8 text; the message names the first wrong byte.",
        wrong="a file saved as Latin-1",
        right="the same file saved as UTF-8",
    ),
    Code(
        code="PLM606",
        title="a line that is not JSON",
        explanation="Each line of a .jsonl file is one JSON object with a key for each parameter.",
        wrong="{'opening': 'One day'}",
        right='{"opening": "One day"}',
    ),
    Code(
        code="PLM607",
        title="a wrong CSV file",
        explanation="The first row names the columns, and every row has as many fields as the first.",
        wrong="a row with three fields under a header of two",
        right="quotes around a field that holds a comma",
    ),
    Code(
        code="PLM608",
        title="a value outside its declared type",
        explanation="The value has the right type, but is none that the declaration allows: outside "
        "int(a..b), not one of the choices, or with characters that chars= leaves out.",
        wrong='label="maybe", with label: one_of("yes", "no")',
        right='label="yes"',
    ),
    Code(
        code="PLM609",
        title="an unknown kind of data file",
        explanation="Data files end in .jsonl, .json or .csv.",
        wrong="--data rows.xlsx",
        right="--data rows.csv",
    ),
    Code(
        code="PLM610",
        title="a value of a latent outside its support",
        explanation="The value cannot be drawn: too many or too few tokens, no stop at its end, a stop "
        "in its middle, or not one of the declared values. Its log reward is minus infinity.",
        wrong='--value middle="no full stop", with stop="."',
        right='--value middle=" It rained."',
    ),
    Code(
        code="PLM611",
        title="not a saved posterior",
        explanation="A posterior is saved as one JSON file, posterior.json, with its format named inside. "
        "This file is missing, damaged, or of another format.",
        wrong="Posterior.load('an/empty/folder')",
        right="Posterior.load('a/folder/that/save/wrote')",
    ),
    Code(
        code="PLM612",
        title="cannot write the result",
        explanation="The folder cannot be made or written; nothing was written at all.",
        wrong="posterior.save('/proc/here')",
        right="posterior.save('results')",
    ),
)
