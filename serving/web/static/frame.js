// A frame that takes one photo (file, drop, paste, camera) and shows what the service sees in it.
import { photograph } from "./camera.js";
import { drawFaces } from "./overlay.js";
import { $, call, element, passing, sentence, speak, words, write } from "./shell.js";
import { isLarge, smaller } from "./shrink.js";
import { lay, layBox, partShown } from "./view.js";

// Problems that are not the photo's, besides those that pass; a comparison or a search says them itself.
const OTHERS = ["forbidden", "unauthorized", "proxy"];
const frames = new Set();
let made = 0;

export class Frame {
  // `title()` returns the name of the frame; `changed` is called when its photo changes or is removed, `seen` when it is known
  // what the service sees in it; `picked`, if given, when another of its faces is chosen; `spill` gets the further files when several are dropped or chosen at once.
  constructor(title, field, { changed, seen = () => {}, picked = null, spill = () => {} }) {
    Object.assign(this, { title, field, changed, seen, picked, spill, pick: null, file: null, url: null, broken: false, detection: null, problem: null });
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

  // What is wrong with the photo, as the code of a problem; null if nothing is, as far as it is known.
  get fault() {
    return this.file ? (this.refusal ?? this.problem)?.code ?? (this.faces ? codeOf(this.faces) : null) : null;
  }

  // Why the photo is of no use for a verdict, as far as the detector can tell.
  get reasons() {
    return this.faces?.find((face) => face.chosen)?.reasons ?? [];
  }

  // The photo's faces; null as long as they are not known.
  get faces() {
    const faces = this.detection?.faces;
    if (faces && this.pick !== null) return faces.map((face, index) => ({ ...face, chosen: index === this.pick }));
    return faces ?? (this.face ? [{ ...this.face, chosen: true }] : null);
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
    this.detection = this.problem = this.face = this.refusal = this.pick = null;
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
    this.problem = problem && !passing(problem.code) && !OTHERS.includes(problem.code) ? problem : null;
    this.draw();
    this.seen();
  }

  // `face` is the face that a comparison used, `problem` its problem with this photo; `judged` is whether the page says elsewhere
  // that the photo is too poor.
  draw(face = this.face, problem = this.refusal, judged = this.judged) {
    Object.assign(this, { face, refusal: problem, judged });
    const said = words(), { element, file, faces, fault, reasons } = this;
    speak(element);
    element.classList.toggle("full", Boolean(file));
    element.classList.toggle("wrong", Boolean(fault));
    element.classList.toggle("poor", !fault && reasons.length > 0);
    write($(".name", element), this.name);
    $(".empty", element).hidden = Boolean(file);
    $(".sheet", element).hidden = !file || this.broken;
    $(".unshown", element).hidden = !file || !this.broken; // a HEIC, which most browsers cannot show but the service can read
    write($(".file", element), this.broken && file ? file.name : "");
    $(".remove", element).hidden = !file;
    this.input.setAttribute("aria-label", file ? said.chooseOther(this.name) : said.chooseFirst(this.name));
    for (const [name, label] of [[".take", said.cameraFor(this.name)], [".remove", said.removeThis(this.name)]])
      Object.assign($(name, element), { ariaLabel: label, title: file ? label : "" });
    const image = $(".preview", element), crop = $(".crop", element);
    image.alt = faces ? said.previewFaces(this.name, faces.length) : this.name;
    if (this.url && image.src !== this.url) image.src = this.url;
    element.classList.toggle("warned", !fault && !judged && reasons.length > 0);
    write($(".note", element), fault === "several_faces" && this.picked ? said.severalPick : fault ? sentence(fault) : faces ? this.note(faces, judged ? [] : reasons) : "");
    this.drawPicks(said);
    drawFaces($(".overlay", element), faces ?? [], this.detection?.size ?? face?.size);
    this.place();
    const chosen = faces?.find((one) => one.chosen);
    crop.hidden = !chosen?.crop;
    if (chosen?.crop) Object.assign(crop, { src: `data:image/png;base64,${chosen.crop}`, alt: said.crop(this.name), title: said.cropTitle });
  }

  // What is to be said of the faces: how many they are, and why the one that counts is of no use for a verdict.
  note(faces, reasons) {
    const said = words(), count = this.detection ? faces.length : this.face.count;
    if (reasons.length) return said.because(said.unfit, reasons.map((reason) => said.reasons[reason] ?? reason));
    return count === 1 ? said.face : this.picked && this.detection ? said.facesPick(count) : said.faces(count);
  }

  // A button over each face that could be compared instead.
  drawPicks(said) {
    const place = $(".picks", this.element), faces = (this.picked && this.detection?.faces) || [];
    const drawn = JSON.stringify([this.url, said.skip, this.pick, faces.map((face) => [face.box, face.chosen])]);
    if (drawn === this.drawnPicks) return;
    this.drawnPicks = drawn;
    const others = this.faces?.map((face, index) => ({ face, index })).filter(({ face }) => faces.length > 1 && !face.chosen) ?? [];
    place.replaceChildren(...others.map(({ face, index }) => {
      const label = said.pickFace(this.name, index + 1, faces.length), button = element("button", { type: "button", "aria-label": label, title: label });
      button.box = face.box;
      button.addEventListener("click", () => {
        this.pick = index;
        this.picked();
        $("button", place)?.focus(); // the one that had the focus is gone
      });
      return button;
    }));
  }

  // Let the photo fill the frame with its faces; before they are known it is shown as a whole.
  place() {
    const { element } = this, image = $(".preview", element), tile = $(".tile", element);
    const size = this.detection?.size ?? this.face?.size ?? [image.naturalWidth, image.naturalHeight];
    if (!this.file || this.broken || !size[0]) return tile.removeAttribute("style");
    const room = Number(getComputedStyle(element).getPropertyValue("--room"));
    const shown = !this.detection && this.face?.count > 1 ? [] : this.faces ?? []; // where the others are is not known yet
    const part = partShown(size, shown, room);
    lay(tile, $(".sheet", element), size, part, room);
    for (const button of element.querySelectorAll(".picks button")) layBox(button, button.box, part ?? [0, 0, ...size]);
  }

  listen() {
    const { element, input } = this, image = $(".preview", element);
    input.addEventListener("change", () => this.take([...input.files]));
    $(".take", element).addEventListener("click", () => photograph(this.name, (file) => this.choose(file)));
    $(".remove", element).addEventListener("click", () => {
      this.choose(null);
      (element.isConnected ? this : [...frames].at(-1)).input.focus(); // the frame itself may have been removed
    });
    image.addEventListener("load", () => this.place());
    image.addEventListener("error", () => {
      if (image.src !== this.url) return; // an earlier photo
      this.broken = true;
      this.draw();
    });
    new ResizeObserver(() => this.place()).observe(element); // its room has another shape on a phone
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

// A pasted image goes to the frame that has the focus, otherwise to the first empty one, otherwise to the last.
document.addEventListener("paste", (event) => {
  const file = event.clipboardData?.files[0];
  const all = [...frames], within = all.find((frame) => frame.element.contains(document.activeElement));
  if (file) (within ?? all.find((frame) => !frame.file) ?? all.at(-1)).choose(file);
});
