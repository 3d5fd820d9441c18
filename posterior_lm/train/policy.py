"""A policy on disk: the files of a peft adapter and `manifest.json`, which says what it belongs to and how it came about.

One of many programs has a manifest of each in its own. It serves any program of its model: one that it has not seen has no
certificate, and its weights make up for what the policy does not know.
"""

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
from attrs import define, field, frozen

from posterior_lm.graph.fingerprint import canonical
from posterior_lm.graph.graph import RewardGraph
from posterior_lm.infer.base import UNSEEN, WORSE, Offer
from posterior_lm.infer.guide import PriorGuide
from posterior_lm.infer.methods import OBJECTIVES
from posterior_lm.lang.diagnostics import DataError
from posterior_lm.lm.protocol import LanguageModel, ModelIdentity, threads_of
from posterior_lm.lm.served import ServedModel
from posterior_lm.storage import object_of, read_bytes, refusing, structured, together
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.target import Target
from posterior_lm.train.adapter import CONFIG, WEIGHTS, Adapter
from posterior_lm.train.certificate import Level, PolicyReport
from posterior_lm.train.guide import PolicyGuide, Reads

FORMAT = "plm-policy-1"
MANIFEST = "manifest.json"
LATER: Mapping[str, object] = {
    "templates": [],
    "threads": {},
    "own_contexts": False,
    "outlined": False,
    "stop": None,
    "powered": False,
    "programs": [],
}
"""What earlier manifests lack, as it is where there is nothing to state."""
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
    `threads` are those that each model was computed with by phase: on a CPU other numbers round differently.
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
    others: tuple[str, ...] = field(default=(), converter=tuple[str, ...])
    templates: tuple[str, ...] = field(default=(), converter=tuple[str, ...])
    """Digests of the chat templates that the program's conversations are written by, sorted."""
    threads: Mapping[str, Mapping[str, int]] = field(factory=dict)
    own_contexts: bool = False
    """Whether its guides read what `readings_of` calls own."""
    outlined: bool = False
    """Whether those of a policy for one program read its outline too, as the policy for many that it began from does."""
    stop: float | None = None
    """How its guides stop where an end is free, as a `Reading` has it; None in manifests that state nothing."""
    powered: bool = False
    """Whether its guides draw at the powers that the program puts on the priors."""
    programs: tuple[Manifest, ...] = ()
    """Of a policy for many programs the manifest of each; texts, fingerprints and rows above are then those of all together."""
    format: str = FORMAT

    @classmethod
    def new(
        cls, program: PreparedProgram, lm: str, rows: Sequence[Mapping[str, object]], **more: Any
    ) -> Manifest:
        """Of a program, the alias of its adapted model and the rows it was fitted to."""
        graph = program.graph
        return cls(
            program.text, graph.name, graph.fingerprint, guide_digest(graph), lm, program.models[lm].identity,
            data_digest(rows), len(rows), versions=versions(), others=other_digests(program.models, lm),
            templates=template_digests(program), threads=threads_of(program.models), **more,
        )  # fmt: skip

    @classmethod
    def of_many(cls, programs: Sequence[Manifest], **more: Any) -> Manifest:
        """Of one policy for the programs of these manifests, which are of one model."""
        first = programs[0]
        fingerprint, guide, data = digests_of(programs)
        return cls(
            "\n".join(one.program for one in programs), ", ".join(one.name for one in programs), fingerprint,
            guide, first.lm, first.identity, data, sum(one.rows for one in programs), versions=first.versions,
            threads=first.threads, programs=tuple(programs),
            certificate=None, **more,
        )  # fmt: skip

    def of_program(self, program: PreparedProgram) -> Manifest | None:
        """What a policy for many programs has to say of this one; None where it has not seen it."""
        return next((one for one in self.programs if not _differences(one, program)[1]), None)

    @property
    def checked(self) -> PolicyReport | None:
        """The certificate as numbers, where there is one."""
        return None if self.certificate is None else PolicyReport.from_json(self.certificate, "certificate")

    @property
    def is_prior(self) -> bool:
        """Whether draws with it are the prior's, since its certificate says that this is the better proposal. What a peer's
        objective made, or em, is taken as it is: it need not be after this posterior."""
        found, objective = self.checked, OBJECTIVES.get(self.settings.get("objective", ""))
        return found is not None and objective is not None and not objective.peer and found.is_worse

    def to_json(self) -> str:
        """The text of `manifest.json`. ValueError for a number that is not finite."""
        return json.dumps(self._plain(), ensure_ascii=False, indent=2, allow_nan=False) + "\n"

    def _plain(self) -> dict[str, Any]:
        whole = {**attrs.asdict(self), "programs": [one._plain() for one in self.programs]}
        for name in LATER:
            if not whole[name]:  # as manifests were before they stated any
                del whole[name]
        return {"format": whole.pop("format"), **whole}

    @classmethod
    def from_json(cls, text: str | bytes, where: str = MANIFEST) -> Manifest:
        """The manifest that `to_json` wrote. Raises DataError PLM622 for anything else."""
        with refusing(partial(not_a_policy, where)):
            whole = object_of(text)
            if whole.get("format") != FORMAT:
                raise ValueError(f"its format is {whole.get('format')!r}, and {FORMAT!r} is read here")
            parts = whole.get("programs", [])
            if isinstance(parts, list):
                whole = {
                    **whole,
                    "programs": [{**LATER, **one} if isinstance(one, dict) else one for one in parts],
                }
            found: Manifest = structured(cls, {**LATER, **whole})
            for one in (found, *found.programs):
                _ = one.checked
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
    return DataError.of(
        "PLM622",
        f"{where} is no policy that can be read: {why}",
        where=where,
        help="give the folder that `plm fit --out` wrote",
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
    others = (model for alias, model in models.items() if alias != lm)
    return tuple(sorted(_weights(model) or model.identity.digest for model in others))


def template_digests(program: PreparedProgram) -> tuple[str, ...]:
    """Digests of the chat templates of the models that read a conversation, sorted."""
    chats = (program.models[alias].tokenizer.chat for alias in program.graph.conversing)
    return tuple(sorted(chat.digest for chat in chats if chat is not None))


def data_digest(rows: Sequence[Mapping[str, object]]) -> str:
    """SHA-256 of the rows in their order, as canonical JSON: sorted keys, no spaces."""
    return _digest([dict(row) for row in rows])


def digests_of(programs: Sequence[Manifest]) -> tuple[str, str, str]:
    """Fingerprint, guide and rows of programs together, in their order."""
    of = (
        [one.fingerprint for one in programs],
        [one.guide for one in programs],
        [one.data for one in programs],
    )
    return _digest(of[0]), _digest(of[1]), _digest(of[2])


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


# ------------------------------------------------------------------------------- policies

HELD = 4
"""Loaded policies that `held_policy` keeps: a program asked about many rows loads its own once."""

_held: dict[tuple[str, str, int], Policy] = {}


@frozen(eq=False)
class Policy:
    """A trained adapter and what it belongs to."""

    folder: Path
    manifest: Manifest
    adapter: Adapter | ServedAdapter

    def guide(self, target: Target) -> PriorGuide:
        """The policy as a proposal for a bound program, or the prior where `Manifest.is_prior`.

        Raises DataError PLM625 where its guides read another model.
        """
        guide = PolicyGuide.of(target, self.adapter)
        model = target.models[next(iter(guide.readings.values())).lm]
        if _weights(model) not in (None, self.manifest.identity.digest):
            raise DataError.of(
                "PLM625",
                f"the policy in {self.folder} is of another model",
                notes=[
                    f"the model: the policy adapts {self.manifest.identity.name}; the guides here read {model.identity.name}"
                ],
                where=str(self.folder),
                help="let the guides read the model that the policy adapts",
            )
        return PriorGuide(target) if self.manifest.is_prior else guide

    @property
    def certificate(self) -> PolicyReport | None:
        return self.manifest.checked

    @property
    def verdict(self) -> Level:
        """The certificate's level; "uncertified" without one."""
        return level_of(self.manifest)


def level_of(manifest: Manifest) -> Level:
    """The certificate's level; "uncertified" without one."""
    certificate = manifest.checked
    return "uncertified" if certificate is None else certificate.verdict.level


# ------------------------------------------------------------------------------- writing


def save_policy(folder: Path, adapter: Adapter, manifest: Manifest) -> Manifest:
    """Write the adapter's files and the manifest, which is returned with their digests.

    A failure leaves an earlier policy as it was. After a kill that leaves files of both, the digests in the
    manifest, which is put in place last, disagree, and `load_policy` refuses the folder. Raises DataError
    PLM612.
    """
    with together(folder, CONFIG, WEIGHTS, MANIFEST) as aside:
        adapter.save(aside)
        manifest = attrs.evolve(manifest, files={name: digest_of(aside / name) for name in (CONFIG, WEIGHTS)})
        (aside / MANIFEST).write_bytes(manifest.to_json().encode())
    return manifest


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------- reading


def load_policy(folder: Path, program: PreparedProgram) -> Policy:
    """The policy of this program and its models.

    Raises DataError PLM622 for a folder that holds none, or one whose files are damaged or of
    two saves; PLM625 for a policy of another program, guide or model. Whoever loads it may
    `adapter.close()` it.
    """
    manifest = read_manifest(folder)
    alias = check_policy(folder, manifest, program)
    check_files(folder, manifest)
    return _loaded(folder, manifest, program.models[alias])


@define(eq=False)
class ServedAdapter:
    """What a guide asks of an `Adapter`, of one that a server has."""

    base: ServedModel
    reads: Reads = "observed"
    stop: float | None = None
    powered: bool = False

    def model(self) -> ServedModel:
        return self.base.adapted()

    def close(self) -> None:
        """Nothing is held here."""


def _loaded(folder: Path, manifest: Manifest, model: LanguageModel) -> Policy:
    adapter = ServedAdapter(model) if isinstance(model, ServedModel) else Adapter.load(model, folder)
    adapter.reads, adapter.stop, adapter.powered = reads_of(manifest), manifest.stop, manifest.powered
    return Policy(folder, manifest, adapter)


def reads_of(manifest: Manifest) -> Reads:
    """What the guides of a policy read."""
    return (
        "outline"
        if manifest.programs or manifest.outlined
        else "own"
        if manifest.own_contexts
        else "observed"
    )


def begun_from(folder: Path, model: LanguageModel) -> tuple[Adapter, Manifest]:
    """The weights of a policy of whatever program, to train on. Raises DataError PLM622, or PLM625 for another model."""
    manifest = read_manifest(folder)
    if manifest.identity.digest != model.identity.digest:
        own, here = (f"{one.name} ({one.digest[:12]})" for one in (manifest.identity, model.identity))
        raise DataError.of(
            "PLM625",
            f"the policy in {folder} is of another model",
            notes=[f"the model: the policy adapts {own}; here is {here}"],
            where=str(folder),
            help="begin from a policy of the model that is adapted here",
        )
    check_files(folder, manifest)
    adapter = Adapter.load(model, folder)
    adapter.stop = manifest.stop
    return adapter, manifest


def held_policy(folder: Path, manifest: Manifest, program: PreparedProgram) -> Policy:
    """As `load_policy` with a manifest that was read, but loaded once for many targets of one model."""
    model = program.models[check_policy(folder, manifest, program)]
    key = (str(folder.resolve()), manifest.files.get(WEIGHTS, ""), id(model))
    found = _held.get(key)
    if found is None or found.adapter.base is not model or found.manifest != manifest:
        if found is not None:
            _held.pop(key).adapter.close()
        check_files(folder, manifest)
        while len(_held) >= HELD:
            _held.pop(next(iter(_held))).adapter.close()
        found = _held[key] = _loaded(folder, manifest, model)
    return found


def offer_of(folder: Path, program: PreparedProgram, target: Target) -> Offer:
    """The stored policy of a program, offered for a target, which may be of a part of the program.

    Raises DataError PLM622 for a folder that holds none, PLM625 for one of another program.
    """
    manifest = read_manifest(folder)
    check_policy(folder, manifest, program)
    own = manifest.of_program(program) if manifest.programs else manifest
    return Offer(
        where=str(folder),
        level=UNSEEN if own is None else WORSE if own.is_prior else level_of(own),
        guide=lambda: (
            PriorGuide(target)
            if own and own.is_prior
            else held_policy(folder, manifest, program).guide(target)
        ),
    )


def check_policy(folder: Path, manifest: Manifest, program: PreparedProgram) -> str:
    """The alias of the model to adapt. Raises DataError PLM625 that names each thing that differs.

    Of a policy for many programs that is the model alone.
    """
    chosen, notes = _differences(manifest, program)
    if manifest.programs:
        notes = [note for note in notes if note.startswith(_OTHER_MODEL)]
    if notes:
        what = ("program", "guide", "model")
        said = [w for w in what if any(n.startswith(("the " + w, f"what the {w}s")) for n in notes)]
        raise DataError.of(
            "PLM625",
            f"the policy in {folder} is of another {' and another '.join(said)}",
            notes=notes,
            where=str(folder),
            help="fit again with `plm fit`, or ask with the program and model it was fitted on",
        )
    return chosen


def _weights(model: LanguageModel) -> str | None:
    """The digest of a model's weights; None where a server does not tell, and names a policy that it has for them."""
    if isinstance(model, ServedModel) and (model.weights is not None or model.policy is not None):
        return model.weights
    return model.identity.digest


_OTHER_MODEL = "the model: the policy adapts"


def _differences(manifest: Manifest, program: PreparedProgram) -> tuple[str, list[str]]:
    """The alias of the model to adapt, and what differs from the program that the manifest is of, each in words."""
    graph, models = program.graph, program.models
    notes = []
    if manifest.fingerprint != graph.fingerprint:
        notes.append(
            f"the program: the policy is of `{manifest.name}`, fingerprint {manifest.fingerprint[:12]}; "
            f"this is `{graph.name}`, fingerprint {graph.fingerprint[:12]}"
        )
    if manifest.guide != guide_digest(graph):
        notes.append("what the guides read: a `guide` statement was added, removed or changed")
    fitting = [a for a, m in models.items() if _weights(m) in (None, manifest.identity.digest)]
    if not fitting:
        here = ", ".join(f"{m.identity.name} ({m.identity.digest[:12]})" for m in models.values())
        own = f"{manifest.identity.name} ({manifest.identity.digest[:12]})"
        notes.append(f"{_OTHER_MODEL} {own}; here is {here or 'none'}")
    chosen = manifest.lm if manifest.lm in fitting else next(iter(fitting), "")
    if fitting and other_digests(models, chosen) != manifest.others:
        here = ", ".join(d[:12] for d in other_digests(models, chosen))
        own = ", ".join(d[:12] for d in manifest.others)
        notes.append(
            f"the models beside the adapted one: the policy is of {own or 'none'}; here is {here or 'none'}"
        )
    if manifest.templates != template_digests(program):
        notes.append("the model: its chat template is another one")
    return chosen, notes


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raises DataError PLM622 where a file of the adapter is not the one that the manifest is of."""
    for name in (CONFIG, WEIGHTS):
        try:
            same = digest_of(folder / name) == manifest.files.get(name)
        except OSError as problem:
            raise not_a_policy(str(folder), f"{name}: {problem.strerror or problem}") from None
        if not same:
            raise not_a_policy(
                str(folder), f"{name} is not the file that {MANIFEST} is of: damaged, or of another save"
            )
