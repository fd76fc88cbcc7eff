"use strict";
// Microphone and camera.
let recorder, camera;

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

async function device(wanted, field, name) {
  try {
    return await navigator.mediaDevices.getUserMedia(wanted);
  } catch {
    complain(wrong(field, `The browser gives no ${name}; allow it, or choose a file.`));
    return null;
  }
}

const end = (stream) => stream?.getTracks().forEach((track) => track.stop());

// Shows how long and how loud, until the recording ends.
function watchRecording(stream, begun) {
  const context = new AudioContext(), hearing = context.createAnalyser();
  context.createMediaStreamSource(stream).connect(hearing);
  const samples = new Float32Array(hearing.fftSize), most = settings.limits.max_sound_s;
  const look = () => {
    if (recorder?.stream !== stream) { context.close(); return; }
    hearing.getFloatTimeDomainData(samples);
    const loudness = Math.sqrt(samples.reduce((sum, one) => sum + one * one, 0) / samples.length);
    $("level").value = Math.min(1, Math.max(0, 1 + Math.log10(loudness + 1e-4) / 3)); // -60 dB to 0
    $("clock").textContent = `${clock((performance.now() - begun) / 1000)} of ${clock(most)}`;
    setTimeout(look, 50);
  };
  look();
}

async function record() {
  if (recorder) { recorder.stop(); return; }
  quiet("audio");
  const stream = await device({ audio: true }, "audio", "microphone");
  if (!stream) return;
  const parts = [];
  recorder = new MediaRecorder(stream);
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  recorder.addEventListener("stop", async () => {
    end(stream);
    const kind = recorder.mimeType;
    recorder = null;
    $("recording").hidden = true;
    $("record").textContent = "Record again";
    await choose("audio", [new File(parts, `recording.${kind.includes("mp4") ? "m4a" : "webm"}`, { type: kind })]);
  });
  recorder.start();
  show("");
  $("recording").hidden = false;
  $("audio-name").textContent = "Recording; speak now.";
  $("record").textContent = "Stop";
  watchRecording(stream, performance.now());
  const mine = recorder;
  setTimeout(() => mine.state === "recording" && mine.stop(), settings.limits.max_sound_s * 1000);
}

// ------------------------------------------------------------------------------------------- the camera

function showFinder(taken) {
  $("finder").hidden = $("shoot").hidden = taken;
  $("still").hidden = $("camera-use").hidden = $("camera-again").hidden = !taken;
  $(taken ? "camera-use" : "shoot").focus();
}

async function openCamera() {
  quiet("portrait");
  camera = await device({ video: { width: { ideal: 1280 }, height: { ideal: 720 } } }, "portrait", "camera");
  if (!camera) return;
  $("finder").srcObject = camera;
  $("camera").showModal();
  showFinder(false);
}

function shoot() {
  const finder = $("finder"), still = $("still");
  if (!finder.videoWidth) return; // the camera has not begun yet
  [still.width, still.height] = [finder.videoWidth, finder.videoHeight];
  still.getContext("2d").drawImage(finder, 0, 0);
  showFinder(true);
}

async function useShot() {
  const picture = await new Promise((done) => $("still").toBlob(done, "image/png"));
  $("camera").close();
  await choose("portrait", [new File([picture], "camera.png", { type: "image/png" })]);
}

function takeCamera() {
  $("camera-open").addEventListener("click", openCamera);
  $("shoot").addEventListener("click", shoot);
  $("camera-again").addEventListener("click", () => showFinder(false));
  $("camera-use").addEventListener("click", useShot);
  $("camera-close").addEventListener("click", () => $("camera").close());
  $("camera").addEventListener("close", () => { end(camera); $("finder").srcObject = null; });
}
