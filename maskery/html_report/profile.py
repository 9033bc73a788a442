"""What a profile says: a table, and a sentence for everything that can be changed."""

from typing import Any

WORTH = 0.1  # share of a step that is worth a sentence


def table(facts: dict[str, Any]) -> str:
    """The numbers of a profile for people."""
    parts, shares = facts["parts"], facts["shares"]
    lines = [f"{'part of a step':14} {'ms':>9}  share"]
    lines += [f"{name:14} {1e3 * seconds:9.1f}  {shares[name]:5.1%}" for name, seconds in parts.items()]
    lines += [
        f"{'all parts':14} {1e3 * sum(parts.values()):9.1f}         the device is waited for after each of them",
        f"{'undisturbed':14} {1e3 * facts['step_seconds']:9.1f}         {facts['images_per_second']:,.1f} images/s",
        "",
        f"utilisation    {facts['utilisation']:.1%} of this device's largest {facts['precision']} matrix product "
        f"({facts['matrix_product_tflops']:,.2f} TFLOP/s; {facts['gflop_per_image']:,.2f} GFLOP an image)",
        f"memory         {facts['memory_gb']:.2f} of {facts['memory_total_gb']:.0f} GB, micro-batches of "
        f"{facts['micro_batch']} of {facts['batch_size']} images",
        f"data           {facts['images_per_second_per_worker']:,.0f} images/s from one loader process; "
        f"{source(facts)}",
        "",
    ]
    return "\n".join(lines + [f"- {sentence}" for sentence in facts["findings"]])


def source(facts: dict[str, Any]) -> str:
    kept = " (images are in memory)" if facts["kept_in_memory"] else ""
    return (f"there are {facts['workers']}" if facts["workers"] else "the loop makes its own batches") + kept


def findings(facts: dict[str, Any], device: str) -> list[str]:
    """One sentence for everything that costs time and can be changed, the dearest first; never empty."""
    shares, workers, cores = facts["shares"], facts["workers"], facts["cores"]
    found: list[tuple[float, str]] = []

    wait, alone = shares["data wait"], facts["images_per_second_per_worker"]
    could = facts["images_per_second"] / max(1 - wait, 1e-3)  # what the step alone would make
    if wait >= WORTH:
        says = f"{wait:.0%} of a step is waiting for images: one loader process makes {alone:,.0f} a second"
        needed = min(cores, -(-int(could) // max(int(alone), 1)))  # loader processes
        cheaper = "" if facts["kept_in_memory"] or facts["packed"] else "`maskery pack` makes images cheaper to read"
        if not workers:
            says += f", nobody makes any during a step: --images.workers {max(1, needed)}"
            says += f", or {cheaper}" if cheaper else ""
        elif alone * workers < could:
            says += f", {workers} of them are not enough for the {could:,.0f} the step could take"
            more = [f"--images.workers {needed}"] if needed > workers else []
            says += ": " + ", or ".join([*more, cheaper] if cheaper else more or ["more cores would help"])
        else:
            says += f", so {workers} would be enough if they had cores of their own ({cores} are shared with the step)"
            says += f": {cheaper}" if cheaper else ""
        found.append((wait, says + "."))

    if device == "cuda":
        if facts["precision"] == "float32" and facts["bf16"]:
            found.append((0.6, "Matrix products are in float32, and this GPU has bf16: --precision bf16."))
        if facts["compile"] == "off":
            found.append((0.3, "The method is not compiled: --compile on fuses what lies between matrix products."))
        free = 1 - facts["memory_gb"] / facts["memory_total_gb"]
        if facts["micro_batch"] < facts["batch_size"] and free > 0.55:
            found.append(
                (0.2, f"{free:.0%} of the GPU's memory is free: a larger --micro-batch than {facts['micro_batch']}.")
            )
    if shares["crop"] >= WORTH:
        found.append(
            (shares["crop"], f"{shares['crop']:.0%} of a step is cutting crops: `maskery pack` makes them small.")
        )
    if shares["draw"] >= 2 * WORTH:
        found.append(
            (
                shares["draw"],
                f"{shares['draw']:.0%} of a step is what the method draws beforehand (strong views, "
                "teachers that see whole images): that is its price, another --method has none or less of it.",
            )
        )
    update = shares["optimiser"] + shares["after_step"]
    if update >= WORTH:
        found.append(
            (update, f"{update:.0%} of a step is the optimiser's: a larger --batch-size shares it among more images.")
        )
    found.sort(key=lambda one: -one[0])
    sentences = [sentence for _, sentence in found]
    if not sentences:
        sentences.append(
            f"Nothing to change: {shares['forward'] + shares['backward']:.0%} of a step is forward and backward, at "
            f"{facts['utilisation']:.0%} of what the device's matrix product reaches."
        )
    return sentences
