"""What a profile shows: a table, and a sentence for everything that can be changed."""

from typing import Any

SIGNIFICANT = 0.1  # fraction of a step that deserves a sentence
Finding = tuple[float, str]  # (fraction of a step, sentence)


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
    """One sentence for everything that costs time and can be changed, the most expensive first; never empty."""
    ranked = [*_data(facts), *(_gpu(facts) if device == "cuda" else ()), *_parts(facts)]
    ranked.sort(key=lambda finding: -finding[0])
    shares = facts["shares"]
    return [sentence for _, sentence in ranked] or [
        f"Nothing to change: {shares['forward'] + shares['backward']:.0%} of a step is forward and backward, at "
        f"{facts['utilisation']:.0%} of what the device's matrix product reaches."
    ]


def _data(facts: dict[str, Any]) -> list[Finding]:
    """Waiting for images: more loader processes, or images that are cheaper to read."""
    wait, per_worker = facts["shares"]["data wait"], facts["images_per_second_per_worker"]
    if wait < SIGNIFICANT:
        return []
    workers, cores = facts["workers"], facts["cores"]
    step_rate = facts["images_per_second"] / max(1 - wait, 1e-3)  # of the step without waiting
    sentence = f"{wait:.0%} of a step is waiting for images: one loader process makes {per_worker:,.0f} a second"
    needed = min(cores, -(-int(step_rate) // max(int(per_worker), 1)))  # loader processes
    cheaper = "" if facts["kept_in_memory"] or facts["packed"] else "`maskery pack` makes images cheaper to read"
    if not workers:
        sentence += f", and none runs during a step: --images.workers {max(1, needed)}"
        sentence += f", or {cheaper}" if cheaper else ""
    elif per_worker * workers < step_rate:
        sentence += f", {workers} of them are not enough for the {step_rate:,.0f} the step could take"
        more = [f"--images.workers {needed}"] if needed > workers else []
        sentence += ": " + ", or ".join([*more, cheaper] if cheaper else more or ["more cores would help"])
    else:
        sentence += f", so {workers} would be enough if they had cores of their own ({cores} are shared with the step)"
        sentence += f": {cheaper}" if cheaper else ""
    return [(wait, sentence + ".")]


def _gpu(facts: dict[str, Any]) -> list[Finding]:
    """Precision, compilation and free memory."""
    ranked: list[Finding] = []
    if facts["precision"] == "float32" and facts["bf16"]:
        ranked.append((0.6, "Matrix products are in float32, and this GPU has bf16: --precision bf16."))
    if facts["compile"] == "off":
        ranked.append((0.3, "The method is not compiled: --compile on fuses what lies between matrix products."))
    free = 1 - facts["memory_gb"] / facts["memory_total_gb"]
    if facts["micro_batch"] < facts["batch_size"] and free > 0.55:
        more = f"a larger --micro-batch than {facts['micro_batch']}"
        ranked.append((0.2, f"{free:.0%} of the GPU's memory is free: {more}."))
    return ranked


def _parts(facts: dict[str, Any]) -> list[Finding]:
    """Cropping, random choices and the optimiser."""
    shares, ranked = facts["shares"], list[Finding]()
    crop, draw, update = shares["crop"], shares["draw"], shares["optimiser"] + shares["after_step"]
    if crop >= SIGNIFICANT:
        ranked.append((crop, f"{crop:.0%} of a step is cutting crops: `maskery pack` makes them small."))
    if draw >= 2 * SIGNIFICANT:
        sentence = (
            f"{draw:.0%} of a step is what the method draws beforehand (strong views, teachers that see whole images): "
            "that is its price, another --method has none or less of it."
        )
        ranked.append((draw, sentence))
    if update >= SIGNIFICANT:
        sentence = f"{update:.0%} of a step is the optimiser's: a larger --batch-size shares it among more images."
        ranked.append((update, sentence))
    return ranked
