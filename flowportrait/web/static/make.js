"use strict";
const LOOK_MS = 500;
const files = { portrait: "", audio: "" };
const FIELDS = ["portrait", "audio", "consent"];
let settings, job, recorder;

function complain(error) {
  const field = FIELDS.includes(error.field) ? error.field : $(error.field)?.closest(".options") ? "option" : "form";
  if (field === "option") $("option-error").closest("details").open = true;
  $(`${field}-error`).textContent = error.message;
}

function quiet(...fields) {
  for (const field of fields) $(`${field}-error`).textContent = "";
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
  };
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
    $("work").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "nearest" });
    await follow(id);
  } catch (error) {
    complain(error);
  }
  $("make").disabled = false;
}

async function follow(id) {
  while (job === id) {
    const state = await ask(`/api/jobs/${id}`);
    if (state.state === "done") { showVideo(id, state); return; }
    if (state.state === "failed" || state.state === "cancelled") {
      $("work").hidden = true;
      job = null;
      throw Object.assign(new Error(state.reason || "Cancelled."), { field: state.field });
    }
    showProgress(state);
    await new Promise((done) => setTimeout(done, LOOK_MS));
  }
}

function showProgress(state) {
  const bar = $("bar");
  if (state.done) bar.value = state.done / state.total; else bar.removeAttribute("value");
  $("words").textContent = state.state === "queued"
    ? (state.ahead ? `${state.ahead} before yours` : "Next")
    : !state.done ? "Loading the model and listening"
    : state.done === state.total ? "Writing the video"
    : `Making it, about ${Math.max(1, Math.round(state.left_s))} s left`;
}

function showVideo(id, state) {
  $("going").hidden = true;
  $("made").hidden = false;
  $("video").src = `/api/jobs/${id}/video`;
  $("download").href = `/api/jobs/${id}/video?download=1`;
  $("warnings").replaceChildren(...state.warnings.map((text) => element("li", { textContent: text })));
}

async function remove() {
  const id = job;
  job = null;
  $("work").hidden = true;
  $("video").removeAttribute("src");
  $("video").load();
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
