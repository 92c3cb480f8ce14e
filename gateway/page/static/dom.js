// Elements and tables. What the gateway tells becomes text, never markup.

/** An element with properties and children; strings become text. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  Object.assign(made, properties);
  made.append(...children);
  return made;
}

/** Set a text, and leave the page alone where it is that already. */
export function say(element, text, className) {
  if (element.textContent !== text) element.textContent = text;
  if (className !== undefined && element.className !== className) element.className = className;
}

/**
 * Bring a table to `rows`, changing only what is different, so that a selection or a pointer in it
 * stays. columns: [{title, cell(row), number, header, wide}], where cell gives a text, or
 * {text, className, title, share} with a bar of that share (0 to 1). key(row) names a row.
 */
export function fillTable(table, columns, rows, key, empty) {
  fillHead(table, columns);
  const body = table.tBodies[0];
  if (!rows.length) {
    showEmpty(body, columns.length, empty);
    return;
  }
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  rows.forEach((row, place) => {
    const name = String(key(row));
    const line = known.get(name) ?? newRow(columns, name);
    known.delete(name);
    if (body.rows[place] !== line) body.insertBefore(line, body.rows[place] ?? null);
    columns.forEach((column, i) => fillCell(line.cells[i], column, column.cell(row)));
  });
  for (const gone of known.values()) gone.remove();
}

function fillHead(table, columns) {
  const titles = columns.map((one) => one.title).join("\n");
  if (table.dataset.titles === titles) return;
  table.dataset.titles = titles;
  const cells = columns.map((one) =>
    el("th", { scope: "col", className: one.number ? "number" : "", textContent: one.title }),
  );
  table.tHead.replaceChildren(el("tr", {}, ...cells));
  table.tBodies[0].replaceChildren();
}

function newRow(columns, name) {
  const cells = columns.map((one) => {
    const cell = el(one.header ? "th" : "td");
    if (one.header) cell.scope = "row";
    return cell;
  });
  const row = el("tr", {}, ...cells);
  row.dataset.key = name;
  return row;
}

function fillCell(cell, column, content) {
  const { text, className = "", title = "", share } =
    typeof content === "object" ? content : { text: content };
  const kind = [column.number && "number", column.wide && "wide", className];
  const place = share === undefined ? cell : barText(cell, share);
  say(place, text);
  const names = kind.filter(Boolean).join(" ");
  if (cell.className !== names) cell.className = names;
  if (cell.title !== title) cell.title = title;
}

function barText(cell, share) {
  if (!cell.querySelector(".bar")) {
    const track = el("i", { ariaHidden: "true" }, el("i"));
    cell.replaceChildren(el("div", { className: "bar" }, track, el("span")));
  }
  const width = `${(100 * Math.min(1, Math.max(0, share))).toFixed(1)}%`;
  const filled = cell.querySelector("i > i");
  if (filled.style.width !== width) filled.style.width = width;
  return cell.querySelector("span");
}

function showEmpty(body, width, text) {
  const told = body.querySelector(".empty");
  if (told) return;
  const cell = el("td", { colSpan: width, className: "empty" }, ...withCode(text));
  body.replaceChildren(el("tr", {}, cell));
}

/** A text of ours as nodes; what stands between backticks is code. */
export function withCode(text) {
  return text.split("`").map((part, i) => (i % 2 ? el("code", { textContent: part }) : part));
}
