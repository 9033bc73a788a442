"""Detect collapse: of encoder features, of a teacher's targets, and images that do not differ."""

from .verdict import EARLY, RunRecord, Verdict

COLLAPSED = 0.005  # feature spread: 0.06 to 0.8 in healthy runs, 0 when all images have the same features
ONE_LINE = 1.5  # effective rank: below it, features lie on one line
RANK_LOST = 0.2  # of the highest rank so far
UNMOVED = 1e-5  # relative: any optimiser step at a usable learning rate moves rank and spread by more
TOO_FLAT, TOO_ALIKE = 0.9, 0.02  # fraction of flat patches; std between images, in stds of the data
TARGETS_EQUAL = 0.05  # spread of a teacher's standardised targets: at most 1, 0 when all are equal
MEMORIES = 3.0  # a run must last so many times 1 / (1 - momentum) steps for the teacher to forget its random start
RECOGNISES = 500_000  # training images after which patches should recognise those of their own image
PEAKED = 0.1  # entropy of attention, relative to even attention: below it, nearly all is on one patch


def features(record: RunRecord) -> Verdict | None:
    ranks, spreads = record.evaluations("effective_rank"), record.evaluations("feature_spread")
    if not ranks or not spreads:
        return None
    rank, spread = ranks[-1][1], spreads[-1][1]
    sentence = f"Held-out features use {rank:.1f} directions and spread {spread:.3f}"
    dead = record.baselines.get("flat_patches", 0) > TOO_FLAT or record.baselines.get("images_differ", 1) < TOO_ALIKE
    if (spread < COLLAPSED or rank < ONE_LINE) and not dead:
        return Verdict(
            "features",
            "act",
            f"{sentence}: they have collapsed, all images look alike to the network.",
            "Lower --optim.base-lr; with a teacher, raise its momentum.",
        )
    still = [
        abs(values[-1][1] - values[-2][1]) <= UNMOVED * abs(values[-2][1]) and values[-1][0] > values[-2][0]
        for values in (ranks, spreads)
        if len(values) > 1
    ]
    if still and all(still) and len(still) == 2 and not dead:
        return Verdict(
            "encoder",
            "act",
            f"{sentence}, exactly as at the evaluation before: the encoder does not learn.",
            "Is it frozen, its learning rate 0, or its teacher's momentum 1?",
        )
    best = max(v for step, v in ranks if step or len(ranks) == 1)  # not a random network's: it cannot be lost
    if rank < RANK_LOST * best and record.t >= EARLY:
        return Verdict(
            "features",
            "watch",
            f"{sentence}; they used {best:.1f} directions before: dimensions are collapsing.",
            "Lower --optim.base-lr; more or more varied images.",
        )
    return Verdict("features", "good", f"{sentence}: no collapse.")


def teacher(record: RunRecord) -> Verdict | None:
    spread = record.evaluations("held_out_target_spread")
    if spread and spread[-1][1] < TARGETS_EQUAL:
        return Verdict(
            "teacher",
            "act",
            f"The teacher's targets are all equal (spread {spread[-1][1]:.3f}, 1 is the most): it has collapsed.",
            "Raise --settings.momentum, lower --optim.base-lr, or lower the weight of the alignment.",
        )
    for network in ("teacher", "student"):
        entropies = record.evaluations(f"held_out_entropy_{network}")
        if entropies and entropies[-1][1] < PEAKED:
            return Verdict(
                "teacher",
                "watch",
                f"The {network}'s attention is on single patches (entropy {entropies[-1][1]:.2f} of 1): "
                "masks follow these alone.",
                "--settings.alpha nearer to the other one, or --settings.direction random to compare.",
            )
    fractions, group = record.evaluations("held_out_homologous_share"), record.option("settings.group", 4)
    images_seen = record.metrics.last.get("step", 0) * record.option("batch_size", 0)
    if fractions and images_seen >= RECOGNISES and fractions[-1][1] < 1.02 / group:
        return Verdict(
            "teacher",
            "watch",
            f"Patches recognise their own image no better than chance (1 in {group}).",
            "A longer run, or --settings.lam above 0.1.",
        )
    momentum, steps = record.option("settings.momentum", 0.0), record.metrics.steps
    if steps and 1 - momentum < MEMORIES / steps:
        return Verdict(
            "teacher",
            "watch",
            f"The teacher averages over {1 / max(1 - momentum, 1e-9):,.0f} steps, and the run has {steps:,}: it stays "
            "near its random start.",
            f"--settings.momentum {max(0.0, 1 - 10 / steps):.3g}, or a longer run.",
        )
    if spread:
        return Verdict("teacher", "good", f"The teacher's targets differ (spread {spread[-1][1]:.2f} of 1).")
    return None


def images(record: RunRecord) -> Verdict | None:
    facts = record.baselines
    if "flat_patches" not in facts:
        return None
    flat = facts["flat_patches"]
    if flat > TOO_FLAT:
        sentence = f"{flat:.0%} of the held-out patches show nothing: there is nothing to predict in them."
        return Verdict("images", "act", sentence, "Look at samples/ and at what --images.bits and --images.mean are.")
    if facts["images_differ"] < TOO_ALIKE:
        sentence = "The held-out images are all the same picture: what hides behind a mask can be learned by heart."
        advice = "Look at samples/: is one file there many times, or one frame of a film?"
        return Verdict("images", "act", sentence, advice)
    return Verdict("images", "good", f"Images differ, and {1 - flat:.0%} of their patches show something.")
