// The page of `vt serve`: a video or the webcam in, the top classes and the timeline out.
"use strict";

const byId = (id) => document.getElementById(id);
const player = byId("player");
let run = 0; // of the newest video; what an older one still receives is dropped
let result = null;
let segments = [];
let camera = null;

function say(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

async function call(path, options = {}) {
  const key = byId("key").value;
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  if (response.status === 401) byId("key-field").hidden = false;
  let message = `the server answered ${response.status}`;
  try { message = (await response.json()).error.message; } catch { /* not our JSON */ }
  throw new Error(message);
}

async function loadModels() {
  const { models } = await (await call("/v1/models")).json();
  byId("model").replaceChildren(...models.map((model) => new Option(model.id, model.id)));
  say("");
}

function form(blob, name, options) {
  const data = new FormData();
  for (const [field, value] of Object.entries({ model: byId("model").value, ...options })) {
    if (value) data.append(field, value);
  }
  data.append("file", blob, name);
  return { method: "POST", body: data };
}

// --- results ----------------------------------------------------------------------------------

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const percent = (score) => `${(100 * score).toFixed(1)} %`;

function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds - 60 * minutes).toFixed(1).padStart(4, "0")}`;
}

function showTop(predictions) {
  byId("top").replaceChildren(...predictions.slice(0, 5).map((one) => {
    const row = element("li");
    const bar = element("meter");
    bar.value = one.score;
    bar.setAttribute("aria-hidden", "true");
    row.append(element("span", one.label), element("span", percent(one.score), "number"), bar);
    return row;
  }));
}

// Neighboring windows of one class, until the server has merged all of them.
function merge(windows) {
  const merged = [];
  for (const { start, end, predictions: [best] } of windows) {
    const last = merged[merged.length - 1];
    if (last && last.index === best.index) {
      last.end = end;
      last.sum += best.score;
      last.windows += 1;
    } else {
      merged.push({ start, end, index: best.index, label: best.label, sum: best.score, windows: 1 });
    }
  }
  return merged.map((one) => ({ ...one, score: one.sum / one.windows }));
}

function jump(segment) {
  if (camera) return; // what the webcam showed is gone
  player.currentTime = segment.start + 0.001;
  player.focus();
}

function showSegments(shown, duration) {
  segments = shown;
  byId("strip").replaceChildren(...shown.map((one) => {
    const part = element("button", one.label, `c${one.index % 8}`);
    part.type = "button";
    part.title = `${one.label}, ${clock(one.start)} to ${clock(one.end)}`;
    part.setAttribute("aria-label", part.title);
    part.style.left = `${(100 * one.start) / duration}%`;
    part.style.width = `${(100 * (one.end - one.start)) / duration}%`;
    part.addEventListener("click", () => jump(one));
    return part;
  }));
  byId("segments").replaceChildren(...shown.map((one) => {
    const button = element("button");
    button.type = "button";
    button.append(
      element("span", `${clock(one.start)} – ${clock(one.end)}`, "number"),
      element("span", one.label),
      element("span", percent(one.score), "number"),
    );
    button.addEventListener("click", () => jump(one));
    const row = element("li");
    row.append(button);
    return row;
  }));
}

function clear() {
  result = null;
  byId("top").replaceChildren();
  showSegments([], 1);
  byId("progress").value = 0;
  byId("json").disabled = byId("srt").disabled = true;
  byId("results").hidden = false;
}

// --- a file -----------------------------------------------------------------------------------

// The events of a response as they come: [kind, data].
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const kind = part.match(/^event: (.*)$/m);
      const data = part.match(/^data: (.*)$/m);
      if (kind && data) yield [kind[1], JSON.parse(data[1])];
    }
  }
}

async function followTimeline(mine, file) {
  const window = byId("window").value;
  const job = await (await call("/v1/timeline", form(file, file.name, { window }))).json();
  const windows = [];
  for await (const [kind, data] of eventsOf(await call(job.events))) {
    if (mine !== run) return;
    if (kind === "failed") throw new Error(data.error.message);
    if (kind === "windows") {
      windows.push(...data.windows);
      byId("progress").value = windows.length / data.total;
      const last = windows[windows.length - 1].end;
      showSegments(merge(windows), Number.isFinite(player.duration) ? player.duration : last);
    } else if (kind === "done") {
      result = { ...data, id: job.id };
      showSegments(data.segments, data.duration);
      byId("progress").value = 1;
      byId("json").disabled = byId("srt").disabled = false;
    }
  }
}

async function open(file) {
  stopCamera();
  const mine = ++run;
  clear();
  URL.revokeObjectURL(player.src);
  player.srcObject = null;
  player.src = URL.createObjectURL(file);
  say(`${file.name}: uploading and classifying`);
  try {
    const prediction = await (await call("/v1/predict", form(file, file.name))).json();
    if (mine !== run) return;
    showTop(prediction.predictions);
    await followTimeline(mine, file);
    if (mine === run) say(`${file.name}: ${result.segments.length} segments`);
  } catch (error) {
    if (mine === run) say(error.message, true);
  }
}

function save(blob, name) {
  const link = element("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function download(format) {
  const name = `${result.path.replace(/\.[^.]*$/, "")}.${format}`;
  try {
    save(await (await call(`/v1/timeline/${result.id}?format=${format}`)).blob(), name);
  } catch (error) {
    say(error.message, true);
  }
}

// --- the webcam -------------------------------------------------------------------------------

const CLIP_MILLISECONDS = 2000;
const MOST_CLIPS = 900; // in the timeline

function record(stream) {
  return new Promise((resolve, reject) => {
    const recorder = new MediaRecorder(stream);
    const parts = [];
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onerror = () => reject(new Error("the browser cannot record the webcam"));
    recorder.onstop = () => resolve(new Blob(parts, { type: recorder.mimeType }));
    recorder.start();
    setTimeout(() => recorder.state !== "inactive" && recorder.stop(), CLIP_MILLISECONDS);
  });
}

function stopCamera() {
  if (!camera) return;
  for (const track of camera.getTracks()) track.stop();
  camera = null;
  run += 1;
  player.srcObject = null;
  byId("webcam").setAttribute("aria-pressed", "false");
  byId("webcam").textContent = "Use the webcam";
  say("");
}

async function startCamera() {
  if (!navigator.mediaDevices) {
    say("the browser gives the webcam to pages of localhost and https only", true);
    return;
  }
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: true, audio: false });
  } catch (error) {
    say(`the webcam cannot be used: ${error.message}`, true);
    return;
  }
  const mine = ++run;
  clear();
  player.removeAttribute("src");
  player.srcObject = camera;
  player.play();
  byId("webcam").setAttribute("aria-pressed", "true");
  byId("webcam").textContent = "Stop the webcam";
  say("webcam: two seconds at a time are classified");
  const windows = [];
  const began = performance.now();
  const seconds = () => (performance.now() - began) / 1000;
  while (mine === run) {
    try {
      const start = seconds();
      const clip = await record(camera);
      if (mine !== run) return;
      const end = seconds();
      const { predictions } = await (await call("/v1/predict", form(clip, "webcam.webm"))).json();
      if (mine !== run) return;
      showTop(predictions);
      windows.push({ start, end, predictions });
      if (windows.length > MOST_CLIPS) windows.shift();
      showSegments(merge(windows), end);
    } catch (error) {
      if (mine !== run) return;
      stopCamera();
      say(error.message, true);
    }
  }
}

// --- events -----------------------------------------------------------------------------------

byId("form").addEventListener("submit", (event) => event.preventDefault());
byId("file").addEventListener("change", (event) => {
  if (event.target.files[0]) open(event.target.files[0]);
  event.target.value = "";
});
byId("webcam").addEventListener("click", () => (camera ? stopCamera() : startCamera()));
byId("key").addEventListener("change", () => loadModels().catch((error) => say(error.message, true)));
byId("json").addEventListener("click", () => download("json"));
byId("srt").addEventListener("click", () => download("srt"));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
}
loadModels().catch((error) => say(error.message, true));
