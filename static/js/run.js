// A run's page, live. The server rendered everything as the database had it, and the position of the
// live log at that moment; the socket goes on from there. Figures go straight into the charts (one
// value per step, so a repeated event changes nothing); for all else the page's own sections are
// fetched again, so what is shown is always what a reload would show.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { announce } from "./site.js";

const page = document.getElementById("run-script").dataset;
const HEIGHT = 200;
const SMOOTHING = 0.9;
const WHOLE_STEPS = Array.from({ length: 24 }, (_, i) => [1, 2, 5][i % 3] * 10 ** Math.floor(i / 3));
const FRAGMENTS = ["run-head", "run-facts", "run-table", "run-samples", "run-log"];

// -- figures ------------------------------------------------------------------------------------

/** Points of every figure by name, each sorted by step. */
const figures = new Map();
/** How many cases shares are of, by the name of the figure that says so. */
const counts = new Map();
let plan = readPlan(document);

function readPlan(source) {
  const data = JSON.parse(source.getElementById("run-chart-data").textContent);
  for (const [counted] of Object.values(data.counts)) counts.set(counted, counts.get(counted) ?? null);
  for (const [name, points] of Object.entries(data.series)) {
    for (const [step, value] of points) addPoint(name, step, value);
  }
  return data;
}

function addPoint(name, step, value) {
  if (counts.has(name)) {
    counts.set(name, value); // stands beside the shares; no figure of its own
    return;
  }
  if (!figures.has(name)) figures.set(name, { steps: [], values: [] });
  const { steps, values } = figures.get(name);
  let at = steps.length;
  while (at > 0 && steps[at - 1] > step) at--;
  if (at > 0 && steps[at - 1] === step) {
    values[at - 1] = value; // a resumed run repeats steps
  } else {
    steps.splice(at, 0, step);
    values.splice(at, 0, value);
  }
}

/** Exponential moving average, corrected for its start. */
function smooth(values) {
  let average = 0;
  let weight = 0;
  return values.map((value) => {
    average = SMOOTHING * average + (1 - SMOOTHING) * value;
    weight = SMOOTHING * weight + (1 - SMOOTHING);
    return average / weight;
  });
}

function format(value) {
  if (value == null) return "–";
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(4)));
}

// -- charts -------------------------------------------------------------------------------------

const area = document.getElementById("run-charts");
const picker = document.getElementById("run-metrics");
const logScale = document.getElementById("run-log-scale");
/** Charts on the page by figure name: { element, output, plot }. */
const charts = new Map();

function titleOf(name) {
  const title = plan.titles[name] ?? name.replaceAll("_", " ").replace(/^./, (c) => c.toUpperCase());
  const [counted, what] = plan.counts[name] ?? [];
  const count = counts.get(counted);
  return count ? `${title}, of ${count} ${count === 1 ? what.replace(/s$/, "") : what}` : title;
}

function sortedNames() {
  const rank = (name) => (plan.order.indexOf(name) + 1 || plan.order.length + 1);
  return [...figures.keys()].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
}

/** One checkbox per figure; new ones appear as they are first reported. */
function updatePicker() {
  for (const name of sortedNames()) {
    if (picker.querySelector(`[value="${CSS.escape(name)}"]`)) continue;
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: name });
    box.checked = plan.shown.includes(name);
    box.addEventListener("change", () => (box.checked ? openChart(name) : closeChart(name)));
    const label = document.createElement("label");
    label.className = "chip";
    label.append(box, titleOf(name));
    picker.append(label);
    if (box.checked) openChart(name);
  }
  document.getElementById("run-chart-tools").hidden = figures.size === 0;
  document.getElementById("run-no-figures")?.toggleAttribute("hidden", figures.size > 0);
}

function openChart(name) {
  const element = document.createElement("figure");
  element.className = "figure";
  const heading = document.createElement("h3");
  const output = document.createElement("output");
  heading.append(titleOf(name), output);
  const canvas = document.createElement("div");
  canvas.className = "chart";
  canvas.setAttribute("role", "img");
  element.append(heading, canvas);
  const chart = { element, output, canvas, plot: null };
  charts.set(name, chart);
  const after = sortedNames().slice(sortedNames().indexOf(name) + 1).find((other) => charts.has(other));
  area.insertBefore(element, after ? charts.get(after).element : null);
  drawChart(name, chart);
  observer.observe(canvas);
}

