// The page: its charts, the toolbar above them, the samples' slider, the recipe's switch, the colours.

const { charts, clocks } = JSON.parse(document.getElementById("data").textContent);
const view = { axis: "step", weight: 0, log: false, zoom: null };
const byId = (id) => document.getElementById(id);

function onZoom(zoom) {
  view.zoom = zoom;
  byId("unzoom").disabled = zoom === null;
  redraw();
}

const drawn = [...document.querySelectorAll(".chart")].map(
  (box) => new Chart(box, charts[Number(box.dataset.chart)], clocks, view, onZoom),
);

function redraw() {
  for (const chart of drawn) chart.draw();
}

let asked = false; // a slider moves more often than a screen shows
function redrawSoon() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    redraw();
  });
}

function toolbar() {
  const timed = clocks.every((clock) => clock !== null);
  for (const button of document.querySelectorAll("[data-axis]")) {
    if (button.dataset.axis === "time" && !timed) {
      button.disabled = true;
      button.title = "no times were recorded: add the section `timing: {}` to the recipe";
    }
    button.addEventListener("click", () => {
      for (const other of document.querySelectorAll("[data-axis]")) other.setAttribute("aria-pressed", String(other === button));
      view.axis = button.dataset.axis;
      onZoom(null);
    });
  }
  byId("smooth").addEventListener("input", (event) => {
    view.weight = Number(event.target.value);
    byId("smoothed").textContent = event.target.value;
    redrawSoon();
  });
  byId("log").addEventListener("change", (event) => { view.log = event.target.checked; redraw(); });
  byId("unzoom").addEventListener("click", () => onZoom(null));
}

function samples(box) {
  const steps = [...box.querySelectorAll(".sampled")];
  const slider = box.querySelector("input"), told = box.querySelector("output");
  const show = () => {
    steps.forEach((step, place) => { step.hidden = place !== Number(slider.value); });
    told.textContent = Number(steps[slider.value].dataset.step).toLocaleString("en");
  };
  Object.assign(slider, { min: 0, max: steps.length - 1, value: steps.length - 1 });
  slider.disabled = steps.length < 2;
  slider.addEventListener("input", show);
  show();
}

function hides(box) {
  const rows = [...box.closest("section").querySelectorAll(`td.${box.dataset.hides}`)].map((cell) => cell.parentElement);
  box.addEventListener("change", () => rows.forEach((row) => { row.hidden = box.checked; }));
}

function colours() {
  const names = ["auto", "light", "dark"], signs = { auto: "◐", light: "○", dark: "●" };
  const shown = { auto: "as the system has them", light: "light", dark: "dark" };
  const remember = (name) => { try { localStorage.setItem("report-colours", name); } catch { /* a browser may forbid it */ } };
  const remembered = () => { try { return localStorage.getItem("report-colours"); } catch { return null; } };
  const set = (name) => {
    document.documentElement.dataset.theme = name;
    byId("theme").textContent = signs[name];
    byId("theme").title = `Colours: ${shown[name]}`;
    byId("theme").setAttribute("aria-label", `Colours: ${shown[name]}`);
  };
  let now = names.includes(remembered()) ? remembered() : "auto";
  set(now);
  byId("theme").addEventListener("click", () => {
    now = names[(names.indexOf(now) + 1) % names.length];
    set(now);
    remember(now);
  });
}

colours();
if (byId("axis")) toolbar();
document.querySelectorAll(".samples").forEach(samples);
document.querySelectorAll("[data-hides]").forEach(hides);
document.documentElement.dataset.drawn = String(drawn.length);
