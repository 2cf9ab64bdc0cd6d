"""The verbs of the command line, one module each: `add_arguments(parser)` and `run(arguments) -> exit code`.

A verb parses, calls one function of the Python interface, and prints. Modules are loaded when their verb is called, and
import what is heavy inside `run`, so that `convc VERB --help` is quick.
"""

from __future__ import annotations

from convc.lazy import dataclass


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
        "where there is none), in the precision that it was trained in. With --precision fp32,bf16 the table compares\n"
        "accuracy, speed and size: `difference` is in points, `images/s` the median of turns with batches of --batch\n"
        "images, `weights` what a library keeps them in, `arena` the part of `memory` that lives within a run.",
    ),
    "predict": Verb(
        "the five likeliest classes of images",
        "convc predict runs/lenet-1 seven.png",
    ),
    "check": Verb(
        "report the mistakes in .cnn files",
        "convc check lenet.cnn resnet.cnn",
    ),
    "fmt": Verb(
        "give .cnn files their canonical spelling",
        "convc fmt lenet.cnn resnet.cnn",
        "Rewrite .cnn files with canonical indentation, spaces and line breaks; comments and meaning stay. Files with\n"
        "syntax errors are left alone, and `convc fmt -` writes the formatted standard input to the output.",
    ),
    "new": Verb(
        "write a net to begin with",
        "convc new digits --like lenet",
        "Write NAME.cnn, a small net of a known kind with comments that explain it. Existing files are never replaced.",
    ),
    "docs": Verb(
        "what a layer, setting, statement or function takes, with an example",
        "convc docs conv",
        "Describe a word of the language from the table that the checker reads; without a word, list them all.",
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
        "Draw a net as SVG: layers as boxes with the shapes of their results, blocks as groups. A box tells more of\n"
        "its layers when the pointer rests on it.",
    ),
    "compile": Verb(
        "compile, write the graph of every stage, report",
        "convc compile lenet.cnn --mode train --dump-dir dump --report passes",
        "Compile a net; write and report what every stage makes of it. With --header and -o the result is a shared\n"
        "library with a C interface, which needs no Python: docs/standalone.md.",
    ),
    "explain": Verb(
        "how each convolution is computed, and why not otherwise",
        "convc explain vgg16.cnn --batch 4 --tune 30",
        "For every convolution and direction: the algorithm that was chosen, and of all others why not: what they\n"
        "cannot do, how long they would take (predicted; with --tune measured), the scratch space that they need, how\n"
        "exact they are. `regret` is what the choice without measurements loses against the best measured.",
    ),
    "bench": Verb(
        "speed beside PyTorch, ONNX Runtime and OpenVINO, side by side in one run",
        "convc bench lenet.cnn --against torch --mode train --batch 1,64",
        "Measure nets with random images, against the libraries that are installed or that --against names. Every\n"
        "contestant is a process of its own; they take turns, and a number is the median of its rounds. What each\n"
        "computes from equal weights is compared with ours first: `differs` is the largest difference, and whoever\n"
        "computes something else is not timed. Ctrl-C shows what was measured so far. docs/performance.md tells more.",
    ),
    "rewrite": Verb(
        "replace layers by others that do (nearly) the same",
        "convc rewrite lenet.cnn -r factorize:conv2:energy=0.95 -o small.cnn",
        "Write a .cnn file in which some layers are replaced by others; all else stays as it was written. With\n"
        "--weights the new layers are fitted to the old ones, and the report says how far outputs moved.\n"
        "A RULE is a name, then the layers (`conv2`, `conv3_*`, a block; by default all that fit), then options:\n"
        "  stack3x3     5x5, 7x7, … by 3x3s: width=N, stride=first, pad=first, relu=no, data=no, open=yes\n"
        "  factorize    k x k by 1 x k and k x 1: rank=N, energy=0.95 or speedup=1.5; order=vertical\n"
        "  bottleneck   k x k by 1x1, k x k and 1x1: rank=N, energy=0.95 or speedup=1.5\n"
        "  depthwise    k x k by a depthwise and a 1x1 convolution: rank=N, energy=0.95 or speedup=1.5\n"
        "  low-rank     fc by two: rank=N, energy=0.95 or speedup=1.5",
    ),
    "opt": Verb(
        "run passes on a graph given as text",
        "convc opt net.ir -p specialize -p dead-code",
        "Run passes on IR text and print the graph that they leave; what they changed and missed goes to the error\n"
        "output, or with --json and -o OUT into one object.",
    ),
    "passes": Verb(
        "list the passes, each with its options and an example",
        "convc passes",
    ),
    "decompile": Verb(
        "write a graph as an editable .cnn file",
        "convc decompile net.ir -o net.cnn",
        "Write the .cnn file of a forward graph, given as IR text (or as a .cnn file, whose blocks and loops are then\n"
        "written anew). The file loads as an equal graph. Names of parameters stay as they are where the language can\n"
        "express them; what cannot be written is listed node by node.",
    ),
    "gradcheck": Verb(
        "compare the gradients with numeric ones",
        "convc gradcheck lenet.cnn",
        "Compare the gradients of a training step with central differences in float64, and those of the compiled\n"
        "step with both. Exit code 1 if any is wrong.",
    ),
    "import": Verb(
        "turn an ONNX model into a .cnn file and its weights",
        "convc import resnet18.onnx -o resnet18.cnn",
        "Write an ONNX model as an editable .cnn file, and its weights beside it: `convc eval OUT.cnn --weights W`\n"
        "takes both. A model that the language has no words for becomes IR, OUT.ir. docs/onnx.md lists the operators;\n"
        "those that are not supported are all named at once.",
    ),
    "export": Verb(
        "write a net with its weights as an ONNX model",
        "convc export runs/lenet-1 -o lenet.onnx",
        "Write what inference computes as an ONNX model: input `x`, images (N, C, H, W) with pixels as value/255,\n"
        "output `logits`, parameters under their names. A .cnn file without --weights comes with its first weights.",
    ),
    "lsp": Verb(
        "the language server that editors start",
        "convc lsp",
        "Speak the language server protocol over standard input and output: mistakes while you type, shapes and\n"
        "weights under the mouse, completion, definitions, formatting. docs/editors.md says how editors are set up.",
    ),
    "doctor": Verb(
        "what this installation can do: processor, threads, cache, packages",
        "convc doctor",
    ),
    "completion": Verb(
        "completion of verbs, options and words for your shell",
        "convc completion bash",
        "Print a script that completes command lines of convc. To load it in every new shell:\n"
        "  bash: echo 'source <(convc completion bash)' >> ~/.bashrc\n"
        "  zsh:  echo 'source <(convc completion zsh)' >> ~/.zshrc   (below the line with compinit)\n"
        "  fish: convc completion fish > ~/.config/fish/completions/convc.fish",
    ),
    "cache": Verb(
        "show or trim the cache of compiled code",
        "convc cache --limit 500MB",
    ),
}
