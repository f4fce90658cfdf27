// The list of the enrolled people: search, open a person with their saved faces, erase.
import { $, call, element, passing, shell, words, write } from "./shell.js";

const SHOWN = 25, PAGE = 1000; // people: shown at first and further ones, asked for at once
const sorted = (people) => people.sort((one, other) => one.person.localeCompare(other.person, undefined, { numeric: true }));
const plain = (text) => text.normalize("NFC").toLowerCase();
const where = (person, face) => `/v1/people/${encodeURIComponent(person)}${face ? `/templates/${encodeURIComponent(face)}` : ""}`;

export class People {
  // `say` and `refuse` write the section's message; `changed` is called when somebody was erased.
  constructor({ say, refuse, changed }) {
    Object.assign(this, { say, refuse, changed, people: [], total: 0, next: null, found: null, turn: 0, most: SHOWN, opened: new Map(), failed: false, drawn: "" });
    $("#next").addEventListener("click", () => this.more());
    $("#again").addEventListener("click", () => this.list());
    $("#search").addEventListener("input", () => this.search());
  }

  get wanted() {
    return plain($("#search").value.trim());
  }

  get matching() {
    return this.found ?? this.people.filter((one) => plain(one.person).includes(this.wanted));
  }

  // Read a page of the list, the first or the one after a place in it; returns whether it could be read.
  async list(after = "") {
    const { answer, problem } = await call(`/v1/people?limit=${PAGE}&after=${encodeURIComponent(after)}`);
    this.failed = problem ? passing(problem.code) : false;
    if (problem) return this.refuse("people", problem, "gallery");
    Object.assign(this, { people: after ? [...this.people, ...answer.people] : answer.people, total: answer.total, next: answer.next });
    if (!after) this.opened.clear();
    if (!after && this.wanted) this.search(); // what was found may be no more
    // The service lists people in an order that says nothing of their names.
    if (!this.next) sorted(this.people);
    this.count();
    return true;
  }

  async more() {
    this.most += SHOWN;
    if (this.next && this.most > this.people.length) await this.list(this.next);
    else this.draw();
  }

  count() {
    this.say("people", () => (this.wanted ? words().matching(this.matching.length, this.total) : words().peopleCount(this.total)));
  }

  // Where only a part of the list is here, the service is asked; it opens the sealed names one by one, so a page may be empty.
  async search() {
    const turn = ++this.turn, found = [];
    let after = this.wanted && this.next ? "" : null;
    if (after === null) this.found = null;
    while (after !== null) {
      if (!found.length && !after) await new Promise((resolve) => setTimeout(resolve, 250)); // more letters may follow
      if (turn !== this.turn) return;
      const { answer, problem } = await call(`/v1/people?limit=${PAGE}&search=${encodeURIComponent(this.wanted)}&after=${encodeURIComponent(after)}`);
      if (turn !== this.turn) return;
      if (problem) return this.refuse("people", problem, "gallery");
      found.push(...answer.people);
      this.found = sorted([...found]);
      this.count();
      after = answer.next;
    }
    this.count();
  }

  draw() {
    const shown = this.matching.slice(0, this.most), drawn = JSON.stringify([shell.language, shown, [...this.opened]]);
    $("#searching").hidden = !this.people.length;
    $("#export").hidden = !this.people.length;
    $("#people-lead").hidden = !this.people.length;
    $("#next").hidden = this.matching.length <= this.most && (!this.next || Boolean(this.wanted));
    $("#again").hidden = !this.failed;
    if (drawn === this.drawn) return; // rows that are drawn anew lose the focus
    this.drawn = drawn;
    $("#people").replaceChildren(...shown.map((one) => this.row(one)));
  }

  row(one) {
    const said = words(), row = element("li"), opened = this.opened.get(one.person);
    const head = element("button", { type: "button", class: "open", "aria-expanded": String(Boolean(opened)) });
    head.append(
      element("strong", { dir: "auto" }, one.person),
      ...(one.comparable === 0 ? [element("span", { class: "chip stale" }, said.enrollAgain)] : []), // made by an earlier model
      element("span", { class: "soft" }, `${said.savedFaces(one.templates)} · ${said.since(date(one.created_at))}`),
    );
    head.addEventListener("click", () => this.toggle(one.person));
    row.append(head);
    if (opened) row.append(this.details(one, opened));
    return row;
  }

  details(one, { faces, metadata, problem }) {
    const said = words(), part = element("div", { class: "saved" });
    if (problem) part.append(element("p", { class: "wrong said" }, said.problems[problem.code] ?? said.problems.other));
    const known = element("dl"), rows = element("ol", { class: "rows" });
    for (const [name, text] of Object.entries(metadata ?? {})) known.append(element("dt", {}, name), element("dd", { dir: "auto" }, text));
    if (known.children.length) part.append(known);
    for (const [index, face] of (faces ?? []).entries()) {
      const line = element("li"), name = said.savedFace(index + 1);
      line.append(element("span", {}, name), element("span", { class: "soft" }, date(face.created_at, "short")));
      if (face.model !== shell.model?.digest && shell.model) line.append(element("span", { class: "chip stale" }, said.earlierModel));
      if (faces.length > 1) line.append(this.eraser(said.eraseWhom(`${one.person}, ${name}`), said.eraseFaceQuestion(name, one.person), one, face.template));
      rows.append(line);
    }
    part.append(rows, this.eraser(said.eraseWhom(one.person), said.eraseQuestion(one.person, one.templates), one));
    part.lastChild.textContent = said.erasePerson;
    return part;
  }

  eraser(label, question, one, face) {
    const button = element("button", { type: "button", class: "button erase", "aria-label": label }, words().erase);
    button.addEventListener("click", () => {
      const dialog = $("#confirm");
      write("#confirm-title", question);
      dialog.returnValue = "no"; // Escape keeps the previous value
      dialog.onclose = () => dialog.returnValue === "yes" && this.erase(one, face);
      dialog.showModal();
    });
    return button;
  }

  async toggle(person) {
    const open = !this.opened.delete(person);
    if (open) {
      const { answer, problem } = await call(where(person));
      this.opened.set(person, { faces: answer?.templates, metadata: answer?.metadata, problem });
    }
    this.draw();
    const index = this.matching.findIndex((one) => one.person === person);
    $("#people").children[index]?.firstChild.focus();
  }

  async erase(one, face) {
    const { problem, answer } = await call(where(one.person, face), { method: "DELETE" });
    if (problem) return this.refuse("people", problem, "enroll");
    this.changed();
    await this.list();
    this.say("people", () => (face ? words().erasedFace(one.person) : words().erased(one.person, this.total)) + (answer.cache_cleared ? "" : ` ${words().cacheKept}`));
    $("#people-said").focus(); // the button that had the focus is removed
  }
}

const date = (text, timeStyle) => new Date(text).toLocaleString(shell.language, { dateStyle: "medium", timeStyle });
