// Plots, by Chart.js. Colours are the style sheet's, so that both themes have theirs.

import { el, withCode } from "./dom.js";
import { minutes, time } from "./format.js";

const { Chart } = globalThis;
const DASHES = { solid: [], dashed: [6, 3], dotted: [2, 2] };
const DASHED = { pointStyle: "line", pointStyleWidth: 22 };
const DOTS = { pointStyle: "circle", boxHeight: 5 };
const SHORTEST_SPAN_S = { lines: 120, dots: 20 };
const WITH_SECONDS_BELOW_S = 600;
const STEPS_S = [5, 10, 20, 30, 60, 120, 300, 600, 900];
const MOST_STEPS = 6;
const charts = [];

export const color = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** The nth of the colours for things without one of their own. */
export const nth = (place) => (place < 10 ? `c${place + 1}` : "idle");

function paint() {
  Chart.defaults.color = color("muted");
  Chart.defaults.borderColor = color("line");
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  Chart.defaults.font.size = 11;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  paint();
  for (const one of charts) one.repaint();
});
paint();

/**
 * One plot. kind: "line" over time in seconds, or "bar" over named places. format: of values;
 * right: of those on a second axis. stacked: bars upon each other. scattered: points without a line. empty: what to say without data.
 */
export class Plot {
  constructor(id, { kind, format, right = null, stacked = false, scattered = false, empty = "" }) {
    this.canvas = document.getElementById(id);
    this.kind = kind;
    this.scattered = scattered;
    this.formats = { y: format, right };
    this.empty = el("p", { className: "empty", hidden: true }, el("span", {}, ...withCode(empty)));
    this.canvas.after(this.empty);
    this.chart = new Chart(this.canvas, {
      type: kind,
      data: { labels: [], datasets: [] },
      options: options(kind, this.formats, { stacked, scattered }),
    });
    charts.push(this);
  }

  /**
   * series: [{label, color, values, texts, dash, axis, x}]. texts: the exact values, shown to
   * whoever points at one. labels: of a bar plot. told: the plot in words, for screen readers.
   */
  show(series, labels, told) {
    const { chart } = this;
    const old = new Map(chart.data.datasets.map((one) => [one.label, one]));
    chart.data.labels = labels;
    chart.data.datasets = series.map((one) => this.dataset(one, old.get(one.label) ?? {}));
    const isEmpty = !series.some((one) => one.values.some((value) => value !== null));
    this.empty.hidden = !isEmpty;
    this.canvas.hidden = isEmpty;
    this.canvas.ariaLabel = told;
    if (this.kind === "line") this.spanTime(series);
    chart.update("none");
  }

  dataset(series, kept) {
    const made = color(series.color);
    const points =
      this.kind === "line" ? series.values.map((y, i) => ({ x: series.x[i], y })) : series.values;
    return Object.assign(kept, {
      label: series.label,
      ourColor: series.color,
      texts: series.texts,
      data: points,
      yAxisID: series.axis ?? "y",
      borderColor: made,
      backgroundColor: made,
      borderDash: DASHES[series.dash ?? "solid"],
      borderWidth: this.kind === "line" ? 1.75 : 0,
      pointRadius: points.length > 1 && !this.scattered ? 0 : 2.5,
      pointHitRadius: 6,
      maxBarThickness: 42,
      showLine: !this.scattered,
    });
  }

  spanTime(series) {
    const times = series.flatMap((one) => [one.x[0], one.x.at(-1)]).filter((one) => one);
    if (!times.length) return;
    const last = Math.max(...times);
    const first = Math.min(...times, last - SHORTEST_SPAN_S[this.scattered ? "dots" : "lines"]);
    const step = STEPS_S.find((one) => (last - first) / one <= MOST_STEPS) ?? STEPS_S.at(-1);
    Object.assign(this.chart.options.scales.x, { min: Math.floor(first / step) * step, max: last });
    this.chart.options.scales.x.ticks.stepSize = step;
  }

  repaint() {
    for (const one of this.chart.data.datasets) {
      one.borderColor = one.backgroundColor = color(one.ourColor);
    }
    const { scales, plugins } = this.chart.options;
    for (const one of Object.values(scales)) {
      one.ticks.color = color("muted");
      if (one.grid.display !== false) one.grid.color = color("line");
    }
    plugins.legend.labels.color = color("muted");
    this.chart.update("none");
  }
}

function options(kind, formats, { stacked, scattered }) {
  const isLine = kind === "line";
  const axis = (format, more) => ({
    beginAtZero: true,
    stacked,
    border: { display: false },
    grid: { color: color("line") },
    ticks: { color: color("muted"), maxTicksLimit: 6, callback: (value) => format(value) },
    ...more,
  });
  const scales = {
    x: {
      type: isLine ? "linear" : "category",
      stacked,
      grid: { display: false },
      ticks: {
        color: color("muted"),
        maxRotation: 0,
        autoSkipPadding: 14,
        ...(isLine && { callback: clockTick, includeBounds: false }),
      },
    },
    y: axis(formats.y, {}),
  };
  if (formats.right) {
    scales.right = axis(formats.right, { position: "right", grid: { display: false } });
  }
  return {
    animation: false,
    responsive: true,
    maintainAspectRatio: false,
    normalized: true,
    interaction: { mode: "index", intersect: false },
    scales,
    plugins: {
      legend: {
        position: "bottom",
        labels: {
          color: color("muted"),
          padding: 12,
          ...(isLine
            ? { usePointStyle: true, ...(scattered ? DOTS : DASHED) }
            : { boxWidth: 9, boxHeight: 9 }),
        },
      },
      tooltip: {
        callbacks: {
          title: (items) => (isLine ? time(items[0]?.parsed.x) : items[0]?.label),
          label: (item) => tooltip(item, formats),
        },
      },
    },
  };
}

/** Called as a method of its axis. */
function clockTick(value) {
  return this.max - this.min < WITH_SECONDS_BELOW_S ? time(value) : minutes(value);
}

function tooltip({ dataset, dataIndex, parsed }, formats) {
  const format = formats[dataset.yAxisID] ?? formats.y;
  return `${dataset.label}: ${dataset.texts?.[dataIndex] ?? format(parsed.y)}`;
}
