"""`convc rewrite`: layers replaced in the text, their weights fitted, and how far outputs and accuracy moved.

Nothing is written before all of it is known to be right: the text has been read back, its shapes compared, and the
weights fit its parameters.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import field
from functools import cached_property
from pathlib import Path

import numpy as np

from convc.frontend.net import Net
from convc.frontend.rewriting.rewrite import Rewritten, editable, rewrite
from convc.frontend.rewriting.tracing import trace
from convc.ir.diagnostic import Diagnostic, fail
from convc.lazy import dataclass
from convc.passes.rewriting.analysis import Figures, Measure, figures
from convc.passes.rewriting.layer import Layer, Weights
from convc.passes.rewriting.matching import Missed, Target, choose_targets, first_layers
from convc.passes.rewriting.replacement import Replacement
from convc.passes.rewriting.table import Request
from convc.passes.rewriting.timing import Model
from convc.runtime.atomic import write_text
from convc.runtime.build import build_net
from convc.runtime.checkpoint import Checkpoint, match, read_checkpoint, require_match, write_checkpoint
from convc.runtime.data import DataSet, Split
from convc.runtime.data.image_size import centred
from convc.runtime.evaluate import Evaluation, evaluate
from convc.runtime.progress import Style
from convc.runtime.rewriting.activations import activations, choose_images
from convc.runtime.rewriting.conversion import substitute
from convc.runtime.trained import evaluation_data
from convc.runtime.trainer import FitResult, fit

# What checkpoints say of a net that stays true of its rewritten twin.
_KEPT = ("classes", "normalisation", "data")


@dataclass(frozen=True)
class Wishes:
    """What is asked for besides the layers.

    `out` is where the text goes (None: nowhere), `weights` the trained weights, `out_weights` where those of the new
    net go. `data` is a data item to fit and evaluate on, "" the file's own, None no data. `finetune` epochs follow,
    into the run folder `run`. `settings` are `train.…` settings that hold for this once. `report` is that of `fit`;
    `progress` is told what is being done, as that may take minutes.
    """

    out: Path | None = None
    weights: Path | None = None
    out_weights: Path | None = None
    data: str | None = None
    finetune: int | None = None
    run: Path | None = None
    batch: int | None = None
    threads: int | None = None
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    report: Style = "auto"
    progress: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class LayerOutcome:
    """One replaced layer: what became of it, what both cost, and how well the weights fit (None without weights).
    `names` are those of the new layers with parameters."""

    target: Target
    before: Figures
    after: Figures
    names: tuple[str, ...]
    fitted: Replacement | None


@dataclass(frozen=True)
class Images:
    """A data set, and the part of it to evaluate on, with its name."""

    dataset: DataSet
    part: str
    split: Split

    def __str__(self) -> str:
        return f"{len(self.split):,} {self.part} images of {self.dataset.name}"


@dataclass(frozen=True)
class Outcome:
    """Everything about a rewrite. `weights` are those of the new net, None without old ones; evaluations are on
    `images`, None without. `warnings` are those of the new text that the old one had not."""

    rewritten: Rewritten
    layers: tuple[LayerOutcome, ...]
    missed: tuple[Missed, ...]
    warnings: tuple[Diagnostic, ...]
    batch: int
    weights: Mapping[str, np.ndarray] | None
    images: Images | None
    before: Evaluation | None
    after: Evaluation | None


@dataclass(frozen=True)
class Finetuned:
    """What the new net reached after more training, on the images of the outcome if there are any."""

    training: FitResult
    evaluation: Evaluation | None


def rewrite_net(
    net: Net, requests: tuple[Request, ...], wishes: Wishes, model: Model, measure: Measure | None = None
) -> Outcome:
    """Carry out requests on a net; `model` predicts times and `measure` measures them, both for a batch.

    Errors: those of `choose_targets`, `value-rewrite-data`, `checkpoint-…`, `data-…`, `file-write`.
    """
    return _Procedure(net, requests, wishes, model, measure).run()


def finetune(outcome: Outcome, wishes: Wishes) -> Finetuned:
    """Train the new net on, from the weights of the outcome. Errors and interrupts: those of `fit`."""
    assert outcome.weights is not None
    assert wishes.finetune is not None
    net = outcome.rewritten.net
    with ExitStack() as stack:
        start = wishes.out_weights
        if start is None:
            start = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "fitted.safetensors"
            write_checkpoint(start, outcome.weights, _about(outcome.rewritten, {}))
        training = fit(
            net,
            data=wishes.data or None,
            epochs=wishes.finetune,
            batch=wishes.batch,
            threads=wishes.threads,
            out=wishes.run,
            init=start,
            report=wishes.report,
        )
    trained = read_checkpoint(training.weights)
    if wishes.out_weights is not None:
        write_checkpoint(wishes.out_weights, trained.weights, _about(outcome.rewritten, trained.metadata))
    images = outcome.images
    reached = None
    if images is not None:
        reached = _evaluated(net, trained.weights, images, outcome.batch, wishes.threads)
    return Finetuned(training, reached)


def _evaluated(
    net: Net, weights: Mapping[str, np.ndarray], images: Images, batch: int, threads: int | None
) -> Evaluation:
    with build_net(net, batch=batch, mode="infer", threads=threads) as program:
        program.set_params(weights)
        return evaluate(program, images.split)


def _about(rewritten: Rewritten, old: Mapping[str, str]) -> dict[str, str]:
    """What a file of the new weights says, with what the old one said that is still true."""
    net = rewritten.net
    return {
        **{key: old[key] for key in _KEPT if key in old},
        "kind": "weights",
        "net": net.name,
        "net_digest": net.digest(),
        "renamed": json.dumps(rewritten.names.renamed),
    }


class _Procedure:
    def __init__(
        self, net: Net, requests: tuple[Request, ...], wishes: Wishes, model: Model, measure: Measure | None
    ) -> None:
        self.net, self.requests, self.wishes, self.model, self.measure = net, requests, wishes, model, measure
        self.batch = wishes.batch or net.settings.batch
        self.graph = net.graph(1)
        self.first = first_layers(self.graph)

    def run(self) -> Outcome:
        wishes = self.wishes
        self._require_samples()
        targets, missed = choose_targets(self.graph, self.requests, editable(trace(self.net)), self._weights_of)
        images = self.images  # what is wrong with them is told before the work begins
        fits: dict[str, Replacement | None] = {}
        for number, target in enumerate(targets, 1):
            wishes.progress(f"{target.path}, {number} of {len(targets)}")
            fits[target.path] = self._fit(target)
        forms = {
            target.path: target.request.rule.form(target.layer) if found is None else found.layers
            for target in targets
            for found in [fits[target.path]]
        }
        rewritten = self._rewritten(targets, forms)
        weights = self._new_weights(rewritten, fits)
        before, after = self._evaluation(self.net, self.weights), self._evaluation(rewritten.net, weights)
        if self.checkpoint is not None and weights is not None and wishes.out_weights is not None:
            write_checkpoint(wishes.out_weights, weights, _about(rewritten, self.checkpoint.metadata))
        if wishes.out is not None:
            write_text(wishes.out, rewritten.text)
        return Outcome(
            rewritten=rewritten,
            layers=tuple(self._outcome(target, forms, fits, rewritten) for target in targets),
            missed=missed,
            warnings=self._new_warnings(rewritten.net),
            batch=self.batch,
            weights=weights,
            images=images,
            before=before,
            after=after,
        )

    def _require_samples(self) -> None:
        for request in self.requests:
            if request.rule.needs_samples and (self.wishes.data is None or self.wishes.weights is None):
                hint = "--eval with --weights W shows the trained net the file's images, --eval SPEC others"
                fail("value-rewrite-data", f"`{request.text}` fits to images, and there are none", hint=hint)

    # Weights

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        if self.wishes.weights is None:
            return None
        checkpoint = read_checkpoint(self.wishes.weights)
        found = match({name: a.shape for name, a in checkpoint.weights.items()}, _shapes(self.graph.parameters))
        require_match(found, checkpoint.path, self.net.name)
        return checkpoint

    @property
    def weights(self) -> Mapping[str, np.ndarray] | None:
        return None if self.checkpoint is None else self.checkpoint.weights

    def _weights_of(self, path: str, layer: Layer) -> Weights | None:
        return None if self.weights is None else {role: self.weights[f"{path}.{role}"] for role in layer.shapes}

    def _fit(self, target: Target) -> Replacement | None:
        weights = self._weights_of(target.path, target.layer)
        if weights is None or self.weights is None:
            return None
        samples = None
        if self.shown is not None:
            samples = activations(self.net, self.weights, target.path, self.shown, self.wishes.threads)
        return target.request.rule.fit(target.layer, weights, samples)

    def _new_weights(
        self, rewritten: Rewritten, fits: Mapping[str, Replacement | None]
    ) -> dict[str, np.ndarray] | None:
        """All parameters of the new net: those that were kept under their new names, and the fitted ones."""
        if self.weights is None:
            return None
        found = {new: self.weights[old] for old, new in rewritten.names.parameters.items()}
        for path, layers in rewritten.names.layers.items():
            fitted = fits[path]
            assert fitted is not None
            for layer, arrays in zip(layers, fitted.weights, strict=True):
                found |= {f"{layer.name}.{role}": array for role, array in arrays.items()}
        parameters = rewritten.net.graph(1).parameters
        require_match(match({name: a.shape for name, a in found.items()}, _shapes(parameters)), Path(), self.net.name)
        return {name: found[name] for name in parameters}

    # Text

    def _rewritten(self, targets: tuple[Target, ...], forms: Mapping[str, tuple[Layer, ...]]) -> Rewritten:
        wishes = self.wishes
        places = None
        if wishes.weights is not None and wishes.out_weights is not None:
            places = str(wishes.weights), str(wishes.out_weights)
        return rewrite(
            self.net,
            {t.path: substitute(t.layer, forms[t.path], t.request.rule) for t in targets},
            path=None if wishes.out is None else str(wishes.out),
            weights=places,
            settings=wishes.settings,
        )

    def _new_warnings(self, net: Net) -> tuple[Diagnostic, ...]:
        known = {(warning.code, warning.message) for warning in self.net.warnings}
        return tuple(warning for warning in net.warnings if (warning.code, warning.message) not in known)

    # Data

    @cached_property
    def images(self) -> Images | None:
        return None if self.wishes.data is None else Images(*evaluation_data(self.net, self.wishes.data or None))

    @cached_property
    def shown(self) -> np.ndarray | None:
        """Images for the inputs of layers, of the part that nets are trained on."""
        if self.images is None:
            return None
        return choose_images(centred(self.images.dataset.train, self.net.input_shape[1:]), self.net.settings.seed)

    def _evaluation(self, net: Net, weights: Mapping[str, np.ndarray] | None) -> Evaluation | None:
        if self.images is None or weights is None:
            return None
        return _evaluated(net, weights, self.images, self.batch, self.wishes.threads)

    # Report

    def _outcome(
        self,
        target: Target,
        forms: Mapping[str, tuple[Layer, ...]],
        fits: Mapping[str, Replacement | None],
        rewritten: Rewritten,
    ) -> LayerOutcome:
        made = rewritten.names.layers[target.path]
        first = target.path in self.first
        return LayerOutcome(
            target=target,
            before=figures([target.layer], self.batch, self.model, self.measure, first=first),
            after=figures(forms[target.path], self.batch, self.model, self.measure, first=first),
            names=tuple(layer.name for layer in made if layer.parameters),
            fitted=fits[target.path],
        )


def _shapes(parameters: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    return {name: parameter.value.shape for name, parameter in parameters.items()}  # type: ignore[attr-defined]
