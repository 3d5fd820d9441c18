"""LoRA weights on a model that stays frozen and shared, and folded into it for a call (Hu et al. 2022, LoRA).

There is one copy of the weights. peft puts its layers into the module once; they
add nothing until an adapter is switched on, which only `Adapter.on` does and
always undoes. So the reward, which calls the module as before, never sees the
guide, whatever fails in between.

A rollout is many calls on few columns, and an adapter that is on makes two more products in
every layer of every call. Folded in, W + s·BA (section 4.1 there), it makes none. A training pass over a
small model gains too: its rank is not small beside its width. The module's own weights are swapped
out for the time of one call and are back, bit for bit, when it ends.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary, WeakSet

import torch
from attrs import evolve, field, frozen
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from posterior_lm import storage
from posterior_lm.lang.diagnostics import DataError, ModelError
from posterior_lm.lm.hf.forward import Forward
from posterior_lm.lm.hf.load import lora_config
from posterior_lm.lm.hf.transformers import TransformersModel
from posterior_lm.lm.protocol import LanguageModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The two files of an adapter, as peft names them."""
LAYERS, WIDTH = 28, 128
"""Linear layers of `tiny`, and their inputs."""

_wrapped: WeakKeyDictionary[nn.Module, PeftModel] = WeakKeyDictionary()
_living: WeakKeyDictionary[nn.Module, WeakSet[Adapter]] = WeakKeyDictionary()
_names = count()


@frozen(eq=False)
class AdaptedForward(Forward):
    """The same module with an adapter on while it computes."""

    adapter: Adapter = field(kw_only=True, repr=False)

    def call(self, part: nn.Module, **options: object) -> Any:
        if self.dtype != torch.bfloat16:
            with self.adapter.on():
                return part(**options)
        # The weights stay in single precision and are rounded for their products, whose result is added to
        # numbers that are rounded alike; in single precision the two thin products cost more than the whole layer.
        with self.adapter.on(cast=False), torch.autocast(self.device.type, torch.bfloat16):
            return part(**options)


