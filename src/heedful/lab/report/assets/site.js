"use strict";
document.documentElement.classList.add("js");

// Charts: each stands in <figure> beside the JSON of its Vega-Lite specification.
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function chartConfig() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const font = style.getPropertyValue("--sans").trim();
  const text = { labelColor: colour("--ink"), titleColor: colour("--ink"), labelFont: font, titleFont: font };
  return {
    background: "transparent",
    font,
    axis: { ...text, gridColor: colour("--line"), domainColor: colour("--soft"), tickColor: colour("--soft"),
      titleFontWeight: 500, labelFontSize: 12, titleFontSize: 12.5 },
    legend: { ...text, labelFontSize: 12, titleFontSize: 12.5, titleFontWeight: 500, labelLimit: 260,
      symbolOpacity: 1 },
    header: { ...text, labelFontSize: 12.5, titleFontSize: 12.5 },
    title: { color: colour("--ink"), font },
    text: { color: colour("--ink") },
    rule: { color: colour("--soft") },
    view: { stroke: colour("--line") },
    range: { category: dark.matches
      ? ["#7db8e8", "#f0a35e", "#6fcfa4", "#e58fb8", "#d8c65c", "#a89be8", "#e8816f", "#7fd3d8", "#b7b2a8",
        "#3f7fb5", "#b86f2e", "#2f9c70", "#b05a86", "#9c8a20", "#7566bb", "#b84f3e", "#3c9ba0", "#84807a"]
      : ["#1f6fa8", "#d1731c", "#1b8a63", "#b3407c", "#9c8400", "#6a55b8", "#c0432f", "#1a8a92", "#77726a",
        "#8fb8de", "#e9b384", "#84cdb1", "#d99abf", "#cdbc5e", "#aaa0d8", "#e39a8f", "#7fc4c9", "#b4b0ab"] },
    mark: { color: colour("--accent") },
  };
}

function drawCharts() {
  for (const place of document.querySelectorAll(".chart")) {
    const spec = JSON.parse(place.parentElement.querySelector("script[type='application/json']").textContent);
    vegaEmbed(place, spec, {
      config: chartConfig(), renderer: "svg",
      actions: { export: true, source: false, compiled: false, editor: false },
    }).catch((error) => { place.textContent = "This chart cannot be drawn: " + error.message; });
  }
}

if (document.querySelector(".chart")) {
  drawCharts();
  dark.addEventListener("change", drawCharts);
}

// The index: every claim is a row; a system is shown while one of its claims is. Those that were not measured are
// unfolded while something is looked for, and their fold is gone if none of them is it.
const filters = document.querySelector(".filters");
if (filters) {
  const [search, room, verdict] = ["search", "room", "verdict"].map((name) => filters.elements[name]);
  const systems = [...document.querySelectorAll("table.index tbody[data-room]")];
  const fold = document.querySelector("details.unmeasured");
  const unfolded = fold !== null && fold.open;
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const system of systems) {
      const about = system.querySelector("tr.system").textContent.toLowerCase();
      let any = false;
      for (const claim of system.querySelectorAll("tr.claim")) {
        const text = about + " " + claim.textContent.toLowerCase();
        const fits = words.every((word) => text.includes(word))
          && (!verdict.value || claim.dataset.verdict === verdict.value);
        claim.hidden = !fits;
        any = any || fits;
      }
      system.hidden = !any || (room.value !== "" && system.dataset.room !== room.value);
      shown += system.hidden ? 0 : 1;
    }
    if (fold) {
      fold.hidden = [...fold.querySelectorAll("tbody[data-room]")].every((system) => system.hidden);
      fold.open = unfolded || words.length > 0 || room.value !== "" || verdict.value !== "";
    }
    filters.querySelector("output").textContent = `${shown} of ${systems.length} systems`;
  };
  filters.addEventListener("input", apply);
  filters.addEventListener("submit", (event) => event.preventDefault());
  apply();
}
