// A frame that takes one photo (file, drop, paste, camera) and shows what the service sees in it.
import { photograph } from "./camera.js";
import { drawFaces } from "./overlay.js";
import { $, call, sentence, speak, words, write } from "./shell.js";
import { isLarge, smaller } from "./shrink.js";

const SILENT = ["forbidden", "unauthorized", "rate_limited", "busy", "model_not_ready", "offline", "timeout"];
const frames = new Set();
let made = 0;

export class Frame {
  // `title()` returns the name of the frame; `changed` is called when its photo changes or is removed; `spill` gets the
  // further files when several are dropped or chosen at once.
  constructor(title, field, { changed, spill = () => {} }) {
    Object.assign(this, { title, field, changed, spill, file: null, url: null, broken: false, detection: null, problem: null });
    this.element = $("#frame").content.firstElementChild.cloneNode(true);
    this.element.dataset.field = field;
    this.input = $("input", this.element);
    this.input.id = $("label", this.element).htmlFor = `file${++made}`;
    this.listen();
    frames.add(this);
  }

  get name() {
    return this.title();
  }

  take([file, ...others]) {
    if (file) this.choose(file);
    if (others.length) this.spill(others);
  }

  discard() {
    if (this.url) URL.revokeObjectURL(this.url);
    this.element.remove();
    frames.delete(this);
  }

  choose(file) {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    if (!file || !isLarge(file)) return this.show(file);
    smaller(file).then((made) => { if (turn === this.turn) this.show(made); }); // else another photo was chosen meanwhile
  }

  show(file) {
    if (this.url) URL.revokeObjectURL(this.url);
    this.file = file;
    this.url = file ? URL.createObjectURL(file) : null;
    this.broken = false;
    this.detection = this.problem = null;
    if (!file) this.input.value = "";
    this.changed();
    if (file) this.look(file);
  }

  // Show every face of the photo and the aligned crop. This is optional: without the scope `detect` the photo still works.
  async look(file) {
    const form = new FormData();
    form.append("image", file, "photo");
    const { answer, problem } = await call("/v1/detect?crops=true", { method: "POST", body: form });
    if (this.file !== file) return; // another photo was chosen meanwhile
    this.detection = answer ?? null;
    this.problem = problem && !SILENT.includes(problem.code) ? problem : null;
    this.draw();
  }

  // `face` is the face that a comparison used, `problem` its problem with this photo.
  draw(face = this.face, problem = this.refusal) {
    Object.assign(this, { face, refusal: problem });
    const said = words(), { element, file } = this;
    speak(element);
    const found = this.detection?.faces ?? (face ? [{ ...face, chosen: true }] : null);
    const code = (problem ?? this.problem)?.code ?? (file && found ? codeOf(found) : null);
    element.classList.toggle("full", Boolean(file));
    element.classList.toggle("wrong", Boolean(code));
    write($(".name", element), this.name);
    $(".empty", element).hidden = Boolean(file);
    $(".preview", element).hidden = !file || this.broken;
    $(".unshown", element).hidden = !file || !this.broken; // a HEIC, which most browsers cannot show but the service can read
    write($(".unshown", element), this.broken && file ? file.name : "");
    $(".remove", element).hidden = !file;
    this.input.setAttribute("aria-label", file ? said.chooseOther(this.name) : said.chooseFirst(this.name));
    $(".take", element).setAttribute("aria-label", said.cameraFor(this.name));
    $(".remove", element).setAttribute("aria-label", said.removeThis(this.name));
    const image = $(".preview img", element);
    image.alt = found ? said.previewFaces(this.name, found.length) : this.name;
    if (this.url && image.src !== this.url) image.src = this.url;
    write($(".note", element), code ? sentence(code) : found ? `${note(found, face?.count)} ${poor(found)}`.trim() : "");
    drawFaces($(".overlay", element), found ?? [], this.detection?.size ?? face?.size);
    const crop = found?.find((one) => one.chosen)?.crop;
    $(".crop", element).hidden = !crop;
    if (crop) {
      $(".crop img", element).src = `data:image/png;base64,${crop}`;
      $(".crop img", element).alt = said.crop(this.name);
    }
  }

  listen() {
    const { element, input } = this;
    input.addEventListener("change", () => this.take([...input.files]));
    $(".take", element).addEventListener("click", () => photograph(this.name, (file) => this.choose(file)));
    $(".remove", element).addEventListener("click", () => {
      this.choose(null);
      (element.isConnected ? this : [...frames].at(-1)).input.focus(); // the frame itself may have been removed
    });
    $(".preview img", element).addEventListener("error", (event) => {
      if (event.target.src !== this.url) return; // an earlier photo
      this.broken = true;
      this.draw();
    });
    for (const name of ["dragenter", "dragover"])
      element.addEventListener(name, (event) => { event.preventDefault(); element.classList.add("over"); });
    element.addEventListener("dragleave", () => element.classList.remove("over"));
    element.addEventListener("drop", (event) => {
      event.preventDefault();
      element.classList.remove("over");
      this.take([...event.dataTransfer.files]);
    });
  }
}

const codeOf = (faces) => (faces.length === 0 ? "no_face" : faces.some((face) => face.chosen) ? null : "several_faces");

function note(faces, count = faces.length) {
  return count > 1 ? words().faces(count) : words().face;
}

// Why the face that counts is of no use for a verdict, as far as the detector can tell.
function poor(faces) {
  const reasons = faces.find((face) => face.chosen)?.reasons ?? [];
  return reasons.length ? words().because(words().unfit, reasons.map((reason) => words().reasons[reason] ?? reason)) : "";
}

// A pasted image goes to the frame that has the focus, otherwise to the first empty one, otherwise to the last.
document.addEventListener("paste", (event) => {
  const file = event.clipboardData?.files[0];
  const all = [...frames], within = all.find((frame) => frame.element.contains(document.activeElement));
  if (file) (within ?? all.find((frame) => !frame.file) ?? all.at(-1)).choose(file);
});