class Adapter:
    """A named set of LoRA weights on a `TransformersModel`, off except inside `with adapter.on()`."""

    def __init__(self, base: TransformersModel, wrapped: PeftModel, name: str, config: LoraConfig) -> None:
        self.base = base
        self.config = config
        self.reads: Literal["observed", "own", "outline"] = "observed"
        """What its guides read, as for `train.guide.readings_of`."""
        self.stop: float | None = None
        """How its guides stop where an end is free, as a `Reading` has it."""
        self.powered = False
        """Whether its guides draw at the powers of the priors."""
        self._wrapped = wrapped
        self._name = name
        layers = (m for m in wrapped.modules() if isinstance(m, BaseTunerLayer))
        self._layers: list[Any] = [
            m for m in layers if any(name in getattr(m, n) for n in m.adapter_layer_names)
        ]
        self.parameters: Mapping[str, nn.Parameter] = {
            n: p for n, p in sorted(wrapped.named_parameters()) if f".{name}." in n
        }
        _living.setdefault(base._forward.module, WeakSet()).add(self)
        self._settle()

    @property
    def names(self) -> list[str]:
        """The names of the parameters as the first adapter of a process has them, so that a checkpoint fits any."""
        return [name.replace(f".{self._name}.", ".plm0.") for name in self.parameters]

    @property
    def scale(self) -> float:
        """What learning rates that suit `tiny` are multiplied by here, at most 1.

        A move of Adam changes every entry of B by the rate, whatever the model, and with it each output of a layer by as
        much (A is drawn by the number of inputs). Layers in a row add that up, and the head adds it over the width, with
        weights of about 1/√width: logits move by layers · √width times as much.
        """
        width = sorted(int(layer.in_features) for layer in self._layers)[len(self._layers) // 2]
        return min(1.0, LAYERS / len(self._layers) * math.sqrt(WIDTH / width))

    def _settle(self) -> None:
        """Every adapter's weights trainable: peft freezes those of the others when it adds or deletes one."""
        for adapter in _living[self.base._forward.module]:
            for parameter in adapter.parameters.values():
                parameter.requires_grad_(True)

    @classmethod
    def new(
        cls, base: LanguageModel, *, rank: int, alpha: float | None = None,
        targets: Sequence[str] = (), seed: int = 0,
    ) -> Adapter:  # fmt: skip
        """A fresh adapter that changes nothing yet (B = 0; A drawn with `seed`).

        `targets` names modules by their last name; () takes every linear layer but
        the head. `alpha` defaults to 2 × rank. Raises ModelError PLM516 or PLM517.
        """
        base = check_model(base)
        known = linear_names(base)
        for target in targets:
            if target not in known:
                raise ModelError.of(
                    "PLM517",
                    f"the model has no layer `{target}` to adapt",
                    where=target,
                    help=f"its linear layers are {', '.join(known)}",
                )
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]
            target_modules=list(targets) or known,
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
        )
        return cls._attach(base, config, seed)

    @classmethod
    def load(cls, base: LanguageModel, folder: Path) -> Adapter:
        """The adapter that `save` (or peft) wrote. Raises DataError PLM622 for files that are none."""
        base = check_model(base)
        try:
            config = lora_config(folder)
            tensors = load_file(folder / WEIGHTS)
            adapter = cls._attach(base, config, 0)
        except ModelError as problem:
            raise _foreign(folder, problem.diagnostics[0].message) from None
        except Exception as problem:  # peft, safetensors and json each raise their own
            raise _foreign(folder, str(problem).splitlines()[0] if str(problem) else "") from None
        try:
            adapter.restore(tensors)
        except ValueError as problem:
            adapter.close()
            raise _foreign(folder, str(problem)) from None
        return adapter

    @classmethod
    def _attach(cls, base: TransformersModel, config: LoraConfig, seed: int) -> Adapter:
        module = base._forward.module
        name = f"plm{next(_names)}"
        known = _wrapped.get(module)
        before = {m: m._disable_adapters for m in module.modules() if isinstance(m, BaseTunerLayer)}
        with warnings.catch_warnings(), torch.random.fork_rng(devices=_cuda(base)):
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            try:
                if known is None:
                    known = get_peft_model(module, config, adapter_name=name)  # type: ignore[assignment]
                    _wrapped[module] = known  # type: ignore[assignment]
                else:
                    known.add_adapter(name, config)
            except ValueError as problem:  # a layer that peft cannot adapt in this kind of model
                for layer in module.modules():  # some may be wrapped by now
                    if isinstance(layer, BaseTunerLayer):
                        layer._disable_adapters = before.get(layer, True)
                said = str(problem).splitlines()[0][:200]
                raise ModelError.of(
                    "PLM517", f"the layers cannot be adapted ({said})", help="name others with `targets`"
                ) from None
        assert isinstance(known, PeftModel)
        for layer in known.modules():
            if isinstance(layer, BaseTunerLayer):
                layer._disable_adapters = before.get(layer, True)
        module.eval()
        return cls(base, known, name, config)

    # ------------------------------------------------------------- switching

    @contextmanager
    def on(self, *, cast: bool = True) -> Iterator[None]:
        """The adapter is part of the module inside this block, and of nothing outside it.

        Without `cast` what its products read is left as precise as it comes: under autocast alone.
        """
        # peft's own switch also flips requires_grad of every weight, which costs more than a small
        # model's step and must not change between a forward pass and its backward pass.
        before = [
            (layer._disable_adapters, layer._active_adapter, layer.cast_input_dtype_enabled)
            for layer in self._layers
        ]
        for layer in self._layers:
            layer._disable_adapters, layer._active_adapter = False, [self._name]
            layer.cast_input_dtype_enabled = cast
        try:
            yield
        finally:
            for layer, (disabled, active, casts) in zip(self._layers, before, strict=True):
                layer._disable_adapters, layer._active_adapter = disabled, active
                layer.cast_input_dtype_enabled = casts

    def model(self) -> TransformersModel:
        """The adapted model, with no prompt remembered: ask again after the weights have changed."""
        base = self.base
        forward = AdaptedForward(
            base._forward.module, base._forward.vocabulary_size, base._forward.max_length, adapter=self
        )
        identity = evolve(base.identity, name=f"{base.identity.name} with an adapter")
        adapted = TransformersModel(forward, base.tokenizer, identity, limits=base._limits)
        adapted.__dict__["abilities"] = base.abilities  # the same code runs, so they need no second trial
        return adapted

    # ------------------------------------------------------------- weights

    def tensors(self) -> dict[str, Tensor]:
        """The weights under the names that peft saves them with, on the CPU."""
        state = self._state()
        return {k: v.detach().cpu().contiguous().clone() for k, v in sorted(state.items())}

    def _state(self) -> Mapping[str, Tensor]:
        # Otherwise peft looks for the base model's files, to see whether its vocabulary has grown.
        return get_peft_model_state_dict(self._wrapped, adapter_name=self._name, save_embedding_layers=False)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved weights. Raises ValueError where names or shapes differ."""
        own = self._state()
        if set(own) != set(tensors):
            odd = sorted(set(own) ^ set(tensors))
            raise ValueError(f"{len(odd)} weights do not match the model's layers, {odd[0]} among them")
        for name, value in tensors.items():
            if value.shape != own[name].shape:
                raise ValueError(f"{name} has the shape {tuple(value.shape)}, not {tuple(own[name].shape)}")
            if not torch.isfinite(value).all():
                raise ValueError(f"{name} holds numbers that are not finite")
        set_peft_model_state_dict(self._wrapped, dict(tensors), adapter_name=self._name)

    def save(self, folder: Path) -> None:
        """Write the two files of a peft adapter into an existing folder."""
        location = self.base.identity.name
        names = self.config.target_modules
        saved = evolve_config(
            self.config,
            base_model_name_or_path=location,
            inference_mode=True,
            # A set has another order in every process, and the file's digest would differ with it.
            target_modules=names if isinstance(names, str) else sorted(names or ()),
        )
        saved.save_pretrained(str(folder))
        # Not by safetensors' own writer, whose files nobody else may read, whatever the umask.
        storage.write_new(folder / WEIGHTS, save(self.tensors(), metadata={"format": "pt"}))

    def close(self) -> None:
        """Take the adapter out of the module."""
        if self._name in self._wrapped.peft_config:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._wrapped.delete_adapter(self._name)
            _living[self.base._forward.module].discard(self)
            self._settle()


def evolve_config(config: LoraConfig, **changes: object) -> LoraConfig:
    """A copy of a peft configuration with changes."""
    made = deepcopy(config)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def check_model(model: LanguageModel) -> TransformersModel:
    """The model as one whose weights can be adapted. Raises ModelError PLM516."""
    if isinstance(model, TransformersModel):
        return model
    raise ModelError.of(
        "PLM516",
        f"{model.identity.name} has no weights to adapt: it is of the kind {model.identity.kind}",
        help="fit a program whose guide reads a transformers model, or draw with importance sampling",
    )


def linear_names(model: TransformersModel) -> list[str]:
    """The last names of the module's linear layers, sorted: not the head, and none that a model's code made something else of.

    A router of experts is often such a subclass, which returns more than a product.
    """
    module = model._forward.module
    head = module.get_output_embeddings()
    found = set()
    for name, layer in module.named_modules():
        plain = isinstance(layer, nn.Linear | Conv1D) and layer is not head
        plain = plain and not type(layer).__module__.startswith("transformers.models.")
        wrapped = isinstance(layer, BaseTunerLayer)
        if (plain and ".base_layer" not in name and "lora_" not in name) or wrapped:
            found.add(name.rsplit(".", 1)[-1])
    if "mamba" in str(getattr(module.config, "model_type", "")):
        found.discard("out_proj")  # its block reads these weights past the layer, so peft refuses to wrap it
    return sorted(found)


def _cuda(base: TransformersModel) -> list[torch.device]:
    device = base._forward.device
    return [device] if device.type == "cuda" else []


def _foreign(folder: Path, why: str) -> DataError:
    return DataError.of(
        "PLM622",
        f"{folder} holds no adapter that fits this model ({why})",
        where=str(folder),
        help="give the folder that `plm fit --out` wrote, with the model that it was fitted on",
    )


# ------------------------------------------------------------------------------- folded into the weights

MOST = 2**29
"""Bytes of folded weights: for a larger model a second copy costs more than the products."""

DEARER = 3
"""Products of a column with an adapter's matrices that a training pass makes: forward, and backward for
its input and for the matrices. Folded in, it makes one with a gradient of the layer's whole weight."""

