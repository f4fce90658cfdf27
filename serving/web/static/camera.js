// Take a photo with the camera, in a dialog. Nothing is recorded; the camera is released when the dialog closes.
import { $, words } from "./shell.js";

const dialog = $("#camera"), video = $("#camera-video"), take = $("#camera-take"), said = $("#camera-said");
const REASONS = {
  NotAllowedError: "cameraDenied", SecurityError: "cameraDenied",
  NotFoundError: "cameraNone", OverconstrainedError: "cameraNone",
};
let deliver = null, opened = 0;

// `use` gets the File of the photo; `title` names the photo in the dialog.
export async function photograph(title, use) {
  const turn = ++opened;
  deliver = use;
  $("#camera-title").textContent = words().cameraFor(title);
  said.hidden = true;
  video.hidden = false;
  take.disabled = true;
  dialog.showModal();
  try {
    if (!navigator.mediaDevices) throw new DOMException("", "insecure"); // browsers offer it over https only
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: 1280 } } });
    if (turn !== opened || !dialog.open) return release(stream); // cancelled while the browser asked for permission
    video.srcObject = stream;
    await video.play();
    take.disabled = false;
    take.focus();
  } catch (error) {
    if (turn !== opened || !dialog.open) return;
    const reason = error.name === "insecure" ? "cameraInsecure" : REASONS[error.name] ?? "cameraBroken";
    said.textContent = words()[reason];
    said.hidden = false;
    video.hidden = true;
  }
}

function release(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

take.addEventListener("click", () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  const use = deliver;
  dialog.close();
  canvas.toBlob((blob) => use(new File([blob], "camera.jpg", { type: "image/jpeg" })), "image/jpeg", 0.95);
});
dialog.addEventListener("close", () => {
  release(video.srcObject);
  video.srcObject = null;
  deliver = null;
});
