"""What a stored policy is of, and how it came about: `manifest.json`."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from posterior_lm.amortize.certificate import Certificate
from posterior_lm.graph.fingerprint import canonical
from posterior_lm.graph.graph import RewardGraph
from posterior_lm.lang.diagnostics import DataError, error
from posterior_lm.lm.base import LanguageModel, ModelIdentity
from posterior_lm.storage import object_of, read_bytes, refusing, structured
from posterior_lm.target.prepared import PreparedProgram

FORMAT = "plm-policy-1"
MANIFEST = "manifest.json"
_LIBRARIES = {
    "posterior_lm": "posterior-lm",
    "torch": "torch",
    "transformers": "transformers",
    "peft": "peft",
}


@frozen
class Manifest:
    """`program` is the program's text, `lm` the alias of the adapted model, `seconds` the training's.

    `guide` identifies what the guides read (`guide_digest`), `data` the rows (`data_digest`);
    `files` holds the SHA-256 of each file of the adapter, which `save_policy` fills in.
    `others` holds the digests of the program's other models, sorted: they take part in the log reward.
    `note` says what a reader should know, such as that training was interrupted.
    """

    program: str
    name: str
    fingerprint: str
    guide: str
    lm: str
    identity: ModelIdentity
    data: str
    rows: int
    settings: Mapping[str, Any] = field(factory=dict)
    seed: int = 0
    versions: Mapping[str, str] = field(factory=dict)
    steps: int = 0
    seconds: float = 0.0
    certificate: Mapping[str, Any] | None = None
    note: str = ""
    files: Mapping[str, str] = field(factory=dict)
    others: tuple[str, ...] = field(default=(), converter=tuple)
    format: str = FORMAT

    @classmethod
    def new(
        cls, program: PreparedProgram, lm: str, rows: Sequence[Mapping[str, object]], **more: Any
    ) -> Manifest:
        """Of a program, the alias of its adapted model and the rows it was fitted to."""
        graph = program.graph
        return cls(
            program.text, graph.name, graph.fingerprint, guide_digest(graph), lm, program.models[lm].identity,
            data_digest(rows), len(rows), versions=versions(), others=other_digests(program.models, lm), **more,
        )  # fmt: skip

    @property
    def checked(self) -> Certificate | None:
        """The certificate as numbers, where there is one."""
        return None if self.certificate is None else Certificate.from_json(self.certificate, "certificate")

    def to_json(self) -> str:
        """The text of `manifest.json`. ValueError for a number that is not finite."""
        whole = attrs.asdict(self)
        ordered = {"format": whole.pop("format"), **whole}
        return json.dumps(ordered, ensure_ascii=False, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = MANIFEST) -> Manifest:
        """The manifest that `to_json` wrote. Raises DataError PLM622 for anything else."""
        with refusing(partial(not_a_policy, where)):
            whole = object_of(text)
            if whole.get("format") != FORMAT:
                raise ValueError(f"its format is {whole.get('format')!r}, and {FORMAT!r} is read here")
            found: Manifest = structured(cls, whole)
            _ = found.checked
        return found


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a policy's folder, of whatever program. Raises DataError PLM622."""
    path = folder / MANIFEST
    with refusing(partial(not_a_policy, str(folder))):
        if not path.exists():
            raise ValueError(f"it has no {MANIFEST}")
        content = read_bytes(path)
    return Manifest.from_json(content, str(path))


def not_a_policy(where: str, why: str) -> DataError:
    """DataError PLM622 that says what is wrong there."""
    return DataError(
        error(
            "PLM622",
            f"{where} is no policy that can be read: {why}",
            where=where,
            help="give the folder that `plm fit --out` wrote",
        )
    )


# ------------------------------------------------------------------------------- digests


def guide_digest(graph: RewardGraph) -> str:
    """SHA-256 of what the guide of each latent reads; "default" stands for one without a statement.

    The latents are numbered in the order in which they are drawn, before the contexts, so that names
    do not matter and two latents of one type are still told apart. The log reward does not count.
    """
    latents = {node.name: i for i, node in graph.latents()}
    stated = [graph.guides[name] for name in latents if name in graph.guides]
    sink = attrs.evolve(graph.sink, inputs=(*latents.values(), *(g.context for g in stated)))
    specs = {lm.alias: [lm.spec, lm.kind, [list(o) for o in lm.options]] for lm in graph.lms}
    who = [specs.get(graph.guides[n].lm) if n in graph.guides else "default" for n in latents]
    return _digest([who, canonical(graph.rebuilt({**graph.nodes, graph.total: sink}))])


def other_digests(models: Mapping[str, LanguageModel], lm: str) -> tuple[str, ...]:
    """Digests of all models but the adapted one, sorted: aliases do not matter."""
    return tuple(sorted(model.identity.digest for alias, model in models.items() if alias != lm))


def data_digest(rows: Sequence[Mapping[str, object]]) -> str:
    """SHA-256 of the rows in their order, as canonical JSON: sorted keys, no spaces."""
    return _digest([dict(row) for row in rows])


def versions() -> dict[str, str]:
    """The versions of what a policy is made with."""
    found = {"python": platform.python_version()}
    for name, package in _LIBRARIES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def _digest(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
