// What was spent, beside what closed APIs would have charged.

import { hearBaselines, label } from "./baselines.js";
import { Plot, nth } from "./charts.js";
import { fillTable, say } from "./dom.js";
import { NONE, count, days, exactUsd, minutes, percent, shortUsd, usd } from "./format.js";

const PARTS = [["load", "loading weights", "load"], ["switch", "switching weights", "c2"],
  ["idle", "idle", "idle"]];
const NO_REQUESTS = "No requests yet: `deltafleet ask \"What is 37 plus 45?\"`";
const hour = new Plot("money-hour", { kind: "line", format: shortUsd, empty: NO_REQUESTS });
const hourParts = new Plot("money-hour-parts", {
  kind: "bar", format: shortUsd, stacked: true, empty: "The first bar is on its way.",
});
const byDay = new Plot("money-days", { kind: "bar", format: shortUsd, empty: NO_REQUESTS });
const dayParts = new Plot("money-day-parts", {
  kind: "bar", format: shortUsd, stacked: true, empty: "The ledger is being read.",
});
const note = document.getElementById("money-note");
const models = document.getElementById("money-models");
const baselines = document.getElementById("money-baselines");

// Ours have the first and the third colour.
const theirColor = (place) => (place ? place + 3 : 1);

/** A series of exact amounts. */
function amounts(name, color, texts, more = {}) {
  return { label: name, color, values: texts.map(Number), texts: texts.map(exactUsd), ...more };
}

/** The last hour, of this gateway. */
export function showMoneyHour(history) {
  const x = history.at_s;
  const ours = [
    amounts("ours, requests", "c1", history.cost_usd, { x }),
    amounts("ours, with idle and loading", "c3", history.effective_usd, { x }),
  ];
  const theirs = Object.entries(history.baselines_usd).map(([name, column], place) =>
    amounts(label(name), nth(theirColor(place)), column, { x, dash: "dashed" }));
  const series = x.length ? [...ours, ...theirs] : [];
  hour.show(series, [], inWords("Last hour", series));
  showParts(hourParts, history.bars, history.bars.map((one) => minutes(one.at_s)), "Last hour");
}

function showParts(plot, rows, labels, name) {
  const parts = rows.flatMap((one) => Object.entries(one.overhead_usd));
  const states = new Set(parts.filter(([, amount]) => Number(amount)).map(([state]) => state));
  const known = PARTS.filter(([state]) => states.has(state));
  const series = [
    amounts("requests", "c1", rows.map((one) => one.cost_usd)),
    ...known.map(([state, what, color]) =>
      amounts(what, color, rows.map((one) => one.overhead_usd[state] ?? "0"))),
  ];
  const shown = rows.length ? series : [];
  plot.show(shown, labels, inWords(`${name}, where it goes`, shown));
}

function inWords(name, series) {
  const ends = series.map((one) => `${one.label} ${usd(one.values.at(-1))}`);
  return ends.length ? `${name}, latest: ${ends.join(", ")}` : `${name}: nothing yet`;
}

/** The whole ledger. */
export function showMoney(state) {
  const { money, ledger_failure: failure } = state;
  if (failure) say(note, `${failure[0].toUpperCase()}${failure.slice(1)} now; below is what it last said.`);
  if (!money) return;
  if (!failure) {
    say(note, "A request costs its share of a worker’s busy seconds; time that is idle or spent on " +
      "weights costs, too. Closed APIs: list prices for the same texts, an estimate.");
  }
  hearBaselines(money.baselines);
  showDays(money);
  showModels(money, state.models);
  showBaselines(money);
}

function showDays({ days: rows, baselines: compared }) {
  const labels = rows.map((one) => one.day);
  const theirs = compared.map(({ name }, place) =>
    amounts(label(name), nth(theirColor(place)), rows.map((one) => one.baselines_usd[name] ?? "0")));
  const series = [
    amounts("ours, requests", "c1", rows.map((one) => one.cost_usd)),
    amounts("ours, with idle and loading", "c3", rows.map((one) => one.effective_usd)),
    ...theirs,
  ];
  const hasRequests = rows.some((one) => one.requests);
  byDay.show(hasRequests ? series : [], labels, inWords("By day", hasRequests ? series : []));
  showParts(dayParts, rows, labels, "By day");
}

function showModels({ models: costs, total, baselines: compared }, all) {
  const names = [...new Set([...all.map((one) => one.name), ...Object.keys(costs)])];
  const rows = names.filter((name) => costs[name]).map((name) => [name, costs[name]]);
  if (rows.length) rows.push(["all", total]);
  const money = (pick) => ([, row]) => {
    const amount = pick(row);
    return { text: usd(amount), title: amount === null ? "" : exactUsd(amount) };
  };
  const columns = [
    { title: "model", header: true, cell: ([name]) => name },
    { title: "requests", number: true, cell: ([, row]) => count(row.requests) },
    { title: "output tokens", number: true, cell: ([, row]) => count(row.output_tokens) },
    { title: "cost", number: true, cell: money((row) => row.cost_usd) },
    { title: "with idle and loading", number: true, cell: money((row) => row.effective_usd) },
    { title: "per million output tokens", number: true, cell: money((row) => row.usd_per_mtok_output) },
    ...compared.flatMap(({ name }) => [
      { title: `saved on ${label(name)}`, number: true, cell: ([, row]) => saved(row.baselines[name]) },
      { title: "pays from", number: true, cell: ([, row]) => paysFrom(row.baselines[name]) },
    ]),
  ];
  fillTable(models, columns, rows, ([name]) => name, NO_REQUESTS);
}

function saved(compared) {
  if (!compared) return NONE;
  const { saved_usd: amount, saved_share: share } = compared;
  return {
    text: usd(amount) + (share === null ? "" : ` (${percent(share)})`),
    className: Number(amount) >= 0 ? "good" : "bad",
    title: `${exactUsd(amount)}; with idle and loading ${exactUsd(compared.effective_saved_usd)}`,
  };
}

function paysFrom(compared) {
  if (compared?.never_breaks_even) return { text: "never", className: "bad" };
  const requests = compared?.break_even_requests_per_day ?? null;
  return requests === null ? NONE : `${count(requests)}/day`;
}

function showBaselines({ baselines: rows }) {
  const columns = [
    { title: "baseline", header: true, cell: (one) => one.name },
    { title: "price", cell: (one) => one.price },
    { title: "true on", cell: (one) => one.as_of },
    {
      title: "age",
      cell: (one) => one.is_stale
        ? { text: `${days(one.age_days)}, STALE`, className: "warn" }
        : days(one.age_days),
    },
    { title: "source", wide: true, cell: (one) => one.source },
  ];
  fillTable(baselines, columns, rows, (one) => one.name,
    "Nothing to compare with: name `baselines` in fleet.yaml.");
}