Swap = tuple[nn.Parameter, Tensor]
"""A weight of the module, and what stands there while an adapter is folded in."""


@frozen(eq=False)
class MergedForward(Forward):
    """The same module with other weights while it computes; without gradients."""

    swaps: Sequence[Swap] = field(kw_only=True, repr=False)

    def call(self, part: nn.Module, **options: object) -> Any:
        with _swapped(self.swaps):
            return part(**options)


def drawing_model(adapter: Adapter) -> TransformersModel:
    """The adapted model as it is now, for draws: ask again after the weights have changed.

    Its numbers are those of `adapter.model()` up to rounding, which it is where the weights are in
    half precision (a small change would be rounded away), not plain matrices, used in more places than one,
    or more than `MOST` bytes.
    """
    swaps = _folded(adapter)
    plain = adapter.model()
    if swaps is None:
        return plain
    base = adapter.base._forward
    return _like(plain, MergedForward(base.module, base.vocabulary_size, base.max_length, swaps=swaps))


@frozen(eq=False)
class TrainedForward(Forward):
    """The same module with the folded weights in place of its own, and the gradients of the adapter's."""

    adapter: Adapter = field(kw_only=True, repr=False)
    layers: Mapping[str, tuple[Any, nn.Parameter]] = field(kw_only=True, repr=False)

    def call(self, part: nn.Module, **options: object) -> Any:
        name = self.adapter._name
        start = "" if part is self.module else f"{self.module.base_model_prefix}."
        folded = {
            place.removeprefix(start): weight.detach() + layer.get_delta_weight(name)
            for place, (layer, weight) in self.layers.items()
        }
        return functional_call(part, folded, args=(), kwargs=options)


