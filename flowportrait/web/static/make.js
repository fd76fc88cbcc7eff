"use strict";
// The page: what is asked for, and what goes wrong at its place.
const FIELDS = ["portrait", "audio", "consent"];
const STRENGTHS = ["head", "lips", "eyes"];
let settings;

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

function wish(portrait) {
  const number = (id) => ($(id).value === "" ? null : Number($(id).value));
  return {
    portrait: portrait.id, audio: chosen.audio.id, consent: $("consent").checked, model: $("model").value, evaluations: number("evaluations"),
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

const queue = (portrait) => ask("/api/jobs", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wish(portrait)) });

async function make(event) {
  event.preventDefault();
  quiet(...FIELDS, "form", "option");
  if (!chosen.portrait.length) complain(wrong("portrait", "Choose a picture, or a sample."));
  if (!chosen.audio) complain(wrong("audio", "Choose a recording, or the sample."));
  if (!chosen.portrait.length || !chosen.audio) return;
  $("make").disabled = true;
  try {
    const [first, ...more] = chosen.portrait;
    const { id } = await queue(first);
    for (const portrait of more) await queue(portrait);
    const followed = look(await ask(`/api/jobs/${id}`));
    $("work").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "nearest" });
    showVideos().catch(complain);
    $("make").disabled = false;
    await followed;
  } catch (error) {
    complain(error);
    showVideos().catch(() => {});
  }
  $("make").disabled = false;
}

async function forget() {
  leave();
  try {
    await ask("/api/jobs", { method: "DELETE" });
    await ask("/api/files", { method: "DELETE" });
  } catch (error) { complain(error); return; }
  for (const kind of ["portrait", "audio"]) forgetChosen(kind);
  showChosen();
  for (const kind of ["portrait", "audio"]) $(`${kind}-name`).textContent = "Deleted";
  await showVideos();
}

// ---------------------------------------------------------------------------------------------------- begin

function showSettings() {
  const { models, limits, samples } = settings;
  $("model").append(...models.map((name) => element("option", { value: name, textContent: name, selected: name === "tiny" })));
  $("limits").textContent = `Up to ${limits.max_sound_s} s and ${Math.round(limits.max_upload_bytes / 2 ** 20)} MB.`;
  $("portrait-samples").append(...samples.portrait.map((name, index) => {
    const button = element("button", { type: "button", value: name }, element("img", { src: `/api/samples/${name}`, alt: `Sample ${index + 1}` }));
    button.addEventListener("click", () => useSample("portrait", name));
    return button;
  }));
  for (const name of STRENGTHS) { sayStrength(name); $(name).addEventListener("input", () => sayStrength(name)); }
}

function listen() {
  $("audio-sample").addEventListener("click", () => useSample("audio", settings.samples.audio[0]));
  for (const [id, kind, beside] of [["portrait", "portrait", false], ["portrait-more", "portrait", true], ["audio", "audio", false]]) {
    $(id).addEventListener("change", (event) => { choose(kind, [...event.target.files], beside); event.target.value = ""; });
  }
  takeDrops();
  takeCamera();
  $("record").addEventListener("click", record);
  $("form").addEventListener("submit", make);
  $("cancel").addEventListener("click", () => remove());
  $("delete").addEventListener("click", () => remove());
  $("forget").addEventListener("click", forget);
}

// The newest video that is being made, or else the newest, is looked at again.
async function restoreVideos() {
  const states = await ask("/api/jobs");
  draw(states);
  const newest = states.findLast((state) => !OVER.has(state.state)) ?? states.findLast((state) => state.state === "done");
  showVideos().catch(complain);
  if (newest) await look(newest);
}

async function begin() {
  settings = await ask("/api/settings");
  showSettings();
  listen();
  await restoreChosen();
  showChosen();
  await restoreVideos();
}

begin().catch(complain);
