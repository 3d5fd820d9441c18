"""A policy on disk: the files of a peft adapter and `manifest.json`, which names what it belongs to."""

from __future__ import annotations

import hashlib
from pathlib import Path

import attrs
from attrs import frozen

from posterior_lm.amortize.adapter import CONFIG, WEIGHTS, Adapter
from posterior_lm.amortize.certificate import Certificate, Level
from posterior_lm.amortize.guide import PolicyGuide
from posterior_lm.amortize.manifest import (
    MANIFEST,
    Manifest,
    guide_digest,
    not_a_policy,
    other_digests,
    read_manifest,
)
from posterior_lm.infer.base import Offer
from posterior_lm.lang.diagnostics import DataError, error
from posterior_lm.storage import together
from posterior_lm.target.prepared import PreparedProgram
from posterior_lm.target.target import Target

HELD = 4
"""Loaded policies that `held_policy` keeps: a program asked about many rows loads its own once."""

_held: dict[tuple[str, str, int], Policy] = {}


@frozen(eq=False)
class Policy:
    """A trained adapter and what it belongs to."""

    folder: Path
    manifest: Manifest
    adapter: Adapter

    def guide(self, target: Target) -> PolicyGuide:
        """The policy as a proposal for a bound program."""
        return PolicyGuide.of(target, self.adapter)

    @property
    def certificate(self) -> Certificate | None:
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
    return Policy(folder, manifest, Adapter.load(program.models[alias], folder))


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
        found = _held[key] = Policy(folder, manifest, Adapter.load(model, folder))
    return found


def offer_of(folder: Path, program: PreparedProgram, target: Target) -> Offer:
    """The stored policy of a program, offered for a target, which may be of a part of the program.

    Raises DataError PLM622 for a folder that holds none, PLM625 for one of another program.
    """
    manifest = read_manifest(folder)
    check_policy(folder, manifest, program)
    certificate = manifest.checked
    return Offer(
        where=str(folder),
        level=level_of(manifest),
        beats_prior=certificate is not None and certificate.beats_prior,
        guide=lambda: held_policy(folder, manifest, program).guide(target),
    )


def check_policy(folder: Path, manifest: Manifest, program: PreparedProgram) -> str:
    """The alias of the model to adapt. Raises DataError PLM625 that names each thing that differs."""
    graph, models = program.graph, program.models
    notes = []
    if manifest.fingerprint != graph.fingerprint:
        notes.append(
            f"the program: the policy is of `{manifest.name}`, fingerprint {manifest.fingerprint[:12]}; "
            f"this is `{graph.name}`, fingerprint {graph.fingerprint[:12]}"
        )
    if manifest.guide != guide_digest(graph):
        notes.append("what the guides read: a `guide` statement was added, removed or changed")
    fitting = [a for a, m in models.items() if m.identity.digest == manifest.identity.digest]
    if not fitting:
        here = ", ".join(f"{m.identity.name} ({m.identity.digest[:12]})" for m in models.values())
        own = f"{manifest.identity.name} ({manifest.identity.digest[:12]})"
        notes.append(f"the model: the policy adapts {own}; here is {here or 'none'}")
    chosen = manifest.lm if manifest.lm in fitting else next(iter(fitting), "")
    if fitting and other_digests(models, chosen) != manifest.others:
        here = ", ".join(d[:12] for d in other_digests(models, chosen))
        own = ", ".join(d[:12] for d in manifest.others)
        notes.append(
            f"the models beside the adapted one: the policy is of {own or 'none'}; here is {here or 'none'}"
        )
    if notes:
        what = ("program", "guide", "model")
        said = [w for w in what if any(n.startswith(("the " + w, f"what the {w}s")) for n in notes)]
        raise DataError(
            error(
                "PLM625",
                f"the policy in {folder} is of another {' and another '.join(said)}",
                notes=notes,
                where=str(folder),
                help="fit again with `plm fit`, or ask with the program and model it was fitted on",
            )
        )
    return chosen


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
