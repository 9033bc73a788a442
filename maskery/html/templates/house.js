"use strict";
// What moves on the page: values under the pointer, strips through time, the map of images, and, live, new numbers.
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

function charts() {
  for (const plot of all(".plot")) {
    const data = JSON.parse(plot.dataset.values), tip = plot.querySelector(".tip"), cursor = plot.querySelector(".cursor");
    let at = data.x.length - 1;
    const show = (i) => {
      at = Math.max(0, Math.min(data.x.length - 1, i));
      const share = data.at[at];
      cursor.style.left = `${100 * share}%`;
      tip.replaceChildren(...[`${data.unit} ${data.x[at]}`, ...data.lines.filter((l) => l.y[at] !== null).map((l) => `${l.label} ${l.y[at]}`)]
        .map((text) => Object.assign(document.createElement("div"), { textContent: text })));
      tip.style.left = share < 0.5 ? `calc(${100 * share}% + .6rem)` : "auto";
      tip.style.right = share < 0.5 ? "auto" : `calc(${100 - 100 * share}% + .6rem)`;
      plot.classList.add("on");
    };
    plot.addEventListener("pointermove", (e) => {
      const box = plot.getBoundingClientRect(), share = (e.clientX - box.left) / box.width;
      let near = 0;
      data.at.forEach((x, i) => { if (Math.abs(x - share) < Math.abs(data.at[near] - share)) near = i; });
      show(near);
    });
    plot.addEventListener("pointerleave", () => plot.classList.remove("on"));
    plot.addEventListener("focus", () => show(at));
    plot.addEventListener("blur", () => plot.classList.remove("on"));
    plot.addEventListener("keydown", (e) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[e.key];
      if (by) { show(at + by); e.preventDefault(); }
    });
  }
}

function strips() {
  for (const box of all(".strip")) {
    const range = box.querySelector("input[type=range]"), shown = all("img", box), out = box.querySelector("output");
    if (!range) continue;
    const show = () => {
      shown.forEach((img, i) => { img.hidden = i !== Number(range.value); });
      out.textContent = shown[range.value].dataset.when;
      range.setAttribute("aria-valuetext", out.textContent);
    };
    range.addEventListener("input", show);
    show();
  }
}

function maps() {
  for (const map of all(".map")) {
    const dots = all(".dot", map), card = map.querySelector(".card"), picture = card.querySelector(".tiny");
    const name = card.querySelector("b"), label = card.querySelector("span");
    let on = null;
    const show = (dot) => {
      if (on) on.classList.remove("on");
      on = dot;
      card.classList.toggle("on", Boolean(dot));
      if (!dot) return;
      dot.classList.add("on");
      for (const p of ["--i", "--j"]) picture.style.setProperty(p, dot.style.getPropertyValue(p));
      name.textContent = dot.dataset.name;
      label.textContent = dot.dataset.label || "";
      const left = dot.offsetLeft, top = dot.offsetTop, right = left > map.clientWidth / 2;
      card.style.left = `${Math.max(4, Math.min(map.clientWidth - card.offsetWidth - 4, right ? left - card.offsetWidth - 14 : left + 26))}px`;
      card.style.top = `${Math.max(4, Math.min(map.clientHeight - card.offsetHeight - 4, top - 40))}px`;
    };
    map.addEventListener("pointerover", (e) => { if (e.target.classList.contains("dot")) show(e.target); });
    map.addEventListener("pointerleave", () => show(null));
    map.addEventListener("click", (e) => { if (e.target.classList.contains("dot")) show(e.target); });
    map.addEventListener("focus", () => show(on || dots[0]));
    map.addEventListener("blur", () => show(null));
    map.addEventListener("keydown", (e) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
      if (e.key === "Escape") show(null);
      if (!way || !on) return;
      e.preventDefault();
      let best = null, least = Infinity;
      for (const dot of dots) {
        const dx = dot.offsetLeft - on.offsetLeft, dy = dot.offsetTop - on.offsetTop;
        const ahead = dx * way[0] + dy * way[1], aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
        if (ahead > 0 && ahead + 2.5 * aside < least) [best, least] = [dot, ahead + 2.5 * aside];
      }
      if (best) show(best);
    });
    for (const input of all(`input[data-for="${map.id}"]`)) {
      const set = () => { if (input.type === "checkbox" || input.checked) map.classList.toggle(input.dataset.sets, input.type === "checkbox" ? input.checked : input.value === "1"); };
      input.addEventListener("change", set);
      set();
    }
    for (const key of all(`.legend[data-for="${map.id}"] li`)) {
      const dim = (yes) => dots.forEach((d) => d.classList.toggle("dim", yes && d.dataset.label !== key.dataset.label));
      key.addEventListener("pointerenter", () => dim(true));
      key.addEventListener("pointerleave", () => dim(false));
    }
  }
}

function begin() { charts(); strips(); maps(); }

function state() {  // what a reader has opened and moved
  return { open: all("details").map((d) => d.open), inputs: all("input").map((i) => [i.value, i.checked]), focus: document.activeElement && document.activeElement.id };
}

async function live(version) {
  for (;;) {
    await new Promise((done) => setTimeout(done, 2000));
    try {
      const now = await (await fetch("/version", { cache: "no-store" })).text();
      if (now === version) continue;
      const page = new DOMParser().parseFromString(await (await fetch("/", { cache: "no-store" })).text(), "text/html");
      const before = state(), at = window.scrollY;
      document.querySelector("main").replaceWith(page.querySelector("main"));
      document.title = page.title;
      all("details").forEach((d, i) => { d.open = before.open[i] ?? d.open; });
      const inputs = all("input");
      if (inputs.length === before.inputs.length) inputs.forEach((x, i) => { if (x.type === "range") { if (x.max !== before.inputs[i][0]) x.value = before.inputs[i][0]; } else x.checked = before.inputs[i][1]; });
      begin();
      window.scrollTo({ top: at, behavior: "instant" });
      if (before.focus) { const again = document.getElementById(before.focus); if (again) again.focus({ preventScroll: true }); }
      version = now;
    } catch { document.body.dataset.lost = "1"; }
  }
}

begin();
if (document.body.dataset.version) live(document.body.dataset.version);
