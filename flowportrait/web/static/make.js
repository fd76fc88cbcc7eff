"use strict";
const LOOK_MS = 500;
const files = { portrait: "", audio: "" };
const FIELDS = ["portrait", "audio", "consent"];
const STRENGTHS = ["head", "lips", "eyes"];
let settings, job, recorder, watching;

function complain(error) {
  const field = FIELDS.includes(error.field) ? error.field : $(error.field)?.closest(".options") ? "option" : "form";
  if (field === "option") {
    $("option-error").closest("details").open = true;
    $(error.field).setAttribute("aria-invalid", "true");
    $(error.field).focus();
  }
  $(`${field}-error`).textContent = error.message;
}

function quiet(...fields) {
  for (const field of fields) $(`${field}-error`).textContent = "";
  for (const input of document.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}

// ----------------------------------------------------------------------------------------------- what goes in

function show(kind, url, name) {
  const view = $(`${kind}-view`);
  if (view.src.startsWith("blob:")) URL.revokeObjectURL(view.src);
  view.src = url;
  view.hidden = false;
  if (kind === "portrait") view.alt = `The portrait: ${name}`;
  $(`${kind}-name`).textContent = name;
}

async function choose(kind, file) {
  if (!file) return;
  quiet(kind, "form");
  files[kind] = "";
  $(`${kind}-name`).textContent = `Sending ${file.name} …`;
  press();
  try {
    if (file.size > settings.limits.max_upload_bytes) throw Object.assign(new Error(`${file.name}: over ${Math.round(settings.limits.max_upload_bytes / 2 ** 20)} MB; give a smaller file`), { field: kind });
    const { id } = await ask(`/api/files/${kind}?name=${encodeURIComponent(file.name)}`, { method: "PUT", body: file });
    files[kind] = id;
    show(kind, URL.createObjectURL(file), file.name);
  } catch (error) {
    $(`${kind}-view`).hidden = true;
    $(`${kind}-name`).textContent = kind === "portrait" ? "No picture yet" : "No recording yet";
    complain(error.field ? error : Object.assign(error, { field: kind }));
  }
}

function useSample(kind, name) {
  quiet(kind, "form");
  files[kind] = name;
  show(kind, `/api/samples/${name}`, `${name} (a sample)`);
  press();
}

function press() {
  for (const button of $("portrait-samples").children) button.setAttribute("aria-pressed", String(button.value === files.portrait));
}

async function record() {
  if (recorder) { recorder.stop(); return; }
  quiet("audio");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch {
    complain(Object.assign(new Error("The browser gives no microphone; allow it, or choose a file."), { field: "audio" }));
    return;
  }
  const parts = [];
  recorder = new MediaRecorder(stream);
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  recorder.addEventListener("stop", () => {
    stream.getTracks().forEach((track) => track.stop());
    const kind = recorder.mimeType;
    recorder = null;
    $("record").textContent = "Record";
    choose("audio", new File(parts, `recording.${kind.includes("mp4") ? "m4a" : "webm"}`, { type: kind }));
  });
  recorder.start();
  $("record").textContent = "Stop";
  setTimeout(() => recorder?.stop(), settings.limits.max_sound_s * 1000);
}

// ------------------------------------------------------------------------------------------------- the video

function wish() {
  const number = (id) => ($(id).value === "" ? null : Number($(id).value));
  return {
    ...files, consent: $("consent").checked, model: $("model").value, evaluations: number("evaluations"),
    guidance: number("guidance") ?? 1, seed: number("seed") ?? 0, crop: $("crop").value,
    size: number("size") ?? "auto", frame: $("frame").value || null,
    ...Object.fromEntries(STRENGTHS.map((name) => [name, number(name)])),
  };
}

function sayStrength(name) {
  const value = Number($(name).value);
  const word = value === 0 ? "still" : value < 1 ? "less" : value === 1 ? "natural" : value < 2 ? "more" : "most";
  document.querySelector(`output[for="${name}"]`).textContent = word;
  $(name).setAttribute("aria-valuetext", word);
}

async function make(event) {
  event.preventDefault();
  quiet(...FIELDS, "form", "option");
  for (const kind of ["portrait", "audio"]) {
    if (!files[kind]) complain(Object.assign(new Error(kind === "portrait" ? "Choose a picture, or a sample." : "Choose a recording, or the sample."), { field: kind }));
  }
  if (!files.portrait || !files.audio) return;
  $("make").disabled = true;
  try {
    const { id } = await ask("/api/jobs", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wish()) });
    if (job) await ask(`/api/jobs/${job}`, { method: "DELETE" }).catch(() => {});
    job = id;
    $("work").hidden = $("going").hidden = false;
    $("made").hidden = true;
    const watched = showGrowing(id);
    $("work").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "nearest" });
    await follow(id, watched);
  } catch (error) {
    complain(error);
  }
  $("make").disabled = false;
}

