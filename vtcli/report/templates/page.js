"use strict";
// Sorting and filtering of the class tables, and the large confusion matrices. Every number is in
// the page without this script. The state is kept in the address:
// #sort=name&order=descending&filter=dog

const SORTS = ["name", "accuracy", "n"];

function readState() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  return {
    sort: SORTS.includes(wanted.get("sort")) ? wanted.get("sort") : "accuracy",
    order: wanted.get("order") === "descending" ? "descending" : "ascending",
    filter: wanted.get("filter") || "",
  };
}

function writeState(state) {
  history.replaceState(null, "", "#" + new URLSearchParams(state));
}

function sortKey(row, sort) {
  if (sort === "name") return row.cells[0].textContent;
  return row.dataset[sort] === "" ? null : Number(row.dataset[sort]);
}

// Classes without samples have no accuracy: they are last in either order.
function compareRows(a, b, state) {
  const [x, y] = [sortKey(a, state.sort), sortKey(b, state.sort)];
  if (x === null || y === null) return (x === null) - (y === null);
  const forward = typeof x === "string" ? x.localeCompare(y) : x - y;
  return state.order === "descending" ? -forward : forward;
}

// A row names its class and the one it is most often confused with.
function namesInclude(row, words) {
  const names = [...row.querySelectorAll("bdi")];
  return names.some((name) => name.textContent.toLocaleLowerCase().includes(words));
}

function showClasses(part, state) {
  const body = part.querySelector("tbody");
  const rows = [...body.rows].sort((a, b) => compareRows(a, b, state));
  for (const row of rows) row.hidden = !namesInclude(row, state.filter.toLocaleLowerCase());
  body.append(...rows);
  for (const head of part.querySelectorAll("th[data-sort]")) {
    const chosen = head.dataset.sort === state.sort;
    head.setAttribute("aria-sort", chosen ? state.order : "none");
  }
  part.querySelector("input").value = state.filter;
  const shown = rows.filter((row) => !row.hidden).length;
  part.querySelector("output").textContent = `${shown} of ${rows.length} classes`;
}

function startClasses() {
  const parts = [...document.querySelectorAll(".class-part")];
  let state = readState();
  const show = () => parts.forEach((part) => showClasses(part, state));
  const change = (changes) => {
    state = { ...state, ...changes };
    writeState(state);
    show();
  };
  for (const part of parts) {
    part.querySelector("input").addEventListener("input", (event) => {
      change({ filter: event.target.value });
    });
    for (const head of part.querySelectorAll("th[data-sort]")) {
      head.querySelector("button").addEventListener("click", () => {
        const sort = head.dataset.sort;
        const again = sort === state.sort && state.order === "ascending";
        change({ sort, order: again ? "descending" : "ascending" });
      });
    }
  }
  addEventListener("hashchange", () => {
    if (location.hash.includes("=")) {
      state = readState();
      show();
    }
  });
  show();
}

const LENS = 21; // cells across the enlarged part

// Calls paint(target, predicted, color) for each cell. Correct and wrong predictions have two hues,
// stronger with a larger fraction of the row.
function paintCells(cells, n, paint) {
  const style = getComputedStyle(document.documentElement);
  const [correct, wrong] = ["--correct", "--wrong"].map((name) => style.getPropertyValue(name));
  for (const [target, predicted, count] of cells) {
    const strength = 0.2 + 0.8 * Math.sqrt(count / n[target]);
    paint(target, predicted, `rgb(${target === predicted ? correct : wrong} / ${strength})`);
  }
}

function startMatrix(part) {
  const data = JSON.parse(part.querySelector("script").textContent);
  const size = data.classes.length;
  const counts = new Map(data.cells.map(([t, p, n]) => [t * size + p, n]));
  const big = part.querySelector(".big");
  const lens = part.querySelector(".lens");
  const frame = part.querySelector(".over");
  const fields = Object.fromEntries(
    ["target", "predicted", "count"].map((name) => [name, part.querySelector(`[data-is=${name}]`)]),
  );
  let at = data.start;

  // With many classes a cell is drawn larger than its place, so that it can be seen.
  function draw() {
    big.width = big.height = big.clientWidth * devicePixelRatio;
    const pen = big.getContext("2d");
    const step = big.width / size;
    const side = Math.max(step, 2.5 * devicePixelRatio);
    paintCells(data.cells, data.n, (target, predicted, color) => {
      pen.fillStyle = color;
      pen.fillRect((predicted + 0.5) * step - side / 2, (target + 0.5) * step - side / 2, side, side);
    });
    point();
  }

  function drawLens() {
    const pen = lens.getContext("2d");
    const step = lens.width / LENS;
    const corner = at.map((index) => index - (LENS - 1) / 2);
    const near = data.cells.filter(
      ([target, predicted]) =>
        Math.abs(target - at[0]) < LENS / 2 && Math.abs(predicted - at[1]) < LENS / 2,
    );
    pen.clearRect(0, 0, lens.width, lens.height);
    paintCells(near, data.n, (target, predicted, color) => {
      pen.fillStyle = color;
      pen.fillRect((predicted - corner[1]) * step, (target - corner[0]) * step, step - 1, step - 1);
    });
    pen.strokeStyle = getComputedStyle(big).color;
    pen.strokeRect(((LENS - 1) / 2) * step - 1, ((LENS - 1) / 2) * step - 1, step + 1, step + 1);
  }

  function point() {
    const [target, predicted] = at;
    const count = counts.get(target * size + predicted) || 0;
    const of = data.n[target];
    fields.target.textContent = data.classes[target];
    fields.predicted.textContent = data.classes[predicted];
    const percent = of ? ` (${((100 * count) / of).toFixed(1)}%)` : "";
    fields.count.textContent = `${count} of ${of}${percent}`;
    const step = big.clientWidth / size;
    const reach = Math.max(step, 7);
    Object.assign(frame.style, {
      display: "block",
      width: `${reach}px`,
      height: `${reach}px`,
      left: `${big.offsetLeft + big.clientLeft + (predicted + 0.5) * step - reach / 2}px`,
      top: `${big.offsetTop + big.clientTop + (target + 0.5) * step - reach / 2}px`,
    });
    drawLens();
  }

  function moveTo(target, predicted) {
    const inside = (value) => Math.min(size - 1, Math.max(0, value));
    at = [inside(target), inside(predicted)];
    point();
  }

  for (const kind of ["pointermove", "pointerdown"]) {
    big.addEventListener(kind, (event) => {
      const step = big.clientWidth / size;
      moveTo(Math.floor(event.offsetY / step), Math.floor(event.offsetX / step));
    });
  }
  for (const button of part.querySelectorAll("[data-cell]")) {
    button.addEventListener("click", () => moveTo(...button.dataset.cell.split(" ").map(Number)));
  }
  // A class's row, at what it is most often predicted as besides itself.
  part.querySelector(".goto").addEventListener("input", (event) => {
    const target = data.classes.indexOf(event.target.value);
    if (target < 0) return;
    const wrong = data.cells.filter(([t, p]) => t === target && p !== target);
    const [, predicted] = wrong.sort((a, b) => b[2] - a[2])[0] || [target, target];
    moveTo(target, predicted);
  });
  big.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const far = event.shiftKey ? 10 : 1;
    moveTo(at[0] + far * step[0], at[1] + far * step[1]);
  });
  new ResizeObserver(draw).observe(big);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", draw);
  draw();
}

// Folded lists are unfolded before the page is printed.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});

startClasses();
document.querySelectorAll(".matrix-part").forEach(startMatrix);