def training_model(adapter: Adapter) -> TransformersModel:
    """The adapted model for passes with gradients, by whichever way has fewer products.

    The same numbers and gradients as `adapter.model()` up to rounding, which it is where
    `drawing_model` would be or where the ranks are small beside the layers.
    """
    layers = _layers(adapter)
    plain = adapter.model()
    if layers is None:
        return plain
    rank = adapter.config.r
    whole = sum(weight.numel() for _, weight in layers.values())
    if whole >= DEARER * rank * sum(sum(weight.shape) for _, weight in layers.values()):
        return plain
    base = adapter.base._forward
    return _like(
        plain,
        TrainedForward(base.module, base.vocabulary_size, base.max_length, adapter=adapter, layers=layers),
    )


def _like(plain: TransformersModel, forward: Forward) -> TransformersModel:
    identity = evolve(plain.identity, name=f"{plain.identity.name} folded in")
    found = TransformersModel(forward, plain.tokenizer, identity, limits=plain._limits)
    found.__dict__["abilities"] = plain.abilities
    return found


_places: WeakKeyDictionary[Adapter, dict[str, tuple[Any, nn.Parameter]] | None] = WeakKeyDictionary()


def _layers(adapter: Adapter) -> dict[str, tuple[Any, nn.Parameter]] | None:
    """Every adapted layer and its own weight, by the weight's name in the module; None where it cannot be folded."""
    if adapter not in _places:  # a walk through the whole module, and asked for at every step
        _places[adapter] = _looked_up(adapter)
    found = _places[adapter]
    if found is None or any(w.dtype not in (torch.float32, torch.float64) for _, w in found.values()):
        return None
    return found if sum(w.nbytes for _, w in found.values()) <= MOST else None


def _looked_up(adapter: Adapter) -> dict[str, tuple[Any, nn.Parameter]] | None:
    """The plain layers by the names of their weights; None where one is of another kind, or used in more places than one."""
    named = list(adapter.base._forward.module.named_parameters(remove_duplicate=False))
    places = Counter(id(w) for _, w in named)
    names = {id(w): n for n, w in named}
    found: dict[str, tuple[Any, nn.Parameter]] = {}
    for layer in adapter._layers:
        weight = getattr(layer.get_base_layer(), "weight", None)
        if type(layer) is not Linear or weight is None or places[id(weight)] != 1:
            return None
        found[names[id(weight)]] = (layer, weight)
    return found


def _folded(adapter: Adapter) -> list[Swap] | None:
    layers = _layers(adapter)
    if layers is None:
        return None
    with torch.no_grad():
        return [(w, w.detach() + layer.get_delta_weight(adapter._name)) for layer, w in layers.values()]


@contextmanager
def _swapped(swaps: Sequence[Swap]) -> Iterator[None]:
    before = [weight.data for weight, _ in swaps]
    try:
        for weight, other in swaps:
            weight.data = other
        yield
    finally:
        for (weight, _), own in zip(swaps, before, strict=True):
            weight.data = own