function closeChart(name) {
  const chart = charts.get(name);
  observer.unobserve(chart.canvas);
  chart.plot?.destroy();
  chart.element.remove();
  charts.delete(name);
}

function chartData(name) {
  const { steps, values } = figures.get(name);
  // A logarithm needs something above zero to start from.
  const shown = logScale.checked ? values.map((value) => (value > 0 ? value : null)) : values;
  return isSmoothed(name) ? [steps, shown, smooth(values)] : [steps, shown];
}

const isSmoothed = (name) => plan.smoothed.includes(name) && figures.get(name).values.length > 8;

function drawChart(name, chart) {
  const colours = getComputedStyle(chart.element);
  const colour = (variable) => colours.getPropertyValue(variable).trim();
  const smoothed = isSmoothed(name);
  const sparse = figures.get(name).values.length < 40;
  const axis = {
    stroke: colour("--muted"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui, sans-serif",
  };
  const raw = {
    stroke: smoothed ? `color-mix(in srgb, ${colour("--stage")} 35%, ${colour("--paper")})` : colour("--stage"),
    width: smoothed ? 1 : 2,
    spanGaps: true,
    points: { show: sparse && !smoothed, size: 5, fill: colour("--stage") },
  };
  const bold = { stroke: colour("--stage"), width: 2, points: { show: false } };
  chart.plot?.destroy();
  chart.smoothed = smoothed;
  chart.sparse = sparse;
  chart.plot = new uPlot(
    {
      width: chart.canvas.clientWidth || 320,
      height: HEIGHT,
      legend: { show: false },
      cursor: { points: { size: 6 }, y: false },
      scales: {
        x: { time: false },
        y: logScale.checked ? { distr: 3 } : { range: (plot, low, high) => clippedRange(plot, low, high) },
      },
      axes: [{ ...axis, size: 28, incrs: WHOLE_STEPS }, { ...axis, size: 56, values: (plot, ticks) => ticks.map((tick) => (tick == null ? "" : format(tick))) }],
      series: [{}, raw, ...(smoothed ? [bold] : [])],
      hooks: { setCursor: [() => showValue(name, chart)] },
    },
    chartData(name),
    chart.canvas,
  );
  showValue(name, chart);
}

/** The scale leaves out the one or two wildest points in a hundred, but never part of the bold line. */
function clippedRange(plot, low, high) {
  if (low == null) return [0, 1];
  const sorted = plot.data[1].filter((value) => value != null).sort((a, b) => a - b);
  if (sorted.length >= 50) {
    const bold = plot.data[2] ?? [];
    low = Math.min(sorted[Math.floor(sorted.length * 0.01)], ...bold);
    high = Math.max(sorted[Math.ceil(sorted.length * 0.99) - 1], ...bold);
  }
  const margin = (high - low || Math.abs(high) || 1) * 0.05;
  return [low - margin, high + margin];
}

/** The value under the pointer, else the newest one. */
function showValue(name, chart) {
  const [steps, values, bold] = chart.plot.data;
  const at = chart.plot.cursor.idx;
  const index = at ?? steps.length - 1;
  const value = (bold ?? values)[index];
  chart.output.textContent = index < 0 ? "" : `${at == null ? "" : `step ${steps[index]}: `}${format(value)}`;
  if (at == null) chart.canvas.setAttribute("aria-label", `${titleOf(name)} by step, now ${format(value)}.`);
}

const changed = new Set();

/** Redraw what changed, once per frame however many events came. */
function redrawSoon(name) {
  if (changed.size === 0) requestAnimationFrame(redraw);
  changed.add(name);
}

function redraw() {
  updatePicker();
  for (const name of changed) {
    const chart = charts.get(name);
    if (!chart) continue;
    const sparse = figures.get(name).values.length < 40;
    if (chart.smoothed !== isSmoothed(name) || chart.sparse !== sparse) drawChart(name, chart);
    else chart.plot.setData(chartData(name));
    showValue(name, chart);
  }
  changed.clear();
}

const redrawAll = () => charts.forEach((chart, name) => drawChart(name, chart));

const observer = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const chart = [...charts.values()].find(({ canvas }) => canvas === target);
    if (chart?.plot && contentRect.width && contentRect.width !== chart.plot.width) {
      chart.plot.setSize({ width: contentRect.width, height: HEIGHT });
    }
  }
});
logScale.addEventListener("change", redrawAll);
document.addEventListener("themechange", redrawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);

