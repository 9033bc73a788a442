"""The command line: verbs, one function each."""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

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
EVALUATIONS = ("knn", "probe", "finetune", "segment", "detect", "vqa", "robustness")


def pretrain(args: Sequence[str]) -> int:
    from .commands.pretrain import pretrain

    return STOPPED if pretrain(args).stopped else DONE


def resume(args: Sequence[str]) -> int:
    from .commands.resume import resume

    flags = {"--shard": "--shard=True", "--no-shard": "--shard=False"}  # None, as it was, makes it no plain flag
    args = _positional(args, "run")
    args = [
        arg if after in ("True", "False", "None") else flags.get(arg, arg)
        for arg, after in zip(args, [*args[1:], ""], strict=True)
    ]
    return STOPPED if call(resume, args, "maskery resume").stopped else DONE


def evaluate(args: Sequence[str]) -> int:
    kind = _choose("evaluation", args[:1], EVALUATIONS)
    rest = _positional(args[1:], "where")
    if kind in ("probe", "finetune", "segment", "detect", "vqa") and "--quick" not in rest:
        from .commands import evaluate_trained

        return STOPPED if getattr(evaluate_trained, kind)(rest).stopped else DONE
    if kind in ("finetune", "segment", "detect", "vqa"):
        raise UsageError(f"--quick is for `maskery eval probe`: {kind} has no quick form")
    from .commands import evaluate_frozen, robustness

    functions = {"knn": evaluate_frozen.knn, "probe": evaluate_frozen.quick_probe, "robustness": robustness.robustness}
    functions[kind]([arg for arg in rest if arg != "--quick"])
    return DONE


def compare(args: Sequence[str]) -> int:
    from .commands.compare import compare

    return STOPPED if compare(args).stopped else DONE


def profile(args: Sequence[str]) -> int:
    from .commands.profile import profile

    profile(_positional(args, "run"))
    return DONE


def demo(args: Sequence[str]) -> int:
    from .commands.demo import demo

    return STOPPED if call(demo, args, "maskery demo") is None else DONE


def other(name: str, positional: str, args: Sequence[str]) -> int:
    """The verbs that need nothing but their function."""
    from .commands import embed, export, inspect, list, pack, predict, report

    functions: dict[str, Callable[..., Any]] = {
        "embed": embed.embed,
        "export": export.export,
        "inspect": inspect.inspect,
        "list": list.list_names,
        "pack": pack.pack,
        "predict": predict.predict,
        "report": report.report,
        "watch": report.watch,
    }
    call(functions[name], _positional(args, positional), f"maskery {name}")
    return DONE


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "pretrain": pretrain,
    "resume": resume,
    "eval": evaluate,
    "compare": compare,
    "embed": partial(other, "embed", "where"),
    "predict": partial(other, "predict", "where"),
    "export": partial(other, "export", "where"),
    "pack": partial(other, "pack", ""),
    "profile": profile,
    "report": partial(other, "report", "run"),
    "watch": partial(other, "watch", "run"),
    "inspect": partial(other, "inspect", ""),
    "list": partial(other, "list", "what"),
    "demo": demo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    if not args or args[0] in ("-h", "--help", "help"):
        print(USAGE)
        return DONE if args else MISUSED
    try:
        return VERBS[_choose("verb", args[:1], VERBS)](args[1:])
    except UsageError as e:
        return _fail(e, MISUSED, debug)
    except Exception as e:
        return _fail(e, FAILED, debug)
    except KeyboardInterrupt:
        print("maskery: interrupted", file=sys.stderr)
        return FAILED


def _fail(error: Exception, code: int, debug: bool) -> int:
    if debug:
        raise error
    message = " ".join(str(error).split())
    if not isinstance(error, ValueError | OSError | RuntimeError | ImportError):  # not one that speaks to the user
        message = f"unexpected {type(error).__name__}: {message} (--debug shows where)"
    print(f"maskery: {message}", file=sys.stderr)
    return code


def _choose(what: str, given: Sequence[str], among: Iterable[str]) -> str:
    if not given:
        raise UsageError(f"no {what} given; there are: {', '.join(among)}")
    if given[0] not in among:
        raise unknown(what, given[0], among)
    return given[0]


def _positional(args: Sequence[str], name: str) -> list[str]:
    """A first argument without a name gets the one it has in the function."""
    if name and args and not args[0].startswith("-"):
        return [f"--{name}", *args]
    return list(args)
