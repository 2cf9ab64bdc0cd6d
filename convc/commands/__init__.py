"""The verbs of the command line, one module each: `add_arguments(parser)` and `run(arguments) -> exit code`.

A verb parses, calls one function of the Python interface, and prints. Modules are loaded when their verb is called, and
import what is heavy inside `run`, so that `convc VERB --help` is quick.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """A line of `convc --help`, and what `convc VERB --help` adds to the list of options."""

    summary: str
    example: str
    description: str = ""

    @property
    def text(self) -> str:
        return self.description or self.summary[0].upper() + self.summary[1:] + "."


VERBS: dict[str, Verb] = {
    "train": Verb(
        "train a net; everything about the run goes into its folder",
        "convc train lenet.cnn --set train.optim.lr=0.01 --epochs 5",
        "Train a net on the data that its train item (or --data) names. Ctrl-C stops at the next step and saves;\n"
        "--resume goes on from there bit by bit.",
    ),
    "eval": Verb(
        "accuracy and loss of a trained net on its test images",
        "convc eval runs/lenet-1",
        "Evaluate a run folder, or a .cnn file with --weights, on the test part of its data (the validation part\n"
        "where there is none).",
    ),
    "predict": Verb(
        "the five likeliest classes of images",
        "convc predict runs/lenet-1 seven.png",
    ),
    "check": Verb(
        "report the mistakes in .cnn files",
        "convc check lenet.cnn resnet.cnn",
    ),
    "summary": Verb(
        "shapes, parameters, work, memory and receptive field, layer by layer",
        "convc summary lenet.cnn --batch 1",
        "Print a table of the layers. `activations` is what a result takes, nothing where it is written over its\n"
        "input. `sees`, `every` and `from` are the receptive field: pixels that a position of a result reads, how far\n"
        "the next position is moved, where the first one begins (below 0: in the padding). `dense` counts the weights\n"
        "of fully connected layers between the same values, `sparse` the connections that are there, `params` the\n"
        "values that these share.",
    ),
    "graph": Verb(
        "draw a net",
        "convc graph googlenet.cnn -o googlenet.svg",
        "Draw a net as SVG: layers as boxes with the shapes of their results, blocks as groups. A box tells more about\n"
        "its layers when the pointer rests on it.",
    ),
    "compile": Verb(
        "compile, write the graph of every stage, report",
        "convc compile lenet.cnn --mode train --dump-dir dump --report passes",
    ),
    "gradcheck": Verb(
        "compare the gradients with numeric ones",
        "convc gradcheck lenet.cnn",
        "Compare the gradients of a training step with central differences in float64, and those of the compiled\n"
        "step with both. Exit code 1 if any is wrong.",
    ),
    "doctor": Verb(
        "what this installation can do: processor, threads, cache, packages",
        "convc doctor",
    ),
    "cache": Verb(
        "show or trim the cache of compiled code",
        "convc cache --limit 500MB",
    ),
}