// -- progress -----------------------------------------------------------------------------------

let resumedStep = Number(page.resumedStep);
/** Where this page began to count, to tell the pace by its own clock. */
let paceFrom = null;

function showProgress(step, total) {
  const progress = document.getElementById("run-progress");
  if (total) {
    progress.max = total;
    document.getElementById("run-total").textContent = total;
  }
  progress.value = step;
  document.getElementById("run-step").textContent = step;
  const now = performance.now();
  if (paceFrom === null || step < paceFrom.step) paceFrom = { step, now };
  const done = step - paceFrom.step;
  if (done >= 3 && now - paceFrom.now > 2000) {
    const left = ((now - paceFrom.now) / 1000 / done) * (progress.max - step);
    document.getElementById("run-eta").textContent = clock(left);
  }
}

function clock(seconds) {
  const s = Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
}

// -- the sections that are fetched again ----------------------------------------------------------

let refreshTimer = null;

/** Fetch the page again soon, once for any number of events. */
function refreshSoon(delay = 400) {
  refreshTimer ??= setTimeout(async () => {
    refreshTimer = null;
    await refresh().catch(() => refreshSoon(5000)); // the site is away; it will be back
  }, delay);
}

async function refresh() {
  const response = await fetch(location.pathname, { headers: { Accept: "text/html" } });
  if (!response.ok) throw new Error(response.statusText);
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const id of FRAGMENTS) replaceFragment(document.getElementById(id), fresh.getElementById(id));
  plan = readPlan(fresh);
  for (const name of figures.keys()) redrawSoon(name);
}

/** What is open stays open. A summary gets the focus back; around anything else that has it, the change waits. */
function replaceFragment(old, fresh) {
  if (old.dataset.version === fresh.dataset.version) return;
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const key = focused?.matches("summary") ? focused.parentElement.dataset.key : undefined;
  if (focused && key === undefined) {
    old.addEventListener("focusout", () => refreshSoon(), { once: true });
    return;
  }
  const open = new Set([...old.querySelectorAll("details[open][data-key]")].map((element) => element.dataset.key));
  for (const details of fresh.querySelectorAll("details[data-key]")) details.open = open.has(details.dataset.key);
  old.replaceWith(document.adoptNode(fresh));
  if (focused) fresh.querySelector(`[data-key="${CSS.escape(key)}"] > summary`)?.focus({ preventScroll: true });
}

// -- the socket ---------------------------------------------------------------------------------

let position = page.position;
let pause = 1000;
let lastState = page.state;

function listen() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}${page.socket}?after=${encodeURIComponent(position)}`);
  let over = false;
  socket.addEventListener("message", ({ data }) => {
    pause = 1000;
    const event = JSON.parse(data);
    position = event.id ?? position;
    over = event.type === "end";
    receive(event);
  });
  socket.addEventListener("close", ({ code }) => {
    if (over || code === 4404) return;
    // What was missed while away is in the database, even if the live log is gone.
    setTimeout(() => {
      refreshSoon();
      listen();
    }, pause);
    pause = Math.min(pause * 2, 15000);
  });
}

function receive(event) {
  if (event.type === "metrics") {
    for (const [name, value] of Object.entries(event.values)) addPoint(name, event.step, value);
    for (const name of Object.keys(event.values)) if (figures.has(name)) redrawSoon(name);
    showProgress(event.step);
    if (!document.querySelector("#run-table details")) refreshSoon(); // its first rows; more come with every evaluation
  } else if (event.type === "state" || event.type === "end") {
    if (event.resumed_step !== resumedStep) {
      resumedStep = event.resumed_step;
      paceFrom = null;
    }
    if (event.step !== undefined) showProgress(event.step, event.total_steps);
    if (event.state !== lastState) {
      announce(`Run ${event.label}.`);
      lastState = event.state;
      refreshSoon();
    }
  } else {
    if (event.type === "alarm") announce(`Alarm: ${event.text}`);
    refreshSoon();
  }
}

document.querySelector("#run-table details")?.removeAttribute("open"); // it stands in for the charts without scripts
updatePicker();
if (page.active === "1") listen();
