// Where requests went, and who decided it.

import { label } from "./baselines.js";
import { Plot, nth } from "./charts.js";
import { fillTable } from "./dom.js";
import { NONE, count, exactUsd, minutes, seconds, time, usd, words } from "./format.js";

const NO_REQUESTS = "No requests yet: `deltafleet ask \"What is 37 plus 45?\"`";
const byModel = new Plot("routing-models", {
  kind: "bar", format: count, stacked: true, empty: NO_REQUESTS,
});
const alike = new Plot("routing-similarity", {
  kind: "line", format: (value) => value.toFixed(1), scattered: true, empty: NO_REQUESTS,
});
const recent = document.getElementById("recent");

/** The last hour's bars. */
export function showRouting({ bars }) {
  const names = [...new Set(bars.flatMap((one) => Object.keys(one.requests)))].sort();
  const series = names.map((name, place) => ({
    label: name,
    color: nth(place),
    values: bars.map((one) => one.requests[name] ?? 0),
  }));
  const labels = bars.map((one) => minutes(one.at_s));
  const told = names.map((name) => {
    const total = bars.reduce((sum, one) => sum + (one.requests[name] ?? 0), 0);
    return `${name} ${count(total)}`;
  });
  byModel.show(series, labels, `Requests of the last hour by model: ${told.join(", ") || "none"}`);
}

/** The last requests. */
export function showRecent({ recent: rows }) {
  showAlike(rows);
  const baselines = [...new Set(rows.flatMap((one) => Object.keys(one.saved_usd)))].sort();
  fillTable(recent, columns(baselines), rows, (one) => `${one.id} ${one.at_s}`, NO_REQUESTS);
}

function showAlike(rows) {
  const steps = [...new Set(rows.map((one) => step(one)))].sort();
  const series = steps.map((name, place) => {
    const theirs = rows.filter((one) => step(one) === name).reverse();
    return {
      label: `${name} (${count(theirs.length)})`,
      color: nth(place),
      x: theirs.map((one) => one.at_s),
      values: theirs.map((one) => one.similarity),
      texts: theirs.map((one) => `${one.similarity.toFixed(3)} ${one.task || "out of scope"}`),
    };
  });
  alike.show(series, [], `Decisions by step: ${series.map((one) => one.label).join(", ") || "none"}`);
}

const step = (one) => one.decided_by || one.reason;

function columns(baselines) {
  return [
    { title: "time", header: true, cell: (one) => time(one.at_s) },
    { title: "request", cell: (one) => ({ text: one.id.slice(0, 8), className: "code", title: one.id }) },
    { title: "caller", cell: (one) => one.caller || NONE },
    { title: "task", cell: (one) => one.task || NONE },
    { title: "model", cell: (one) => one.model },
    { title: "reason", cell: (one) => words(one.reason) },
    { title: "decided by", cell: (one) => one.decided_by || NONE },
    { title: "similarity", number: true, cell: (one) => one.decided_by ? one.similarity.toFixed(3) : NONE },
    { title: "outcome", cell: (one) => ({ text: one.outcome, className: one.outcome === "answered" ? "" : "bad" }) },
    {
      title: "tokens in, out",
      number: true,
      cell: (one) => `${count(one.prompt_tokens)}, ${count(one.output_tokens)}`,
    },
    { title: "first token", number: true, cell: (one) => seconds(one.first_token_s) },
    { title: "whole", number: true, cell: (one) => seconds(one.total_s) },
    { title: "cost", number: true, cell: (one) => ({ text: usd(one.cost_usd), title: exactUsd(one.cost_usd) }) },
    ...baselines.map((name) => ({
      title: `saved on ${label(name)}`, number: true, cell: (one) => saved(one.saved_usd[name]),
    })),
  ];
}

function saved(amount) {
  if (amount === undefined) return NONE;
  return { text: usd(amount), title: exactUsd(amount), className: Number(amount) < 0 ? "bad" : "" };
}
