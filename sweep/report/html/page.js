"use strict";
(() => {
  const STEP = 50; // rows that one press of "Show more" adds to the table of trials
  const HEADS = {
    abnormal: "class", split_seed: "split seed", auroc: "AUROC", ap: "AP", fpr95: "FPR95",
    train_seconds: "train s", lam: "lambda",
  };
  const TEXT = new Set(["study", "detector", "variant", "setting", "dataset", "protocol", "abnormal", "status", "device", "key"]);
  const OVERVIEW = ["detector", "variant", "setting", "dataset", "protocol", "abnormal", "seed", "status", "epoch",
    "auroc", "ap", "fpr95", "train_seconds", "attempts", "study", "key"];
  const DETAIL = ["abnormal", "seed", "split_seed", "status", "epoch", "auroc", "ap", "fpr95", "train_seconds", "key",
    "lam", "attempts", "device", "revision"];

  const data = JSON.parse(document.getElementById("data").textContent);
  const count = data.line.length;
  const get = (row, name) => {
    const column = data.columns[name];
    return column.values[column.codes[row]];
  };

  const element = (tag, text, parent, className) => {
    const node = document.createElement(tag);
    if (text !== undefined && text !== null) node.textContent = text; // text, never markup: names come from data
    if (className) node.className = className;
    if (parent) parent.append(node);
    return node;
  };

  const shown = (name, value) => {
    if (value === null || value === undefined) return "-";
    if (["auroc", "ap", "fpr95"].includes(name)) return value.toFixed(4);
    if (name === "train_seconds") return value >= 10 ? value.toFixed(0) : value.toPrecision(2);
    return String(value);
  };

  // Empty values come last in both orders; numbers sort by size, names so that "10" follows "9".
  const collator = new Intl.Collator(undefined, { numeric: true });
  const compare = (a, b, sign) => {
    if (a === b) return 0;
    if (a === null || a === undefined || a === "") return 1;
    if (b === null || b === undefined || b === "") return -1;
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b)));
  };

  // Mark the column of a button as sorted and return the sign of the order; a second press reverses the order.
  const toggleSort = (button, first) => {
    const head = button.closest("th");
    const before = head.getAttribute("aria-sort");
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    const order = before === null ? first : before === "ascending" ? "descending" : "ascending";
    head.setAttribute("aria-sort", order);
    return order === "ascending" ? 1 : -1;
  };

  const words = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);

  // -- the boards ---------------------------------------------------------------------------------

  for (const sheet of document.querySelectorAll("[data-sheet]")) {
    const lines = [...sheet.querySelectorAll("tbody tr:not(.heading)")];
    for (const button of sheet.querySelectorAll("[data-sort]")) {
      button.addEventListener("click", () => {
        const at = Number(button.dataset.sort);
        const sign = toggleSort(button, at === 0 ? "ascending" : "descending");
        const value = (line) => {
          const cell = line.children[at];
          if (at === 0) return cell.textContent;
          return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
        };
        for (const body of sheet.querySelectorAll("tbody")) {
          const section = lines.filter((line) => line.parentNode === body); // references stay a separate section
          section.sort((a, b) => compare(value(a), value(b), sign));
          body.append(...section);
        }
      });
    }
    const filter = sheet.querySelector("[data-filter]");
    if (filter) {
      const output = sheet.querySelector("[data-count]");
      filter.addEventListener("input", () => {
        const wanted = words(filter);
        let left = 0;
        for (const line of lines) {
          const name = line.firstElementChild.textContent.toLowerCase();
          line.hidden = !wanted.every((word) => name.includes(word));
          left += line.hidden ? 0 : 1;
        }
        output.textContent = wanted.length ? `${left} of ${lines.length}` : "";
      });
    }
  }

  // -- all trials ---------------------------------------------------------------------------------

  const fill = (body, rows, columns) => {
    const fragment = document.createDocumentFragment();
    for (const row of rows) {
      const line = element("tr", null, fragment);
      for (const [at, name] of columns.entries()) {
        const cell = element(at === 0 ? "th" : "td", shown(name, get(row, name)), line);
        if (at === 0) cell.scope = "row";
        if (TEXT.has(name)) cell.classList.add(name === "key" ? "code" : "text");
      }
    }
    body.append(fragment);
  };

  const table = document.getElementById("trial-table");
  const body = table.tBodies[0];
  const filter = document.getElementById("trial-filter");
  const output = document.getElementById("trial-count");
  const more = document.getElementById("trial-more");
  let order = Array.from({ length: count }, (_, row) => row);
  let left = order;
  let drawn = 0;
  let sorted = null; // [column, sign]
  let haystacks = null; // lower-case text of each row, built when the filter is first used

  const show = () => {
    fill(body, left.slice(drawn, drawn + STEP), OVERVIEW);
    drawn = Math.min(left.length, drawn + STEP);
    more.hidden = drawn >= left.length;
    const total = left.length === count ? "" : ` of ${count.toLocaleString("en")}`;
    output.textContent = `${left.length.toLocaleString("en")}${total} trials, ${drawn.toLocaleString("en")} shown`;
  };

  const refresh = () => {
    const wanted = words(filter);
    if (wanted.length && haystacks === null) {
      haystacks = Array.from({ length: count }, (_, row) =>
        OVERVIEW.map((name) => shown(name, get(row, name))).join(" ").toLowerCase());
    }
    left = wanted.length ? order.filter((row) => wanted.every((word) => haystacks[row].includes(word))) : order;
    drawn = 0;
    body.replaceChildren();
    show();
  };

  const head = element("tr", null, table.tHead);
  for (const name of OVERVIEW) {
    const cell = element("th", null, head, TEXT.has(name) ? "text" : "number");
    cell.scope = "col";
    const button = element("button", HEADS[name] || name.replace("_", " "), cell);
    button.type = "button";
    button.addEventListener("click", () => {
      const sign = toggleSort(button, TEXT.has(name) ? "ascending" : "descending");
      sorted = [name, sign];
      order = Array.from({ length: count }, (_, row) => row);
      order.sort((a, b) => compare(get(a, sorted[0]), get(b, sorted[0]), sorted[1]) || a - b);
      refresh();
    });
  }
  filter.addEventListener("input", refresh);
  more.addEventListener("click", () => {
    const at = drawn;
    show();
    const next = body.rows[at];
    if (next) {
      next.tabIndex = -1; // keyboard focus goes to the first new row
      next.focus({ preventScroll: true });
    }
  });
  refresh();

  // -- the trials behind one number ---------------------------------------------------------------

  const drill = document.getElementById("drill");
  const details = document.getElementById("drill-table");
  const heads = element("tr", null, details.tHead);
  for (const name of DETAIL) element("th", HEADS[name] || name.replace("_", " "), heads, TEXT.has(name) ? "text" : "number").scope = "col";

  // -- learning curves of these trials ------------------------------------------------------------

  const CURVED = 6; // trials whose curves are drawn
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"];
  const [WIDE, HIGH, LEFT, LOW] = [320, 130, 44, 22]; // a panel and its margins, in units of its view box

  const shape = (tag, attributes, parent) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (parent) parent.append(node);
    return node;
  };

  // Draw the named curves against the epoch; `scale` maps a value to the vertical axis.
  const panel = (parent, title, curves, names, scale, format) => {
    const points = names.map((name) =>
      curves.epoch.map((epoch, at) => [epoch, curves[name][at]]).filter(([, value]) => value !== null)
        .map(([epoch, value]) => [epoch, scale(value), value]));
    const all = points.flat();
    if (!all.length) return;
    const figure = element("figure", null, parent, "curve");
    const ends = (at) => [Math.min(...all.map((p) => p[at])), Math.max(...all.map((p) => p[at]))];
    const [first, last] = ends(0);
    const [low, high] = ends(1);
    const [least, most] = ends(2);
    const x = (epoch) => LEFT + (WIDE - LEFT - 8) * (last > first ? (epoch - first) / (last - first) : 0.5);
    const y = (value) => 8 + (HIGH - LOW - 8) * (high > low ? (high - value) / (high - low) : 0.5);
    const svg = shape("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": title }, figure);
    shape("path", { d: `M${LEFT} 8V${HIGH - LOW}H${WIDE - 8}`, class: "axis" }, svg);
    const label = (text, at, down, anchor) => {
      shape("text", { x: at, y: down, "text-anchor": anchor }, svg).textContent = text;
    };
    label(format(most), LEFT - 4, 14, "end");
    label(format(least), LEFT - 4, HIGH - LOW, "end");
    label(`epoch ${first}`, LEFT, HIGH - 6, "start");
    label(last, WIDE - 8, HIGH - 6, "end");
    points.forEach((of, number) => {
      const stroke = COLOURS[number % COLOURS.length];
      shape("polyline", { points: of.map(([e, v]) => `${x(e).toFixed(1)},${y(v).toFixed(1)}`).join(" "), stroke }, svg);
      if (of.length === 1) shape("circle", { cx: x(of[0][0]), cy: y(of[0][1]), r: 3, fill: stroke }, svg);
    });
    const caption = element("figcaption", `${title}: `, figure);
    names.forEach((name, number) => {
      const key = element("span", name.replaceAll("_", " "), caption);
      key.style.color = COLOURS[number % COLOURS.length];
    });
  };

  const drawCurves = (rows) => {
    const box = document.getElementById("drill-curves");
    box.replaceChildren();
    const curved = rows.filter((row) => data.curves[get(row, "key")]);
    for (const row of curved.slice(0, CURVED)) {
      const curves = data.curves[get(row, "key")];
      const names = Object.keys(curves).filter((name) => name !== "epoch");
      element("h3", `Learning curves, ${get(row, "abnormal")} abnormal, seed ${get(row, "seed")}`, box);
      const pair = element("div", null, box, "curves");
      const isAuroc = (name) => name.endsWith("_auroc");
      const log = (value) => Math.log10(Math.max(value, 1e-6));
      panel(pair, "loss, logarithmic", curves, names.filter((name) => !isAuroc(name)), log, (v) => v.toPrecision(3));
      panel(pair, "AUROC", curves, names.filter(isAuroc), (v) => v, (v) => v.toFixed(3));
    }
    if (curved.length > CURVED) element("p", `Curves of the first ${CURVED} of ${curved.length} trials.`, box, "hint");
  };

  const open = (button) => {
    const line = Number(button.dataset.line);
    const wanted = button.dataset.class;
    const rows = order.filter((row) => data.line[row] === line && (wanted === undefined || get(row, "abnormal") === wanted));
    rows.sort((a, b) => a - b);
    if (!rows.length) return;
    const first = rows[0];
    const name = ["detector", "variant", "setting"].map((part) => get(first, part)).filter(Boolean).join(" ");
    const where = `${get(first, "dataset")} ${get(first, "protocol")}`;
    const which = wanted === undefined ? "all classes" : `${wanted} abnormal`;
    document.getElementById("drill-title").textContent = `${name} on ${where}, ${which}`;
    const settings = new Set(rows.map((row) => data.setting[row]));
    const spelled = Object.entries(data.settings[data.setting[first]]).map(([key, value]) => `${key}=${value}`).join(", ");
    document.getElementById("drill-settings").textContent =
      settings.size > 1 ? `${settings.size} settings of hyperparameters; the first: ${spelled}` : spelled;
    details.tBodies[0].replaceChildren();
    fill(details.tBodies[0], rows, DETAIL);
    drawCurves(rows);
    drill.showModal();
  };
  for (const button of document.querySelectorAll("button.cell")) button.addEventListener("click", () => open(button));
})();
