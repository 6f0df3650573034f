"use strict";
// The strip of scores is drawn on canvases, one per class, and moves with the video; without a video
// that the browser can play it has a clock of its own.

const byId = (id) => document.getElementById(id);
const { duration, spans, rows, segments } = JSON.parse(byId("data").textContent);
const strip = byId("strip");
const buttons = [...document.querySelectorAll("#events button")];
let video = byId("video");
let position = 0;
let started = null; // of the own clock: when and where it was started

function clock(seconds) {
  const tenths = Math.round(10 * seconds);
  const rest = String((tenths % 600) / 10);
  const [whole, tenth = "0"] = rest.split(".");
  return `${Math.floor(tenths / 600)}:${whole.padStart(2, "0")}.${tenth}`;
}

const isPlaying = () => (video ? !video.paused : started !== null);

function color(row, alpha = 1) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return `hsl(${(row.index * 137.5 + 215) % 360} 65% ${dark ? 65 : 42}% / ${alpha})`;
}

function draw(canvas, row) {
  const scale = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth * scale, canvas.clientHeight * scale];
  [canvas.width, canvas.height] = [width, height];
  const brush = canvas.getContext("2d");
  const x = (seconds) => (seconds / duration) * width;
  const band = 4 * scale;
  brush.fillStyle = color(row, 0.75);
  row.scores.forEach((score, n) => {
    if (score === null) return;
    const [start, end] = spans[n];
    const high = score * (height - band - scale);
    brush.fillRect(x(start), height - high, x(end) - x(start), high);
  });
  brush.fillStyle = color(row);
  for (const one of segments) {
    if (one.index === row.index) brush.fillRect(x(one.start), 0, Math.max(2, x(one.end) - x(one.start)), band);
  }
}

const canvases = rows.map((row) => {
  const line = document.createElement("div");
  line.className = "row";
  const label = document.createElement("bdi");
  [label.className, label.textContent, label.title] = ["label", row.label, row.label];
  const canvas = document.createElement("canvas");
  canvas.setAttribute("aria-hidden", "true");
  line.append(label, canvas);
  strip.append(line);
  return canvas;
});
const head = document.createElement("div");
head.className = "head";
strip.append(head);

function best(seconds) {
  const n = spans.findIndex(([start, end]) => start <= seconds && seconds < end);
  if (n < 0) return "";
  const there = rows.filter((row) => row.scores[n] !== null);
  if (!there.length) return "";
  const top = there.reduce((a, b) => (b.scores[n] > a.scores[n] ? b : a));
  return `${top.label} ${(100 * top.scores[n]).toFixed(1)}%`;
}

function show() {
  const text = clock(position);
  byId("clock").textContent = `${text} / ${clock(duration)}`;
  byId("best").textContent = best(position);
  byId("play").textContent = isPlaying() ? "Pause" : "Play";
  strip.setAttribute("aria-valuemax", duration.toFixed(1));
  strip.setAttribute("aria-valuenow", position.toFixed(1));
  strip.setAttribute("aria-valuetext", `${text} ${best(position)}`);
  for (const one of buttons) {
    const inside = Number(one.dataset.start) <= position && position < Number(one.dataset.end);
    one.setAttribute("aria-current", inside);
  }
  if (!canvases.length) return;
  const [outer, inner] = [strip.getBoundingClientRect(), canvases[0].getBoundingClientRect()];
  head.style.left = `${inner.left - outer.left + (inner.width * position) / duration}px`;
}

function seek(seconds) {
  position = Math.min(duration, Math.max(0, seconds));
  if (started) started = [performance.now(), position];
  if (video) video.currentTime = position;
  show();
}

function toggle() {
  if (video) {
    if (video.paused) video.play().catch(() => {});
    else video.pause();
  } else {
    started = started ? null : [performance.now(), position];
    requestAnimationFrame(tick);
  }
  show();
}

function tick() {
  if (video) position = Math.min(duration, video.currentTime);
  else if (started) position = started[1] + (performance.now() - started[0]) / 1000;
  if (position >= duration) [position, started] = [duration, null];
  show();
  if (isPlaying()) requestAnimationFrame(tick);
}

function nextEvent(direction) {
  const starts = segments.map((one) => one.start).sort((a, b) => a - b);
  if (direction > 0) return starts.find((start) => start > position + 0.05) ?? duration;
  return starts.reverse().find((start) => start < position - 0.05) ?? 0;
}

const KEYS = {
  ArrowLeft: (step) => seek(position - step),
  ArrowRight: (step) => seek(position + step),
  PageUp: () => seek(nextEvent(-1)),
  PageDown: () => seek(nextEvent(1)),
  Home: () => seek(0),
  End: () => seek(duration),
  " ": toggle,
};

strip.addEventListener("keydown", (event) => {
  if (!(event.key in KEYS) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  KEYS[event.key](event.shiftKey ? 10 : 1);
});

function scrub(event) {
  if (!canvases.length) return;
  const box = canvases[0].getBoundingClientRect();
  seek(((event.clientX - box.left) / box.width) * duration);
}

strip.addEventListener("pointerdown", (event) => {
  strip.setPointerCapture(event.pointerId);
  scrub(event);
});
strip.addEventListener("pointermove", (event) => event.buttons && scrub(event));
byId("play").addEventListener("click", toggle);
for (const one of buttons) one.addEventListener("click", () => seek(Number(one.dataset.start)));

if (video) {
  for (const kind of ["play", "pause", "seeked", "timeupdate"]) video.addEventListener(kind, tick);
  video.addEventListener("error", () => {
    byId("message").textContent = "This browser cannot play the video: it is missing, or of a type that browsers do not play. The scores work without it.";
    byId("message").hidden = false;
    video.hidden = true;
    video = null;
    show();
  });
}

function redraw() {
  canvases.forEach((canvas, n) => draw(canvas, rows[n]));
  show();
}

new ResizeObserver(redraw).observe(strip);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
redraw();
