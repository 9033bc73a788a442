"""The command line: a table of verbs."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module

from .options import UsageError, call, unknown

USAGE = """\
maskery pretrain --data DIR --out RUN   pretrain a vision transformer on your images
maskery resume RUN                      go on with an interrupted run, as if nothing had happened
maskery eval knn RUN --data DIR         nearest-neighbour accuracy of the features, on images with labels
maskery eval probe RUN --data DIR       a linear classifier on frozen features (--quick: within seconds)
maskery eval finetune RUN --data DIR    the whole network, trained on the labels
maskery eval segment RUN --data DIR     a class for every pixel, on images with masks
maskery eval detect RUN --data DIR      boxes and masks of objects, on COCO's json
maskery eval vqa RUN --data DIR         answers to questions about images, on VQAv2's json
maskery eval robustness RUN --data DIR  a classifier on corrupted images
maskery compare --data DIR --out DIR --methods mae,rc-mae,...   methods on the same images, seeds and budget
maskery embed RUN --data DIR --out FILE.parquet   features of every image
maskery predict CLASSIFIER --data DIR --out FILE.csv|.parquet   its label and probability for every image
maskery export RUN --to timm|hf|hf-mae|onnx|safetensors --out DIR   weights for other libraries
maskery report RUN                      one page about a run: health, curves, pictures, a map of your images
maskery watch RUN                       the same page, live, while the run goes on
maskery pack --data DIR --out DIR       a faster copy of a data set
maskery profile RUN, or --data DIR      where the time of a step goes, and what to change
maskery inspect --data DIR              what is in there: counts, sizes, channels, unreadable, duplicates
maskery list methods|models|recipes
maskery demo                            all of it on built-in images, in two and a half minutes on a CPU

`maskery VERB --help` lists a verb's options; --debug shows where an error came from.
Exit codes: 0 done, 1 failed with one line, 2 wrong usage, 75 stopped by a signal with a checkpoint written."""

DONE, FAILED, MISUSED, STOPPED = 0, 1, 2, 75


@dataclass(frozen=True)
class Verb:
    """A function of `commands/`; imported when it is called, so that help needs no torch."""

    module: str
    function: str
    positional: str = ""  # the argument that may be given without its name, in first place
    parses: bool = False  # the function takes its options as a list

    def __call__(self, args: Sequence[str], name: str) -> int:
        function = getattr(import_module(f".commands.{self.module}", __package__), self.function)
        if self.positional and args and not args[0].startswith("-"):
            args = [f"--{self.positional}", *args]
        result = function(args) if self.parses else call(function, args, f"maskery {name}")
        return STOPPED if getattr(result, "stopped", False) else DONE  # by a signal


VERBS = {
    "pretrain": Verb("pretrain", "pretrain", parses=True),
    "resume": Verb("resume", "resume", "run"),
    "compare": Verb("compare", "compare", parses=True),
    "embed": Verb("embed", "embed", "where"),
    "predict": Verb("predict", "predict", "where"),
    "export": Verb("export", "export", "where"),
    "pack": Verb("pack", "pack"),
    "profile": Verb("profile", "profile", "run", parses=True),
    "report": Verb("report", "report", "run"),
    "watch": Verb("report", "watch", "run"),
    "inspect": Verb("inspect", "inspect"),
    "list": Verb("list", "list_names", "what"),
    "demo": Verb("demo", "demo"),
}
TRAINED = ("probe", "finetune", "segment", "detect", "vqa")
QUICK_PROBE = Verb("evaluate_frozen", "quick_probe", "where", parses=True)
EVALUATIONS = {
    "knn": Verb("evaluate_frozen", "knn", "where", parses=True),
    **{name: Verb("evaluate_trained", name, "where", parses=True) for name in TRAINED},
    "robustness": Verb("robustness", "robustness", "where", parses=True),
}


def run_verb(args: Sequence[str]) -> int:
    """Run the verb that `args` begin with; returns the exit code."""
    name = choose("verb", args, [*VERBS, "eval"])
    rest = list(args[1:])
    if name == "eval":
        name = choose("evaluation", rest, EVALUATIONS)
        verb, rest, quick = EVALUATIONS[name], [arg for arg in rest[1:] if arg != "--quick"], "--quick" in rest
        if quick and name in TRAINED[1:]:
            raise UsageError(f"--quick is for `maskery eval probe`: {name} has no quick form")
        return (QUICK_PROBE if quick and name == "probe" else verb)(rest, f"eval {name}")
    return VERBS[name](shard_flags(rest) if name == "resume" else rest, name)


def shard_flags(args: Sequence[str]) -> list[str]:
    """--shard and --no-shard of `resume`, whose default is neither, as values that the parser takes."""
    flags = {"--shard": "--shard=True", "--no-shard": "--shard=False"}
    return [
        arg if following in ("True", "False", "None") else flags.get(arg, arg)
        for arg, following in zip(args, [*args[1:], ""], strict=True)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    if not args or args[0] in ("-h", "--help", "help"):
        print(USAGE)
        return DONE if args else MISUSED
    try:
        return run_verb(args)
    except UsageError as e:
        return report_error(e, MISUSED, debug)
    except Exception as e:
        return report_error(e, FAILED, debug)
    except KeyboardInterrupt:
        print("maskery: interrupted", file=sys.stderr)
        return FAILED


def report_error(error: Exception, code: int, debug: bool) -> int:
    """Print an error in one line, or raise it with --debug."""
    if debug:
        raise error
    message = " ".join(str(error).split())
    if not isinstance(error, ValueError | OSError | RuntimeError | ImportError):  # not one that speaks to the user
        message = f"unexpected {type(error).__name__}: {message} (--debug shows where)"
    print(f"maskery: {message}", file=sys.stderr)
    return code


def choose(what: str, args: Sequence[str], names: Iterable[str]) -> str:
    """The first of `args`, which has to be one of `names`."""
    if not args:
        raise UsageError(f"no {what} given; there are: {', '.join(names)}")
    if args[0] not in names:
        raise unknown(what, args[0], names)
    return args[0]