// The video as it grows, with its sound. Resolves to whether it was shown to its end so.
async function showGrowing(id) {
  clearVideo();
  if (!canWatch()) return false;
  watching = new AbortController();
  return watch($("video"), `/api/jobs/${id}/stream`, watching.signal, () => {
    $("video").hidden = false;
    $("video").play().catch(() => {}); // the browser wants a click on the video first
  });
}

function clearVideo() {
  watching?.abort();
  watching = null;
  $("video").hidden = true;
  $("video").loop = false;
  $("video").removeAttribute("src");
  $("video").load();
}

async function follow(id, watched) {
  while (job === id) {
    const state = await ask(`/api/jobs/${id}`);
    if (state.state === "done") { showVideo(state); takeOver(id, watched); return; }
    if (state.state === "failed" || state.state === "cancelled") {
      $("work").hidden = true;
      job = null;
      clearVideo();
      throw Object.assign(new Error(state.reason || "Cancelled."), { field: state.field });
    }
    showProgress(state);
    await new Promise((done) => setTimeout(done, LOOK_MS));
  }
}

function showProgress(state) {
  const bar = $("bar");
  if (state.frames) bar.value = state.frames / state.num_frames; else bar.removeAttribute("value");
  $("words").textContent = state.state === "queued"
    ? (state.ahead ? `${state.ahead} before yours` : "Next")
    : !state.done ? "Loading the model and listening"
    : state.frames === state.num_frames ? "Finishing the file"
    : `Making it, about ${Math.max(1, Math.round(state.left_s))} s left`;
}

function showVideo(state) {
  $("going").hidden = true;
  $("made").hidden = false;
  $("download").href = `/api/jobs/${state.id}/video?download=1`;
  $("warnings").replaceChildren(...state.warnings.map((text) => element("li", { textContent: text })));
}

// What plays goes on; the finished file, which can be moved about in without a gap, takes over behind its end.
async function takeOver(id, watched) {
  const video = $("video");
  const whole = await watched;
  if (whole && !video.ended) await until(video, "ended");
  if (job !== id) return;
  const seconds = whole ? 0 : video.currentTime;
  video.hidden = false;
  video.loop = true;
  video.src = `/api/jobs/${id}/video`;
  video.currentTime = seconds;
  video.play().catch(() => {});
}

async function remove() {
  const id = job;
  job = null;
  $("work").hidden = true;
  clearVideo();
  if (id) await ask(`/api/jobs/${id}`, { method: "DELETE" }).catch(complain);
}

async function forget() {
  try {
    await ask("/api/files", { method: "DELETE" });
  } catch (error) { complain(error); return; }
  await remove();
  for (const kind of ["portrait", "audio"]) {
    files[kind] = "";
    $(`${kind}-view`).hidden = true;
    $(`${kind}-name`).textContent = "Deleted";
  }
  press();
}

// ---------------------------------------------------------------------------------------------------- begin

async function begin() {
  settings = await ask("/api/settings");
  $("model").append(...settings.models.map((name) => element("option", { value: name, textContent: name, selected: name === "tiny" })));
  $("limits").textContent = `Up to ${settings.limits.max_sound_s} s and ${Math.round(settings.limits.max_upload_bytes / 2 ** 20)} MB.`;
  $("portrait-samples").append(...settings.samples.portrait.map((name, index) => {
    const button = element("button", { type: "button", value: name }, element("img", { src: `/api/samples/${name}`, alt: `Sample ${index + 1}` }));
    button.addEventListener("click", () => useSample("portrait", name));
    return button;
  }));
  press();
  for (const name of STRENGTHS) { sayStrength(name); $(name).addEventListener("input", () => sayStrength(name)); }
  $("audio-sample").addEventListener("click", () => useSample("audio", settings.samples.audio[0]));
  for (const kind of ["portrait", "audio"]) $(kind).addEventListener("change", (event) => { choose(kind, event.target.files[0]); event.target.value = ""; });
  for (const card of document.querySelectorAll(".drop")) {
    card.addEventListener("dragover", (event) => { event.preventDefault(); card.classList.add("over"); });
    card.addEventListener("dragleave", () => card.classList.remove("over"));
    card.addEventListener("drop", (event) => { event.preventDefault(); card.classList.remove("over"); choose(card.dataset.kind, event.dataTransfer.files[0]); });
  }
  $("record").addEventListener("click", record);
  $("form").addEventListener("submit", make);
  $("cancel").addEventListener("click", remove);
  $("delete").addEventListener("click", remove);
  $("forget").addEventListener("click", forget);
}

begin().catch(complain);
