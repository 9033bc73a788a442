"""Is everything alike that should differ? Features of the encoder, what a teacher says, the images themselves."""

from .verdict import EARLY, Facts, Verdict

COLLAPSED = 0.005  # feature spread: healthy runs have been seen from 0.06 to 0.8, one answer for all images is 0
ONE_LINE = 1.5  # effective rank: all images on one line
RANK_LOST = 0.2  # of the highest rank so far
UNMOVED = 1e-5  # relative: any optimiser step at a usable learning rate moves rank and spread by more
TOO_FLAT, TOO_ALIKE = 0.9, 0.02  # share of patches that show nothing; std between images, in stds of the data
TARGETS_ONE = 0.05  # spread of a teacher's standardised targets: 1 is the most there is, 0: all are one
FOLLOWS = 3.0  # times its memory, 1 / (1 - momentum), that a run has to last for the teacher to forget its random start
RECOGNISES = 500_000  # images seen from which patches should know those of their own image; before, nothing is said
PEAKED = 0.1  # entropy of attention, by that of even attention: nearly all is on one patch


def features(f: Facts) -> Verdict | None:
    ranks, spreads = f.looked("effective_rank"), f.looked("feature_spread")
    if not ranks or not spreads:
        return None
    rank, spread = ranks[-1][1], spreads[-1][1]
    says = f"Held-out features use {rank:.1f} directions and spread {spread:.3f}"
    dead = f.baselines.get("flat_patches", 0) > TOO_FLAT or f.baselines.get("images_differ", 1) < TOO_ALIKE
    if (spread < COLLAPSED or rank < ONE_LINE) and not dead:
        return Verdict(
            "features",
            "act",
            f"{says}: they have collapsed, all images look alike to the network.",
            "Lower --optim.base-lr; with a teacher, raise its momentum.",
        )
    still = [
        abs(seen[-1][1] - seen[-2][1]) <= UNMOVED * abs(seen[-2][1]) and seen[-1][0] > seen[-2][0]
        for seen in (ranks, spreads)
        if len(seen) > 1
    ]
    if still and all(still) and len(still) == 2 and not dead:
        return Verdict(
            "encoder",
            "act",
            f"{says}, exactly as at the look before: the encoder does not learn.",
            "Is it frozen, its learning rate 0, or its teacher's momentum 1?",
        )
    best = max(v for step, v in ranks if step or len(ranks) == 1)  # a random network's has nothing to be lost
    if rank < RANK_LOST * best and f.t >= EARLY:
        return Verdict(
            "features",
            "watch",
            f"{says}; they used {best:.1f} directions before: dimensions are collapsing.",
            "Lower --optim.base-lr; more or more varied images.",
        )
    return Verdict("features", "good", f"{says}: no collapse.")


def teacher(f: Facts) -> Verdict | None:
    spread = f.looked("held_out_target_spread")
    if spread and spread[-1][1] < TARGETS_ONE:
        return Verdict(
            "teacher",
            "act",
            f"The teacher's targets are all one (spread {spread[-1][1]:.3f}, 1 is the most): it has collapsed.",
            "Raise --settings.momentum, lower --optim.base-lr, or lower the weight of the alignment.",
        )
    for who in ("teacher", "student"):
        seen = f.looked(f"held_out_entropy_{who}")
        if seen and seen[-1][1] < PEAKED:
            return Verdict(
                "teacher",
                "watch",
                f"The {who}'s attention is on single patches (entropy {seen[-1][1]:.2f} of 1): "
                "masks follow these alone.",
                "--settings.alpha nearer to the other one, or --settings.direction random to compare.",
            )
    share, group = f.looked("held_out_homologous_share"), f.option("settings.group", 4)
    seen = f.metrics.last.get("step", 0) * f.option("batch_size", 0)
    if share and seen >= RECOGNISES and share[-1][1] < 1.02 / group:
        return Verdict(
            "teacher",
            "watch",
            f"Patches recognise their own image no better than chance (1 in {group}).",
            "A longer run, or --settings.lam above 0.1.",
        )
    momentum, steps = f.option("settings.momentum", 0.0), f.metrics.steps
    if steps and 1 - momentum < FOLLOWS / steps:
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


def images(f: Facts) -> Verdict | None:
    b = f.baselines
    if "flat_patches" not in b:
        return None
    if b["flat_patches"] > TOO_FLAT:
        says = f"{b['flat_patches']:.0%} of the held-out patches show nothing: there is nothing to predict in them."
        return Verdict("images", "act", says, "Look at samples/ and at what --images.bits and --images.mean are.")
    if b["images_differ"] < TOO_ALIKE:
        says = "The held-out images are all the same picture: what hides behind a mask can be learned by heart."
        return Verdict("images", "act", says, "Look at samples/: is one file there many times, or one frame of a film?")
    return Verdict("images", "good", f"Images differ, and {1 - b['flat_patches']:.0%} of their patches show something.")
