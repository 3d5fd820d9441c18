"""6xx: parameters, rows and files of data; what training writes and reads."""

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
    Code(
        code="PLM621",
        title="an output folder in use",
        explanation="Another process writes into this folder, or it holds a policy already. A policy that "
        "took long to train is not overwritten by mistake.",
        wrong="plm fit p.plm --data rows.jsonl --out DIR, twice at once",
        right="a folder of its own for each run, or --resume to go on with an earlier one",
    ),
    Code(
        code="PLM622",
        title="not a policy, an adapter or a checkpoint",
        explanation="The folder lacks a file, or one is damaged, of another format, or from another save "
        "than the rest: manifest.json holds the digests of the adapter's files.",
        wrong="--policy DIR, where DIR holds no manifest.json",
        right="--policy DIR, where DIR is what plm fit --out DIR wrote",
    ),
    Code(
        code="PLM623",
        title="no latent that a policy can draw",
        explanation="A policy adapts one language model, which draws the latents. Here no latent is drawn "
        "from a model and no guide names one, or the guides read several models.",
        wrong="plm fit, where the only latent is n: int(0..9) ~ uniform(0, 9) and no guide stands",
        right='guide n ~ base("Digit:")',
    ),
    Code(
        code="PLM624",
        title="an objective that needs rewards of prefixes",
        explanation="subtb and db compare what stopping at each token would be worth. With several latents, "
        "or a stop of several tokens, a prefix has no such log reward; vargrad and tb need only whole values.",
        wrong="--objective subtb for a program with two latents",
        right="--objective vargrad",
    ),
    Code(
        code="PLM625",
        title="a policy of another program, guide or model",
        explanation="A policy belongs to one log reward, to what its guides read, and to the weights that it "
        "adapts. The notes name each that differs. A model of another name with the same weights is fine.",
        wrong="--policy DIR, after a statement of the program was changed",
        right="--policy DIR with the program as it was, or plm fit once more",
    ),
    Code(
        code="PLM626",
        title="training stopped at a number that is not finite",
        explanation="A log reward or a gradient was NaN or infinite; the message names the row and the "
        "statement. The last checkpoint is as it was.",
        wrong="factor log(score) with a score of 0 / 0",
        right="a factor that is finite for every value of the latents, or a condition",
    ),
    Code(
        code="PLM627",
        title="no policy",
        explanation="The method gflownet draws from a policy that was trained before. Without one there is "
        "nothing to draw from; auto and importance need none.",
        wrong="plm run p.plm --method gflownet",
        right="plm fit p.plm --data rows.jsonl --out DIR, then plm run p.plm --policy DIR",
    ),
    Code(
        code="PLM628",
        title="nothing to train on",
        explanation="Training needs rows, and steps or seconds to work through them.",
        wrong="plm fit p.plm --data rows.jsonl --budget 0",
        right="plm fit p.plm --data rows.jsonl --budget 180",
    ),
)
